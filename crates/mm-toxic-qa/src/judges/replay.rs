//! The judge that repeats verdicts from a file.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;

use serde::Deserialize;
use sgm_core::sha256::hex_digest;

use crate::judges::verdict::label;
use crate::{Error, Exchange, Judge, Result, Verdict, files};

/// A judge that repeats verdicts from a file: verdicts of people, or of a judge that ran elsewhere.
///
/// The file is JSONL with `prompt`, `response`, `label` (1 harmful, 0 harmless, null unparsed) and optionally `score` on each line. A
/// [record](crate::Record) file serves too: its `judge` object is read where `label` is absent. An answer that is not in the file counts as
/// unparsed.
#[derive(Clone, Debug)]
pub struct ReplayJudge {
    id: String,
    verdicts: HashMap<(String, String), (Verdict, usize)>,
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
    response: String,
    #[serde(default, with = "label")]
    label: Option<bool>,
    score: Option<f64>,
    judge: Option<Nested>,
}

#[derive(Deserialize)]
struct Nested {
    #[serde(default, with = "label")]
    label: Option<bool>,
    score: Option<f64>,
}

impl ReplayJudge {
    /// Reads a file of verdicts.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::NotUtf8`], [`Error::LineTooLong`] when the file is not text; [`Error::Syntax`] for a line without the fields
    /// above; [`Error::InvalidField`] when the same answer to the same prompt has two labels.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::parse(files::open(path)?, path)
    }

    fn parse(reader: impl BufRead, path: &Path) -> Result<Self> {
        let mut verdicts: HashMap<_, (Verdict, usize)> = HashMap::new();
        let mut text = Vec::new();
        files::for_each_line(reader, path, |number, line| {
            text.extend_from_slice(line.as_bytes());
            text.push(b'\n');
            let Line { prompt, response, label, score, judge } = files::json(path, number, line)?;
            let nested = judge.unwrap_or(Nested { label: None, score: None });
            let (label, score) = (label.or(nested.label), score.or(nested.score));
            let verdict = Verdict { label, score, raw: "replayed".to_owned(), ..Verdict::default() };
            let new = verdict.label;
            match verdicts.insert((prompt, response), (verdict, number)) {
                Some((old, first)) if old.label != new => Err(Error::InvalidField {
                    path: path.to_owned(),
                    line: number,
                    field: "label",
                    found: format!("{new:?}"),
                    expected: format!("{:?} as on line {first} for the same answer", old.label),
                }),
                _ => Ok(()),
            }
        })?;
        Ok(Self { id: format!("replay/{:.12}", hex_digest(&text)), verdicts })
    }
}

impl Judge for ReplayJudge {
    fn id(&self) -> &str {
        &self.id
    }

    fn judge(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        let verdict = |exchange: &Exchange<'_>| {
            let known = self.verdicts.get(&(exchange.prompt.to_owned(), exchange.response.to_owned()));
            let absent = || Verdict { raw: "not in the file".to_owned(), ..Verdict::default() };
            Verdict { id: self.id.clone(), ..known.map_or_else(absent, |(verdict, _)| verdict.clone()) }
        };
        Ok(exchanges.iter().map(verdict).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ReplayJudge> {
        ReplayJudge::parse(text.as_bytes(), Path::new("verdicts.jsonl"))
    }

    #[test]
    fn repeats_what_the_file_says() {
        let judge = parse(
            r#"{"prompt": "p", "response": "bad", "label": 1, "score": 0.9}
               {"prompt": "p", "response": "good", "label": 0}
               {"prompt": "p", "response": "odd", "label": null}
               {"id": "x", "prompt": "q", "response": "bad", "judge": {"id": "j", "label": 1, "score": 0.5}}"#,
        )
        .unwrap();
        let verdict = |prompt, response| judge.judge_one(Exchange::new(prompt, response)).unwrap();
        assert_eq!((verdict("p", "bad").label, verdict("p", "bad").score), (Some(true), Some(0.9)));
        assert_eq!(verdict("p", "good").label, Some(false));
        assert_eq!(verdict("p", "odd").label, None);
        assert_eq!((verdict("q", "bad").label, verdict("q", "bad").score), (Some(true), Some(0.5)));
        assert_eq!(verdict("q", "good").label, None, "another prompt is another answer");
        assert!(judge.id().starts_with("replay/"));
    }

    #[test]
    fn refuses_contradictions_and_other_labels() {
        let twice = "{\"prompt\": \"p\", \"response\": \"r\", \"label\": 1}\n{\"prompt\": \"p\", \"response\": \"r\", \"label\": 0}";
        let error = parse(twice).unwrap_err();
        assert!(matches!(error, Error::InvalidField { line: 2, field: "label", .. }), "{error}");
        assert!(parse(&twice.replace(": 0}", ": 1}")).is_ok());
        let error = parse("{\"prompt\": \"p\", \"response\": \"r\", \"label\": 2}").unwrap_err();
        assert!(error.to_string().contains("1 (toxic), 0 (non-toxic) or null"), "{error}");
        assert!(matches!(parse("{\"prompt\": \"p\"}"), Err(Error::Syntax { line: 1, .. })));
    }
}
