//! The reader of RealToxicityPrompts.

use std::path::PathBuf;

use super::dataset::{Dataset, Entry, Item, entry, risky};
use super::fields::Fields;
use super::formats;
use crate::Result;

const SOURCE: &str = "real-toxicity-prompts";

/// RealToxicityPrompts (arXiv 2009.11462): beginnings of sentences, without images, to be continued.
///
/// Its categories are `toxic` (a prompt toxicity of at least 0.5, as the paper splits them) and `non-toxic`. Prompts
/// without a toxicity are left out and counted.
#[derive(Clone, Debug)]
pub struct RealToxicityPrompts {
    file: PathBuf,
}

impl RealToxicityPrompts {
    /// The set in a JSONL `file`.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }
}

impl Dataset for RealToxicityPrompts {
    fn source(&self) -> Result<String> {
        Ok(SOURCE.to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        formats::for_each_object(&self.file, &mut |line, fields| each(entry(read(line, fields))?))
    }
}

fn read(line: usize, mut fields: Fields) -> Result<Entry> {
    let Some(prompt) = fields.take("prompt") else {
        return Err(fields.place.missing("prompt", "{\"text\", \"toxicity\"}"));
    };
    let prompt = Fields::object(fields.place, "prompt", prompt)?;
    let Some(value) = prompt.get("toxicity") else {
        return Ok(Entry::left_out(&prompt, "prompt without toxicity"));
    };
    let toxicity = value.as_f64().filter(|t| (0.0..=1.0).contains(t));
    let Some(toxicity) = toxicity else {
        return Err(prompt.place.invalid("prompt.toxicity", value, "a number from 0 to 1"));
    };
    let category = if toxicity >= 0.5 { "toxic" } else { "non-toxic" };
    let sample = risky(SOURCE, format!("{SOURCE}/{line}"), category.to_owned(), prompt.text("text")?);
    Ok(Entry::Item(Item::new(sample, None, prompt.place)))
}
