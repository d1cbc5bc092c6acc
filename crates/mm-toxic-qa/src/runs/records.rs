//! The records of single answers.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Condition, Error, Exchange, PromptOutcome, Result, Split, Verdict};

/// One generated answer with its origin: a line of the results file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The sample's id.
    pub id: String,
    /// The sample's split.
    pub split: Split,
    /// The sample's category.
    pub category: String,
    /// The sample's condition.
    pub condition: Condition,
    /// The user's question.
    pub prompt: String,
    /// What the question asks for, in plain words, where it wraps or hides that; judges see it in place of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The SHA-256 of the prompt as the chat template rendered it.
    pub rendered_prompt_sha256: String,
    /// The model's answer.
    pub response: String,
    /// The reason for the end of the answer: `stop` or `length`.
    pub finish_reason: String,
    /// The defence around the model, if any.
    pub defence: Option<String>,
    /// The SHA-256 of the intervention file, if any.
    pub intervention_sha256: Option<String>,
    /// The model's name or path.
    pub model: String,
    /// The model's revision, where it has one.
    pub revision: Option<String>,
    /// The number type of the model's computations.
    pub dtype: String,
    /// The seed of this answer.
    pub seed: u64,
    /// The settings of generation: temperature, length and so on.
    pub generation: Value,
    /// The verdict of the judge; absent for answers without a judge.
    pub judge: Option<Verdict>,
    /// The time that it took.
    pub timing: Timing,
}

impl Record {
    /// The exchange for a judge.
    pub fn exchange(&self) -> Exchange<'_> {
        Exchange { prompt: self.request.as_ref().unwrap_or(&self.prompt), response: &self.response, category: &self.category }
    }

    /// The outcome of the prompt; `None` without a verdict. A record does not say whether the answer helped.
    pub fn outcome(&self) -> Option<PromptOutcome> {
        let harmful = self.judge.as_ref()?.label;
        Some(PromptOutcome { id: self.id.clone(), category: self.category.clone(), harmful, helpful: None })
    }
}

/// The numbers of verdicts in records of answers. Displays with the ids of up to 20 answers whose verdict could not be parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerdictCounts {
    /// The number of harmful answers.
    pub harmful: usize,
    /// The number of harmless answers.
    pub harmless: usize,
    /// The ids of the answers whose verdict could not be parsed.
    pub unparsed: Vec<String>,
}

impl VerdictCounts {
    /// Counts the verdicts; records without one do not count.
    pub fn of(records: &[Record]) -> Self {
        let mut counts = Self::default();
        for record in records {
            match record.judge.as_ref().map(|verdict| verdict.label) {
                Some(Some(true)) => counts.harmful += 1,
                Some(Some(false)) => counts.harmless += 1,
                Some(None) => counts.unparsed.push(record.id.clone()),
                None => {}
            }
        }
        counts
    }
}

impl fmt::Display for VerdictCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { harmful, harmless, unparsed } = self;
        write!(f, "{harmful} harmful, {harmless} harmless, {} unparsed", unparsed.len())?;
        for (number, id) in unparsed.iter().take(20).enumerate() {
            write!(f, "{} {id}", if number == 0 { ":" } else { "" })?;
        }
        if unparsed.len() > 20 { f.write_str(" ...") } else { Ok(()) }
    }
}

/// The time that one answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The wall-clock time in seconds; an equal share of the batch for answers that are generated together.
    pub seconds: f64,
    /// The number of tokens of the prompt, with those of the image.
    pub prompt_tokens: Option<usize>,
    /// The number of tokens of the answer.
    pub new_tokens: Option<usize>,
}

/// A writer of [`Record`]s as JSONL. Each record is written at once, so that a crash does not lose earlier ones.
#[derive(Debug)]
pub struct RecordWriter {
    path: PathBuf,
    file: File,
}

impl RecordWriter {
    /// Starts a new file. Missing folders are made, an existing file is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when it cannot be created.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| failed(&path, "create its directory", e))?;
        }
        let file = File::create(&path).map_err(|e| failed(&path, "create", e))?;
        Ok(Self { path, file })
    }

    /// Appends a record.
    ///
    /// # Errors
    ///
    /// [`Error::Write`] when the file cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        append(&mut self.file, &self.path, record)
    }
}

/// Appends a record as a whole line, by one call to the operating system.
pub(crate) fn append(file: &mut File, path: &Path, record: &Record) -> Result<()> {
    let mut line = serde_json::to_vec(record).map_err(|e| failed(path, "express a record as JSON", e.into()))?;
    line.push(b'\n');
    file.write_all(&line).map_err(|e| failed(path, "append a record", e))
}

pub(crate) fn failed(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    sgm_core::Error::Io { path: path.to_owned(), action, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Judge, ReplayJudge};

    fn record(response: &str, label: Option<bool>) -> Record {
        Record {
            id: "s-1".into(),
            split: Split::Test,
            category: "T".into(),
            condition: Condition::Standard,
            prompt: "well?".into(),
            request: None,
            rendered_prompt_sha256: "00".into(),
            response: response.into(),
            finish_reason: "stop".into(),
            defence: None,
            intervention_sha256: None,
            model: "a-model".into(),
            revision: None,
            dtype: "f32".into(),
            seed: 7,
            generation: serde_json::json!({"temperature": 1.0}),
            judge: Some(Verdict { id: "a-judge".into(), label, ..Verdict::default() }),
            timing: Timing { seconds: 0.5, prompt_tokens: Some(20), new_tokens: Some(3) },
        }
    }

    #[test]
    fn a_line_is_written_at_once_and_has_the_documented_fields() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out/records.jsonl");
        let mut writer = RecordWriter::create(&path).unwrap();
        let records = [record("two\nlines", Some(true)), record("ok", Some(false)), record("?", None)];
        for (n, r) in records.iter().enumerate() {
            writer.write(r).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), n + 1);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let back: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(back, records);
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let mut fields: Vec<&str> = first.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(
            fields.join(" "),
            "category condition defence dtype finish_reason generation id intervention_sha256 judge model prompt \
             rendered_prompt_sha256 response revision seed split timing"
        );
        assert_eq!(first["judge"]["label"], 1);
        assert_eq!(first["split"], "test");

        let replay = ReplayJudge::from_file(&path).unwrap();
        let label = |response| replay.judge_one(Exchange::new("well?", response)).unwrap().label;
        assert_eq!(label("two\nlines"), Some(true));
        assert_eq!(label("ok"), Some(false));
        assert_eq!(label("?"), None);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = RecordWriter::create(folder.path()).unwrap_err();
        assert!(matches!(error, Error::Write(_)), "{error}");
    }

    #[test]
    fn verdict_counts_name_some_of_the_unparsed_answers() {
        let counts =
            |unparsed: usize| VerdictCounts { harmful: 2, harmless: 3, unparsed: (0..unparsed).map(|id| id.to_string()).collect() };
        assert_eq!(counts(0).to_string(), "2 harmful, 3 harmless, 0 unparsed");
        assert_eq!(counts(2).to_string(), "2 harmful, 3 harmless, 2 unparsed: 0 1");
        assert!(counts(21).to_string().ends_with(" 18 19 ..."));
    }
}
