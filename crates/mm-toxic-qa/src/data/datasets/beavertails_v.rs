//! The reader of BeaverTails-V.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::dataset::{Dataset, Entry, Item, Part, Picture, entry, labelled, risky};
use super::fields::{Fields, Place};
use super::formats;
use crate::{Error, Result, Sample};

const SOURCE: &str = "beavertails-v";

/// BeaverTails-V (arXiv 2503.17682): questions with images by kind of harm, answers with verdicts.
///
/// It is published with one answer a row (`response`, `is_response_safe`) and with two (`response_1`, `is_response_1_safe` and so on), by
/// category in files `train.parquet` and `evaluation.parquet`, which become the [`Part`] of their rows.
#[derive(Clone, Debug)]
pub struct BeaverTailsV {
    folder: PathBuf,
    answers: bool,
}

/// The columns of an answer and its verdict, and the last part of its id.
type AnswerColumns = [&'static str; 3];

const SINGLE: &[AnswerColumns] = &[["response", "is_response_safe", "answer"]];
const PAIR: &[AnswerColumns] = &[["response_1", "is_response_1_safe", "answer_1"], ["response_2", "is_response_2_safe", "answer_2"]];

impl BeaverTailsV {
    /// The questions in the `*.parquet` files of `folder` and its subfolders. A question occurs once for every row of answers to it; the
    /// builder drops duplicates.
    pub fn questions(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), answers: false }
    }

    /// The questions with their answers, as labelled calibration samples: the verdict "no" (not safe) is toxic.
    pub fn answers(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), answers: true }
    }

    /// The items of a row: the question, or each of its answers.
    fn items_of(&self, id: String, fields: &Fields, image: Option<Vec<u8>>, part: Option<Part>) -> Result<Vec<Item>> {
        let question: Sample = risky(SOURCE, id, fields.text("category")?, fields.text("question")?);
        let image = image.filter(|bytes| !bytes.is_empty()).ok_or_else(|| fields.place.missing("image.bytes", "a PNG or JPEG file"))?;
        let item = |sample| Item { part, ..Item::new(sample, Some(Picture::Bytes(image.clone())), fields.place.clone()) };
        if !self.answers {
            return Ok(vec![item(question)]);
        }
        let columns = if fields.get("response_1").is_some() { PAIR } else { SINGLE };
        let answer = |[response, verdict, name]: &AnswerColumns| {
            let toxic = match fields.text(verdict)?.as_str() {
                "yes" => false,
                "no" => true,
                other => return Err(fields.place.invalid(verdict, other, "yes or no")),
            };
            let sample = labelled(fields.text(response)?, toxic, question.clone());
            Ok(item(Sample { id: format!("{}/{name}", sample.id), ..sample }))
        };
        columns.iter().map(answer).collect()
    }
}

/// The split that a file is of, by its name or that of a folder that it lies in: `train.parquet`, `evaluation/0000.parquet`.
fn part_of(file: &str) -> Option<Part> {
    file.rsplit('/').find_map(|name| match name.split(['-', '_', '.']).next()? {
        "train" => Some(Part::Train),
        "evaluation" | "eval" | "test" | "validation" => Some(Part::Evaluation),
        _ => None,
    })
}

impl Dataset for BeaverTailsV {
    fn source(&self) -> Result<String> {
        Ok(SOURCE.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        for path in formats::with_extension(&self.folder, "parquet", true)? {
            let inside = path.strip_prefix(&self.folder).unwrap_or(&path).with_extension("");
            let file = inside.to_str().ok_or_else(|| broken(&path, "its name is not UTF-8 text; rename it"))?.replace('\\', "/");
            let opened = formats::open(&path)?;
            let (columns, mut rows) = caught(&path, || {
                let reader = SerializedFileReader::new(opened)?;
                let schema = reader.metadata().file_metadata().schema();
                let columns: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
                Ok((columns, reader.into_iter()))
            })?;
            let answers = if columns.iter().any(|column| column == "response_1") { PAIR } else { SINGLE };
            let answers = answers.iter().flat_map(|[response, verdict, _]| [*response, *verdict]).filter(|_| self.answers);
            formats::check_columns(&path, &["question", "image", "category"].into_iter().chain(answers).collect::<Vec<_>>(), &columns)?;
            for number in 1.. {
                let Some(row) = caught(&path, || rows.next().transpose())? else { break };
                let items = split(Place::row(&path, number), row)
                    .and_then(|(fields, image)| self.items_of(format!("{SOURCE}/{file}/{number}"), &fields, image, part_of(&file)));
                match items {
                    Ok(items) => items.into_iter().try_for_each(|item| each(Entry::Item(item)))?,
                    Err(error) => each(entry(Err(error))?)?,
                }
            }
        }
        Ok(())
    }
}

/// The result of `decode`, or an error where it fails or panics: the Parquet decoder trusts the counts and sizes in a file, and some broken
/// files make it panic. None of its state is used after a panic.
fn caught<T>(path: &Path, decode: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(|e| broken(path, e)),
        Err(_) => Err(broken(path, "the decoder panicked; the file is broken, get it again")),
    }
}

fn broken(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::DatasetFile { path: path.to_owned(), reason: format!("cannot be read as Parquet: {reason}") }
}

/// The texts of a row, and the bytes of its image.
fn split(place: Place, row: Row) -> Result<(Fields, Option<Vec<u8>>)> {
    let mut map = Map::new();
    let mut image = None;
    for (name, field) in row.into_columns() {
        match (name.as_str(), field) {
            ("image", Field::Group(group)) => {
                for (name, field) in group.into_columns() {
                    if let ("bytes", Field::Bytes(bytes)) = (name.as_str(), field) {
                        image = Some(bytes.data().to_vec());
                    }
                }
            }
            ("image", Field::Null) => {}
            ("image", other) => return Err(place.invalid("image", other, "a group of bytes and path")),
            (_, Field::Str(text)) => {
                map.insert(name, Value::String(text));
            }
            (_, Field::Null) => {}
            (_, other) => {
                map.insert(name, Value::String(other.to_string()));
            }
        }
    }
    Ok((Fields::new(place, map), image))
}
