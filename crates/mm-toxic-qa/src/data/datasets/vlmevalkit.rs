//! The reader of TSV files of VLMEvalKit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::dataset::{Dataset, Entry, Item, Picture, entry, risky, vqa};
use super::fields::Fields;
use super::formats;
use crate::{Reference, Result};

/// A TSV file of VLMEvalKit: visual questions with the images inside, as base64.
///
/// Options (`A`, `B`, ... columns) are listed after the question, and the letter or the text of the option is right. An image of at most 64
/// characters is the index of the row that has it. The source is the name of the file. Rows with several images, or without an answer, are left
/// out.
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

    /// The images that other rows refer to, by index.
    fn shared(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut wanted = BTreeSet::new();
        formats::for_each_row(&self.file, b'\t', &COLUMNS, &mut |fields| {
            let image = fields.and_then(|fields| fields.optional_text("image"));
            wanted.extend(image.ok().flatten().filter(|image| image.len() <= MAX_INDEX));
            Ok(())
        })?;
        let mut shared = BTreeMap::new();
        if !wanted.is_empty() {
            formats::for_each_row(&self.file, b'\t', &COLUMNS, &mut |fields| {
                // A row that cannot be read is an error of its own where it is an entry.
                if let Ok(fields) = fields
                    && let (Ok(index), Ok(image)) = (fields.text("index"), fields.text("image"))
                    && image.len() > MAX_INDEX
                    && wanted.contains(&index)
                    && let Ok(image) = decode(&fields, &image)
                {
                    shared.insert(index, image);
                }
                Ok(())
            })?;
        }
        Ok(shared)
    }

    fn entry(&self, source: &str, shared: &BTreeMap<String, Vec<u8>>, fields: &Fields) -> Result<Entry> {
        let (index, image) = (fields.text("index")?, fields.text("image")?);
        if image.trim_start().starts_with('[') {
            return Ok(Entry::left_out(fields, "several images"));
        }
        let Some(answer) = fields.optional_text("answer")? else {
            return Ok(Entry::left_out(fields, "no answer"));
        };
        let picture = if image.len() > MAX_INDEX {
            decode(fields, &image)?
        } else {
            let found = shared.get(&image).cloned();
            found.ok_or_else(|| fields.place.invalid("image", image, "base64, or the index of a row that has an image"))?
        };
        let mut prompt = fields.text("question")?;
        if let Some(hint) = fields.optional_text("hint")? {
            prompt = format!("{hint}\n{prompt}");
        }
        let mut answers = vec![answer];
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
        let category = fields.optional_text("category")?.unwrap_or_else(|| source.to_owned());
        let sample = risky(source, format!("{source}/{index}"), category, prompt);
        let reference = Reference { kind: source.to_owned(), key: None, answers };
        Ok(Entry::Item(Item::new(vqa(reference, sample), Some(Picture::Bytes(picture)), fields.place.clone())))
    }
}

impl Dataset for VlmEvalKit {
    fn source(&self) -> Result<String> {
        formats::stem(&self.file)
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let (source, shared) = (self.source()?, self.shared()?);
        formats::for_each_row(&self.file, b'\t', &COLUMNS, &mut |fields| {
            each(entry(fields.and_then(|fields| self.entry(&source, &shared, &fields)))?)
        })
    }
}

fn decode(fields: &Fields, image: &str) -> Result<Vec<u8>> {
    BASE64_STANDARD.decode(image.trim()).map_err(|e| fields.place.error("image", format!("is not base64: {e}")))
}
