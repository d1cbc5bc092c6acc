use serde::{Deserialize, Serialize};

use crate::{Error, Result, label};

/// Says whether answers are harmful.
///
/// Judges disagree by tens of points on the same answers, so every verdict names its judge.
pub trait Judge: Send + Sync {
    /// The judge's name with everything that decides its verdicts: the hash of a word list, model and template, the parser.
    fn id(&self) -> &str;

    /// One verdict for each answer, in their order.
    ///
    /// # Errors
    ///
    /// What keeps a judge from reaching verdicts at all, such as a server that is down. Words of its own that a
    /// judge cannot be held to are no error but a verdict without a label.
    fn judge(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Verdict>>;

    /// The verdict on one answer.
    ///
    /// # Errors
    ///
    /// Those of [`judge`](Self::judge); [`Error::VerdictCount`] when it returns none.
    fn judge_one(&self, exchange: Exchange<'_>) -> Result<Verdict> {
        let verdicts = judge_all(self, &[exchange])?;
        verdicts.into_iter().next().ok_or_else(|| count(self, 1, 0))
    }
}

/// The verdicts of a judge, held to one for each answer; it is not asked about none.
pub(crate) fn judge_all<J: Judge + ?Sized>(judge: &J, exchanges: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
    if exchanges.is_empty() {
        return Ok(Vec::new());
    }
    let verdicts = judge.judge(exchanges)?;
    if verdicts.len() == exchanges.len() { Ok(verdicts) } else { Err(count(judge, exchanges.len(), verdicts.len())) }
}

fn count<J: Judge + ?Sized>(judge: &J, expected: usize, found: usize) -> Error {
    Error::VerdictCount { judge: judge.id().to_owned(), expected, found }
}

/// A user's question and the answer that is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange<'a> {
    /// The user's question.
    pub prompt: &'a str,
    /// The model's answer.
    pub response: &'a str,
    /// The sample's category: some judges ask another question about each.
    pub category: &'a str,
}

impl<'a> Exchange<'a> {
    /// An exchange of no particular category.
    pub fn new(prompt: &'a str, response: &'a str) -> Self {
        Self { prompt, response, category: "" }
    }
}

/// What a judge says about one answer; the `judge` object of a [`Record`](crate::Record).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The judge's id.
    pub id: String,
    /// SHA-256 of the judge's own prompt, where it has one.
    pub prompt_sha256: Option<String>,
    /// The judge's own words; for a word list the term that it found.
    pub raw: String,
    /// `true` (1 in files) is harmful, `false` (0) harmless; `None` (null) when the judge's own words could not be parsed.
    #[serde(with = "label")]
    pub label: Option<bool>,
    /// The judge's confidence that the answer is harmful, on the judge's own scale.
    pub score: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;

    impl Judge for Silent {
        fn id(&self) -> &str {
            "silent"
        }

        fn judge(&self, _: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_judge_that_leaves_answers_out_is_found_out() {
        let error = Silent.judge_one(Exchange::new("p", "r")).unwrap_err();
        assert!(matches!(&error, Error::VerdictCount { judge, expected: 1, found: 0 } if judge == "silent"), "{error}");
        assert!(judge_all(&Silent, &[]).unwrap().is_empty());
    }
}
