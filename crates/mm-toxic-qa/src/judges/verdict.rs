//! The exchange that a judge reads, and its verdict.

use serde::{Deserialize, Serialize};

/// A user's question and the answer that is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// The user's question.
    pub prompt: &'a str,
    /// The model's answer.
    pub response: &'a str,
    /// The category of the sample, which some judges choose their question by.
    pub category: &'a str,
}

impl<'a> Exchange<'a> {
    /// An exchange without a category.
    pub fn new(prompt: &'a str, response: &'a str) -> Self {
        Self { prompt, response, category: "" }
    }
}

/// The verdict of a judge on one answer; the `judge` object of a [`Record`](crate::Record).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The judge's id.
    pub id: String,
    /// The SHA-256 of the prompt to the judge, where it has one.
    pub prompt_sha256: Option<String>,
    /// The reply of the judge; for a word list the term that it found.
    pub raw: String,
    /// `true` (1 in files) is harmful, `false` (0) harmless; `None` (null) when the reply could not be parsed.
    #[serde(with = "label")]
    pub label: Option<bool>,
    /// The judge's confidence that the answer is harmful, on a scale of its own.
    pub score: Option<f64>,
}

/// The form of a label in files: 1 (toxic), 0 (non-toxic) or null.
pub(crate) mod label {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(label: &Option<bool>, s: S) -> Result<S::Ok, S::Error> {
        label.map(u8::from).serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<bool>, D::Error> {
        match Option::<u64>::deserialize(d)? {
            None => Ok(None),
            Some(0) => Ok(Some(false)),
            Some(1) => Ok(Some(true)),
            Some(n) => Err(serde::de::Error::invalid_value(serde::de::Unexpected::Unsigned(n), &"1 (toxic), 0 (non-toxic) or null")),
        }
    }
}
