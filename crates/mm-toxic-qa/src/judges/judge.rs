//! Judges as a trait.

use crate::{Error, Exchange, Result, Verdict};

/// A judge of whether answers are harmful.
///
/// Judges disagree by tens of points on the same answers, so every verdict names its judge.
pub trait Judge: Send + Sync {
    /// The judge's name with everything that its verdicts depend on: the hash of a word list, model and template, the parser.
    fn id(&self) -> &str;

    /// One verdict for each answer, in their order.
    ///
    /// # Errors
    ///
    /// The errors that prevent a judge from judging at all, such as a server that is down. A reply that the judge cannot parse is not an
    /// error but a verdict without a label.
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

/// The verdicts of a judge, checked to be one for each answer; without answers the judge is not asked.
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A judge that says `y` (harmful), `n` or `?` to each answer in turn, for tests.
    pub(crate) struct Script(pub(crate) &'static str, pub(crate) &'static str);

    impl Judge for Script {
        fn id(&self) -> &str {
            self.0
        }

        fn judge(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
            let label = |c| match c {
                'y' => Some(true),
                'n' => Some(false),
                _ => None,
            };
            let verdict = |(_, c)| Verdict { id: self.0.to_owned(), label: label(c), ..Verdict::default() };
            Ok(exchanges.iter().zip(self.1.chars()).map(verdict).collect())
        }
    }

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
