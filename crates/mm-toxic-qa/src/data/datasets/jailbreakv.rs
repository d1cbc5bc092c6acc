//! The reader of JailBreakV-28K.

use std::path::PathBuf;

use super::dataset::{Dataset, Item, Picture, Skipped, attacked, risky};
use super::formats;
use crate::Result;

const SOURCE: &str = "jailbreakv-28k";

/// JailBreakV-28K (arXiv 2404.03027): jailbreak prompts with images, by policy; the attack is the `format`.
#[derive(Clone, Debug)]
pub struct JailBreakV {
    folder: PathBuf,
    mini: bool,
}

impl JailBreakV {
    /// The set in `folder`, which holds `JailBreakV_28K.csv` and the images at their `image_path`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), mini: false }
    }

    /// Only the rows that `selected_mini` marks.
    #[must_use]
    pub fn mini(self) -> Self {
        Self { mini: true, ..self }
    }
}

impl Dataset for JailBreakV {
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped> {
        let columns = ["jailbreak_query", "format", "policy", "image_path", "selected_mini"];
        let path = self.folder.join("JailBreakV_28K.csv");
        let mut skipped = Skipped::new();
        let mut row = 0_usize;
        formats::for_each_row(&path, b',', &columns, &mut |fields| {
            row += 1;
            if self.mini && !fields.truth("selected_mini")? {
                *skipped.entry("not in the mini version").or_default() += 1;
                return Ok(());
            }
            let sample = risky(SOURCE, format!("{SOURCE}/{row}"), fields.text("policy")?, fields.text("jailbreak_query")?);
            let sample = attacked(&fields.text("format")?, sample);
            let picture = match fields.optional_text("image_path")? {
                None => None,
                Some(name) => Some(Picture::File(fields.place.inside("image_path", &self.folder, &name)?)),
            };
            each(Item { sample, picture, place: fields.place })
        })?;
        Ok(skipped)
    }
}
