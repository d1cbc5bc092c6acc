//! The reader of FigStep's SafeBench.

use std::path::PathBuf;

use super::dataset::{Dataset, Entry, Item, Picture, attacked, entry, risky};
use super::fields::Fields;
use super::formats;
use crate::attacks::{FIGSTEP_PROMPT, figstep_png};
use crate::{Result, Sample};

const SOURCE: &str = "figstep";

/// FigStep's SafeBench (arXiv 2311.05608): instructions as text in an image, with one harmless prompt for all.
#[derive(Clone, Debug)]
pub struct FigStep {
    table: PathBuf,
    images: Option<PathBuf>,
}

impl FigStep {
    /// The set whose table is the file `safebench.csv`. The images are drawn as the [attack](crate::attacks::FigStepAttack) draws them;
    /// they differ from the published ones in the font.
    pub fn drawn(table: impl Into<PathBuf>) -> Self {
        Self { table: table.into(), images: None }
    }

    /// The set with its published images: `query_<dataset>_<category_id>_<task_id>_6.png` in the folder `images`.
    pub fn published(table: impl Into<PathBuf>, images: impl Into<PathBuf>) -> Self {
        Self { table: table.into(), images: Some(images.into()) }
    }
}

impl FigStep {
    fn entry(&self, fields: &Fields) -> Result<Entry> {
        let [dataset, category, task] = ["dataset", "category_id", "task_id"].map(|field| fields.text(field));
        let name = format!("{}_{}_{}", dataset?, category?, task?);
        let instruction = fields.text("instruction")?;
        let picture = match &self.images {
            Some(folder) => Picture::File(fields.place.inside("dataset", folder, &format!("query_{name}_6.png"))?),
            None => Picture::Bytes(figstep_png(&instruction).map_err(|e| fields.place.error("instruction", e))?),
        };
        let sample = risky(SOURCE, format!("{SOURCE}/{name}"), fields.text("category_name")?, FIGSTEP_PROMPT.to_owned());
        let sample = Sample { request: Some(instruction), ..attacked("figstep", sample) };
        Ok(Entry::Item(Item::new(sample, Some(picture), fields.place.clone())))
    }
}

impl Dataset for FigStep {
    fn source(&self) -> Result<String> {
        Ok(SOURCE.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let columns = ["dataset", "category_id", "task_id", "category_name", "instruction"];
        formats::for_each_row(&self.table, b',', &columns, &mut |fields| each(entry(fields.and_then(|fields| self.entry(&fields)))?))
    }
}
