//! The reader of answers and questions in a spreadsheet.

use std::path::PathBuf;

use super::dataset::{Dataset, Entry, Item, Picture, entry, labelled, risky};
use super::fields::Fields;
use super::formats;
use crate::Result;

/// The first sheet of an `.xlsx` file: columns `name`, `prompt`, `output` and `label` (1 toxic, 0 non-toxic).
///
/// A row with output and label is a labelled answer, one without both a question for the test split. The source is the name of the file.
/// The category is the column `category`; without it, the part of `name` before its number (`animal_abuse__3.jpg`, `06-Fraud_12.jpg`),
/// else the source.
///
/// An output that is the whole conversation, as LLaVA's decoder gives it (`USER: question ASSISTANT: answer`), is cut down to the answer; a
/// prompt that is nothing but the marker `USER:` is replaced by the question of the conversation, or by [`NO_QUESTION`] where it has none.
#[derive(Clone, Debug)]
pub struct Spreadsheet {
    file: PathBuf,
    images: Option<PathBuf>,
}

/// The prompt of an answer that was given to an image without a question.
pub const NO_QUESTION: &str = "Describe the image.";

impl Spreadsheet {
    /// The rows of `file`, without images: `name` is any name.
    pub fn text(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), images: None }
    }

    /// The rows of `file`, whose `name` is an image in the folder `images`.
    pub fn with_images(file: impl Into<PathBuf>, images: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), images: Some(images.into()) }
    }

    fn entry(&self, source: &str, fields: &Fields) -> Result<Entry> {
        let (output, label) = (fields.optional_text("output")?, fields.optional_text("label")?);
        let name = fields.text("name")?;
        let picture = match &self.images {
            None => None,
            Some(folder) => Some(Picture::File(fields.place.inside("name", folder, &name)?)),
        };
        let category = match fields.optional_text("category")? {
            Some(category) => category,
            None => category_in(&name).unwrap_or(source).to_owned(),
        };
        let number = fields.place.entry.trim_start_matches("row ");
        let sample = |prompt| risky(source, format!("{source}/{number}"), category, prompt);
        let (output, label) = match (output, label) {
            (None, None) => return Ok(Entry::Item(Item::new(sample(fields.text("prompt")?), picture, fields.place.clone()))),
            (None, Some(_)) => return Err(fields.place.missing("output", "the answer that the label is about")),
            (Some(_), None) => return Err(fields.place.missing("label", "1 (toxic) or 0 (non-toxic)")),
            (Some(output), Some(label)) => (output, label),
        };
        let toxic = match label.as_str() {
            "0" => false,
            "1" => true,
            other => return Err(fields.place.invalid("label", other, "1 (toxic) or 0 (non-toxic)")),
        };
        let prompt = fields.text("prompt")?;
        let (asked, answer) = conversation(&prompt, &output).ok_or_else(|| {
            fields.place.error("output", "starts as a conversation (`USER:`) and has no answer in it; expected `ASSISTANT:` and the answer")
        })?;
        if answer.is_empty() {
            return Ok(Entry::left_out(fields, "empty answer"));
        }
        let prompt = if opening(&prompt).is_none() { prompt } else { asked };
        let prompt = if prompt.is_empty() { NO_QUESTION.to_owned() } else { prompt };
        Ok(Entry::Item(Item::new(labelled(answer, toxic, sample(prompt)), picture, fields.place.clone())))
    }
}

/// The markers at the start of a conversation, in lower case, and of the answer in it.
const MARKERS: [[&str; 2]; 4] = [["user:", "assistant:"], ["human:", "assistant:"], ["user\n", "assistant\n"], ["[inst]", "[/inst]"]];

/// The text after the marker at the start of a conversation, and the marker of its answer.
fn opening(text: &str) -> Option<(&str, &'static str)> {
    let text = text.trim_start();
    MARKERS.iter().find_map(|[user, assistant]| {
        let start = text.get(..user.len())?;
        start.eq_ignore_ascii_case(user).then(|| (text.get(user.len()..).unwrap_or_default(), *assistant))
    })
}

/// The question and the answer in an output, which may be the answer alone; `None` for a conversation without an answer.
fn conversation(prompt: &str, output: &str) -> Option<(String, String)> {
    let Some((rest, marker)) = opening(output) else {
        return Some((prompt.trim().to_owned(), output.to_owned()));
    };
    // The marker may be a word of the question, which is therefore passed over where the sheet has it.
    let asked = prompt.trim();
    let from = if opening(prompt).is_some() || asked.is_empty() { 0 } else { rest.find(asked).map_or(0, |at| at + asked.len()) };
    let answer = from + rest.get(from..)?.to_ascii_lowercase().find(marker)?;
    let question = rest.get(..answer)?.replace("<image>", "");
    Some((question.trim().to_owned(), rest.get(answer + marker.len()..)?.trim().to_owned()))
}

/// The category in the name of an image, before its number.
fn category_in(name: &str) -> Option<&str> {
    let stem = name.rsplit('/').next()?.split('.').next()?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (category, number) = stem.rsplit_once("__").or_else(|| stem.rsplit_once('_'))?;
    Some(category).filter(|category| is_number(number) && !category.trim().is_empty())
}

impl Dataset for Spreadsheet {
    fn source(&self) -> Result<String> {
        formats::stem(&self.file)
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let source = self.source()?;
        formats::for_each_sheet_row(&self.file, &["name", "prompt", "output", "label"], &mut |fields| {
            each(entry(fields.and_then(|fields| self.entry(&source, &fields)))?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_and_conversations() {
        assert_eq!(category_in("animal_abuse__0.jpg"), Some("animal_abuse"));
        assert_eq!(category_in("01-Illegal_Activitiy_0.jpg"), Some("01-Illegal_Activitiy"));
        assert_eq!(["a.png", "3", "a_b.png", "_1.png", "__2.png"].map(category_in), [None; 5]);
        let split = |prompt, output| conversation(prompt, output).map(|(q, a)| format!("{q}|{a}"));
        assert_eq!(split("q", "an answer"), Some("q|an answer".into()));
        assert_eq!(split("q", "USER:  \nq\nASSISTANT: an\nanswer "), Some("q|an\nanswer".into()));
        assert_eq!(split("USER:", "USER: <image>\nASSISTANT: seen"), Some("|seen".into()));
        assert_eq!(
            split("is an assistant: good?", "USER: is an assistant: good?\nASSISTANT: yes"),
            Some("is an assistant: good?|yes".into())
        );
        assert_eq!(split("q", "[INST] q [/INST] a"), Some("q|a".into()));
        assert_eq!(split("q", "user\n\nqassistant\n\na"), Some("q|a".into()));
        assert_eq!(split("q", "USER: q"), None);
        assert_eq!(split("q", "ASSISTANT: É"), Some("q|ASSISTANT: É".into()));
    }
}
