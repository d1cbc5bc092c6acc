//! Answers of any program, to be judged.

use std::path::Path;

use serde::Deserialize;

use crate::{Error, Exchange, Result, Split, files};

/// An answer to be judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The sample's id, or `line 3` where it has none.
    pub id: String,
    /// The user's question.
    pub prompt: String,
    /// The model's answer.
    pub response: String,
    /// The category of the sample; may be empty.
    pub category: String,
}

impl Answer {
    /// The exchange for a judge.
    pub fn exchange(&self) -> Exchange<'_> {
        Exchange { prompt: &self.prompt, response: &self.response, category: &self.category }
    }
}

#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    prompt: String,
    response: String,
    category: Option<String>,
    split: Option<Split>,
}

/// Reads the answers of a JSONL file: `prompt` and `response` on each line, and optionally `id` and `category`; other fields are ignored.
///
/// Files of [records](crate::Record) and of [verdicts](crate::ReplayJudge) are such files. Answers to utility samples are left out, since
/// they are not judged.
///
/// # Errors
///
/// [`Error::Io`], [`Error::NotUtf8`], [`Error::LineTooLong`] when it is not text; [`Error::Syntax`] for a line without the fields above;
/// [`Error::NoAnswers`] for a file without answers to judge.
pub fn read_answers(path: &Path) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    files::for_each_line(files::open(path)?, path, |number, text| {
        let Line { id, prompt, response, category, split } = files::json(path, number, text)?;
        if split != Some(Split::Utility) {
            let id = id.unwrap_or_else(|| format!("line {number}"));
            answers.push(Answer { id, prompt, response, category: category.unwrap_or_default() });
        }
        Ok(())
    })?;
    if answers.is_empty() { Err(Error::NoAnswers { path: path.to_owned() }) } else { Ok(answers) }
}
