//! The reader of MM-HarmfulBench.

use std::path::PathBuf;

use super::dataset::{Dataset, Item, Picture, Skipped, risky};
use super::formats;
use crate::Result;

const SOURCE: &str = "mm-harmfulbench";

/// MM-HarmfulBench: 100 harmful questions that need their image. It has no categories.
#[derive(Clone, Debug)]
pub struct MmHarmfulBench {
    file: PathBuf,
    images: PathBuf,
}

impl MmHarmfulBench {
    /// The set in a JSONL `file`. Its images are in the folder `images` under the last part of their `image_url`; nothing is downloaded.
    pub fn new(file: impl Into<PathBuf>, images: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), images: images.into() }
    }
}

impl Dataset for MmHarmfulBench {
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped> {
        formats::for_each_object(&self.file, &mut |line, fields| {
            let url = fields.text("image_url")?;
            let name = url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            let picture = Picture::File(fields.place.inside("image_url", &self.images, name)?);
            let sample = risky(SOURCE, format!("{SOURCE}/{line}"), SOURCE.to_owned(), fields.text("question")?);
            each(Item { sample, picture: Some(picture), place: fields.place })
        })?;
        Ok(Skipped::new())
    }
}
