//! The reader of MM-Vet.

use std::path::PathBuf;

use serde_json::Value;

use super::dataset::{Dataset, Item, Picture, Skipped, risky, vqa};
use super::fields::Fields;
use super::fields::Place;
use super::formats;
use crate::{Reference, Result, scoring};

const SOURCE: &str = "mm-vet";

/// MM-Vet (arXiv 2308.02490): visual questions, by the capabilities they need (`ocr+math`).
///
/// A chat model gives the published score; the [`ReferenceScorer`](crate::ReferenceScorer) has a rule that needs none.
#[derive(Clone, Debug)]
pub struct MmVet {
    folder: PathBuf,
}

impl MmVet {
    /// The set in `folder`, which holds `mm-vet.json` and `images`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl Dataset for MmVet {
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped> {
        let path = self.folder.join("mm-vet.json");
        for (id, value) in formats::entries(&path)? {
            let mut fields = Fields::object(Place::entry(&path, &id), "(all of it)", value)?;
            let answers = scoring::mm_vet_answers(&fields.text("answer")?);
            if answers.is_empty() {
                return Err(fields.place.invalid("answer", "without words", "alternatives with <OR>, of parts with <AND>"));
            }
            let expected = "an array of words";
            let Some(Value::Array(capabilities)) = fields.take("capability") else {
                return Err(fields.place.missing("capability", expected));
            };
            let mut words = Vec::new();
            for capability in &capabilities {
                words.push(capability.as_str().ok_or_else(|| fields.place.invalid("capability", capability, expected))?);
            }
            if words.iter().all(|word| word.trim().is_empty()) {
                return Err(fields.place.missing("capability", expected));
            }
            words.sort_unstable();
            let picture = Picture::File(fields.place.inside("imagename", &self.folder.join("images"), &fields.text("imagename")?)?);
            let sample = risky(SOURCE, format!("{SOURCE}/{id}"), words.join("+"), fields.text("question")?);
            let reference = Reference { kind: scoring::MM_VET_KIND.to_owned(), key: None, answers };
            each(Item { sample: vqa(reference, sample), picture: Some(picture), place: fields.place })?;
        }
        Ok(Skipped::new())
    }
}
