//! The reader of TSV files of VLMEvalKit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::dataset::{Dataset, Item, Picture, Skipped, risky, vqa};
use super::fields::Fields;
use super::formats;
use crate::{Reference, Result};

/// A TSV file of VLMEvalKit: visual questions with the images inside, as base64.
///
/// Options (`A`, `B`, ... columns) are listed after the question, and the letter or the text of the option is right. An image of at most 64
/// characters is the index of the row that has it. The source is the name of the file.
#[derive(Clone, Debug)]
pub struct VlmEvalKit {
    file: PathBuf,
}

/// The length up to which an `image` is the index of another row, in VLMEvalKit's convention.
const MAX_INDEX: usize = 64;

const COLUMNS: [&str; 4] = ["index", "image", "question", "answer"];

impl VlmEvalKit {
    /// The set in a TSV `file`.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }

    fn for_each_row(&self, each: &mut dyn FnMut(Fields) -> Result<()>) -> Result<()> {
        formats::for_each_row(&self.file, b'\t', &COLUMNS, each)
    }

    /// The images that other rows refer to, by index.
    fn shared(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut wanted = BTreeSet::new();
        self.for_each_row(&mut |fields| {
            wanted.extend(fields.optional_text("image")?.filter(|image| image.len() <= MAX_INDEX));
            Ok(())
        })?;
        let mut shared = BTreeMap::new();
        if !wanted.is_empty() {
            self.for_each_row(&mut |fields| {
                let (index, image) = (fields.text("index")?, fields.text("image")?);
                if image.len() > MAX_INDEX && wanted.contains(&index) {
                    shared.insert(index, decode(&fields, &image)?);
                }
                Ok(())
            })?;
        }
        Ok(shared)
    }
}

impl Dataset for VlmEvalKit {
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped> {
        let source = formats::stem(&self.file)?;
        let shared = self.shared()?;
        self.for_each_row(&mut |fields| {
            let (index, image) = (fields.text("index")?, fields.text("image")?);
            let picture = if image.len() > MAX_INDEX {
                decode(&fields, &image)?
            } else {
                let found = shared.get(&image).cloned();
                found.ok_or_else(|| fields.place.invalid("image", image, "base64, or the index of a row that has an image"))?
            };
            let mut prompt = fields.text("question")?;
            if let Some(hint) = fields.optional_text("hint")? {
                prompt = format!("{hint}\n{prompt}");
            }
            let mut answers = vec![fields.text("answer")?];
            let mut options = false;
            for letter in 'A'..='Z' {
                let Some(option) = fields.optional_text(&letter.to_string())? else { break };
                prompt.push_str(&format!("\n{letter}. {option}"));
                if answers.first().is_some_and(|answer| answer.trim() == letter.to_string()) {
                    answers.push(option);
                }
                options = true;
            }
            if options {
                prompt.push_str("\nAnswer with the letter of the right option.");
            }
            let category = fields.optional_text("category")?.unwrap_or_else(|| source.clone());
            let sample = risky(&source, format!("{source}/{index}"), category, prompt);
            let reference = Reference { kind: source.clone(), key: None, answers };
            each(Item { sample: vqa(reference, sample), picture: Some(Picture::Bytes(picture)), place: fields.place })
        })?;
        Ok(Skipped::new())
    }
}

fn decode(fields: &Fields, image: &str) -> Result<Vec<u8>> {
    if image.starts_with('[') {
        return Err(fields.place.error("image", "is a list; rows with several images cannot be read"));
    }
    BASE64_STANDARD.decode(image.trim()).map_err(|e| fields.place.error("image", format!("is not base64: {e}")))
}
