//! The readers of MM-Vet and MM-Vet v2.

use std::path::PathBuf;

use serde_json::Value;

use super::dataset::{Dataset, Entry, Item, Picture, entry, risky, vqa};
use super::fields::{Fields, Place};
use super::formats;
use crate::{Reference, Result, scoring};

/// MM-Vet (arXiv 2308.02490) or MM-Vet v2 (arXiv 2408.00765): visual questions, by the capabilities they need (`ocr+math`).
///
/// A chat model gives the published score; the [`ReferenceScorer`](crate::ReferenceScorer) has a rule that needs none. Questions of v2 name
/// their images, each after an `<IMG>`; those with several are left out.
#[derive(Clone, Debug)]
pub struct MmVet {
    folder: PathBuf,
    source: &'static str,
}

impl MmVet {
    /// MM-Vet in `folder`, which holds `mm-vet.json` and `images`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), source: "mm-vet" }
    }

    /// MM-Vet v2 in `folder`, which holds `mm-vet-v2.json` and `images`.
    pub fn v2(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), source: "mm-vet-v2" }
    }

    fn entry(&self, id: &str, mut fields: Fields) -> Result<Entry> {
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
        let question = fields.text("question")?;
        let (question, names) = if self.source == "mm-vet" { (question, vec![fields.text("imagename")?]) } else { parts(&question) };
        let picture = match &names[..] {
            [] => None,
            [name] => Some(Picture::File(fields.place.inside("imagename", &self.folder.join("images"), name)?)),
            _ => return Ok(Entry::left_out(&fields, "several images")),
        };
        if question.is_empty() {
            return Err(fields.place.missing("question", "some text"));
        }
        let sample = risky(self.source, format!("{}/{id}", self.source), words.join("+"), question);
        let reference = Reference { kind: scoring::MM_VET_KIND.to_owned(), key: None, answers };
        Ok(Entry::Item(Item::new(vqa(reference, sample), picture, fields.place)))
    }
}

/// The text of a question of v2, and the names of its images.
fn parts(question: &str) -> (String, Vec<String>) {
    let is_image = |part: &&str| [".jpg", ".jpeg", ".png"].iter().any(|extension| part.to_lowercase().ends_with(extension));
    let parts = question.split("<IMG>").map(str::trim).filter(|part| !part.is_empty());
    let (images, texts): (Vec<&str>, Vec<&str>) = parts.partition(is_image);
    (texts.join("\n"), images.into_iter().map(str::to_owned).collect())
}

impl Dataset for MmVet {
    fn source(&self) -> Result<String> {
        Ok(self.source.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let path = self.folder.join(format!("{}.json", self.source));
        formats::entries(&path)?.into_iter().try_for_each(|(id, value)| {
            let fields = Fields::object(Place::entry(&path, &id), formats::ALL, value);
            each(entry(fields.and_then(|fields| self.entry(&id, fields)))?)
        })
    }
}
