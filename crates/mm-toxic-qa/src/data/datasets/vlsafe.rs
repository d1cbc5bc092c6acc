//! The reader of VLSafe.

use std::path::PathBuf;

use super::dataset::{Dataset, Item, Picture, Skipped, risky};
use super::formats;
use crate::Result;

const SOURCE: &str = "vlsafe";

/// VLSafe (arXiv 2312.07533): harmful questions about harmless COCO images. It has no categories.
#[derive(Clone, Debug)]
pub struct VlSafe {
    file: PathBuf,
    images: PathBuf,
}

impl VlSafe {
    /// The set in a JSONL `file`, with the images that `image_id` names in the folder `images`.
    pub fn new(file: impl Into<PathBuf>, images: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), images: images.into() }
    }
}

impl Dataset for VlSafe {
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped> {
        formats::for_each_object(&self.file, &mut |line, fields| {
            let picture = Picture::File(fields.place.inside("image_id", &self.images, &fields.text("image_id")?)?);
            let sample = risky(SOURCE, format!("{SOURCE}/{}/{line}", formats::stem(&self.file)?), SOURCE.to_owned(), fields.text("query")?);
            each(Item { sample, picture: Some(picture), place: fields.place })
        })?;
        Ok(Skipped::new())
    }
}
