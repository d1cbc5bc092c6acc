//! The reader of VLGuard.

use std::path::PathBuf;
use std::str::FromStr;

use serde_json::Value;

use super::dataset::{Dataset, Entry, Item, Picture, entry, risky};
use super::fields::{Fields, Place};
use super::formats;
use crate::{Result, Sample, Split, Task};

const SOURCE: &str = "vlguard";

/// The parts of VLGuard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VlGuardSubset {
    /// Harmful images with an instruction; the category is the image's.
    Unsafes,
    /// Harmless images with a harmful instruction. The set has no category for them.
    SafeUnsafes,
    /// Harmless images with a harmless instruction: utility samples for perplexity, on the published responses.
    SafeSafes,
}

impl VlGuardSubset {
    /// The published name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsafes => "unsafes",
            Self::SafeUnsafes => "safe_unsafes",
            Self::SafeSafes => "safe_safes",
        }
    }

    fn instruction(self) -> &'static str {
        match self {
            Self::Unsafes => "instruction",
            Self::SafeUnsafes => "unsafe_instruction",
            Self::SafeSafes => "safe_instruction",
        }
    }
}

impl FromStr for VlGuardSubset {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        [Self::Unsafes, Self::SafeUnsafes, Self::SafeSafes]
            .into_iter()
            .find(|subset| subset.name() == name)
            .ok_or_else(|| format!("`{name}` is no part of VLGuard; expected unsafes, safe_unsafes or safe_safes"))
    }
}

/// VLGuard (arXiv 2402.02207), one of its parts. Harmless instructions without a response are left out.
#[derive(Clone, Debug)]
pub struct VlGuard {
    file: PathBuf,
    images: PathBuf,
    subset: VlGuardSubset,
}

impl VlGuard {
    /// The set in a JSON `file` (`train.json` or `test.json`), whose images lie in the folder `images`.
    pub fn new(file: impl Into<PathBuf>, images: impl Into<PathBuf>, subset: VlGuardSubset) -> Self {
        Self { file: file.into(), images: images.into(), subset }
    }

    /// The instruction of this part in an entry, with its response.
    fn turn(&self, fields: &mut Fields) -> Result<Fields> {
        const FIELD: &str = "instr-resp";
        let wanted = self.subset.instruction();
        let Some(value) = fields.take(FIELD) else {
            return Err(fields.place.missing(FIELD, "an array of instructions with responses"));
        };
        let Value::Array(turns) = value else {
            return Err(fields.place.invalid(FIELD, value, "an array of instructions with responses"));
        };
        for turn in turns {
            let turn = Fields::object(fields.place.clone(), FIELD, turn)?;
            if turn.get(wanted).is_some() {
                return Ok(turn);
            }
        }
        Err(fields.place.missing(&format!("{FIELD}.{wanted}"), "the instruction"))
    }
}

impl VlGuard {
    fn entry(&self, mut fields: Fields) -> Result<Entry> {
        if fields.truth("safe")? == (self.subset == VlGuardSubset::Unsafes) {
            return Ok(Entry::left_out(&fields, "of another part"));
        }
        let turn = self.turn(&mut fields)?;
        let (subset, id) = (self.subset.name(), fields.name("id")?);
        let category = match self.subset {
            VlGuardSubset::Unsafes => fields.text("harmful_category")?,
            VlGuardSubset::SafeUnsafes | VlGuardSubset::SafeSafes => subset.to_owned(),
        };
        let id = format!("{SOURCE}/{}/{subset}/{id}", formats::stem(&self.file)?);
        let mut sample = risky(SOURCE, id, category, turn.text(self.subset.instruction())?);
        match self.subset {
            VlGuardSubset::Unsafes => sample.subcategory = fields.optional_text("harmful_subcategory")?,
            VlGuardSubset::SafeUnsafes => {}
            VlGuardSubset::SafeSafes => {
                let Some(response) = turn.optional_text("response")? else {
                    return Ok(Entry::left_out(&fields, "empty response"));
                };
                sample = Sample { split: Split::Utility, task: Some(Task::Perplexity), response: Some(response), ..sample };
            }
        }
        let picture = Picture::File(fields.place.inside("image", &self.images, &fields.text("image")?)?);
        Ok(Entry::Item(Item::new(sample, Some(picture), fields.place)))
    }
}

impl Dataset for VlGuard {
    fn source(&self) -> Result<String> {
        Ok(SOURCE.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        formats::list(&self.file)?.into_iter().enumerate().try_for_each(|(i, value)| {
            let fields = Fields::object(Place::entry(&self.file, i), formats::ALL, value);
            each(entry(fields.and_then(|fields| self.entry(fields)))?)
        })
    }
}
