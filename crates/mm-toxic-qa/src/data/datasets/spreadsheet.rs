//! The reader of labelled answers in a spreadsheet.

use std::io::Cursor;
use std::path::PathBuf;

use calamine::{Data, Reader, Xlsx};
use serde_json::{Map, Value};

use super::dataset::{Dataset, Item, Picture, Skipped, labelled, risky};
use super::fields::Fields;
use super::fields::Place;
use super::formats;
use crate::{Error, Result};

/// Labelled answers in the first sheet of an `.xlsx` file: columns `name`, `prompt`, `output` and `label` (1 toxic, 0 non-toxic).
///
/// The source is the name of the file, and so is the category without a column `category`.
#[derive(Clone, Debug)]
pub struct Spreadsheet {
    file: PathBuf,
    images: Option<PathBuf>,
}

impl Spreadsheet {
    /// The answers in `file`, without images: `name` is any name.
    pub fn text(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), images: None }
    }

    /// The answers in `file`, whose `name` is an image in the folder `images`.
    pub fn with_images(file: impl Into<PathBuf>, images: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), images: Some(images.into()) }
    }
}

impl Dataset for Spreadsheet {
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped> {
        let path = &self.file;
        let source = formats::stem(path)?;
        let broken = |reason: String| Error::DatasetFile { path: path.clone(), reason };
        let bytes = formats::bytes(path, formats::MAX_DOCUMENT)?;
        let mut book = Xlsx::new(Cursor::new(bytes)).map_err(|e| broken(format!("cannot be read as xlsx: {e}")))?;
        let sheet = book.worksheet_range_at(0).ok_or_else(|| broken("it has no sheet".to_owned()))?;
        let sheet = sheet.map_err(|e| broken(format!("its first sheet cannot be read: {e}")))?;
        // Rows are numbered as in the spreadsheet, with empty rows above the header.
        let above = sheet.start().map_or(0, |(row, _)| u64::from(row));
        let mut rows = (above + 1..).zip(sheet.rows());
        let (_, header) = rows.next().ok_or_else(|| broken("its first sheet is empty".to_owned()))?;
        let header: Vec<String> = header.iter().map(|cell| cell.to_string().trim().to_lowercase()).collect();
        formats::check_columns(path, &["name", "prompt", "output", "label"], &header)?;
        for (number, row) in rows {
            if row.iter().all(|cell| matches!(cell, Data::Empty)) {
                continue;
            }
            let place = Place::row(path, number);
            let cells = header.iter().cloned().zip(row.iter().map(cell_text));
            let fields = Fields::new(place, cells.collect::<Map<_, _>>());
            let toxic = match fields.text("label")?.as_str() {
                "0" => false,
                "1" => true,
                other => return Err(fields.place.invalid("label", other, "1 (toxic) or 0 (non-toxic)")),
            };
            let name = fields.text("name")?;
            let picture = match &self.images {
                None => None,
                Some(folder) => Some(Picture::File(fields.place.inside("name", folder, &name)?)),
            };
            let category = fields.optional_text("category")?.unwrap_or_else(|| source.clone());
            let sample = risky(&source, format!("{source}/{number}"), category, fields.text("prompt")?);
            let sample = labelled(fields.text("output")?, toxic, sample);
            each(Item { sample, picture, place: fields.place })?;
        }
        Ok(Skipped::new())
    }
}

/// A cell as text: whole numbers without a fraction, however the file stores them.
fn cell_text(cell: &Data) -> Value {
    Value::String(cell.to_string())
}
