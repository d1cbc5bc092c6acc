//! The reader of BeaverTails-V.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::dataset::{Dataset, Item, Picture, Skipped, labelled, risky};
use super::fields::Fields;
use super::fields::Place;
use super::formats;
use crate::{Error, Result, Sample};

const SOURCE: &str = "beavertails-v";

/// BeaverTails-V (arXiv 2503.17682): questions with images by kind of harm, answers with verdicts.
#[derive(Clone, Debug)]
pub struct BeaverTailsV {
    folder: PathBuf,
    answers: bool,
}

impl BeaverTailsV {
    /// The questions in the `*.parquet` files of `folder` and its subfolders. A question occurs once for every answer to it; the builder
    /// drops duplicates.
    pub fn questions(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), answers: false }
    }

    /// The questions with their answers, as labelled calibration samples: `is_response_safe` "no" is toxic.
    pub fn answers(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), answers: true }
    }

    fn item(&self, file: &str, number: usize, fields: &Fields, image: Option<Vec<u8>>) -> Result<Item> {
        let id = format!("{SOURCE}/{file}/{number}");
        let mut sample: Sample = risky(SOURCE, id, fields.text("category")?, fields.text("question")?);
        if self.answers {
            let toxic = match fields.text("is_response_safe")?.as_str() {
                "yes" => false,
                "no" => true,
                other => return Err(fields.place.invalid("is_response_safe", other, "yes or no")),
            };
            sample = labelled(fields.text("response")?, toxic, sample);
            sample.id.push_str("/answer");
        }
        let image = image.filter(|bytes| !bytes.is_empty()).ok_or_else(|| fields.place.missing("image.bytes", "a PNG or JPEG file"))?;
        Ok(Item { sample, picture: Some(Picture::Bytes(image)), place: fields.place.clone() })
    }
}

impl Dataset for BeaverTailsV {
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped> {
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
            formats::check_columns(&path, &["question", "image", "category", "response", "is_response_safe"], &columns)?;
            for number in 1.. {
                let Some(row) = caught(&path, || rows.next().transpose())? else { break };
                let (fields, image) = split(Place::row(&path, number), row)?;
                each(self.item(&file, number, &fields, image)?)?;
            }
        }
        Ok(Skipped::new())
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
