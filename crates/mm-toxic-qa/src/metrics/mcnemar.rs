//! McNemar's test.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sgm_score::binomial_at_most;

use crate::{Error, PromptOutcome, Result};

/// McNemar's test of two runs on the same prompts: whether one answers harmfully more often than the other.
///
/// Only prompts on which the runs differ count. Source: Q. McNemar (1947), with the continuity correction of A. L. Edwards (1948).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// The number of prompts with a label in both runs.
    pub n: usize,
    /// The number of prompts left out because a verdict of either run was unparsed.
    pub n_unparsed: usize,
    /// The number of prompts that the first run alone answered harmfully.
    pub only_first: usize,
    /// The number of prompts that the second run alone answered harmfully.
    pub only_second: usize,
    /// The two-sided p-value of the exact binomial test; 1 where the runs never differ.
    pub p_exact: f64,
    /// `(|only_first - only_second| - 1)^2 / (only_first + only_second)`; `None` where the runs never differ.
    pub chi2: Option<f64>,
    /// The p-value of `chi2`, with one degree of freedom; accurate from about 25 differing prompts on.
    pub p_chi2: Option<f64>,
}

impl McNemar {
    /// The test on counts: of `n` prompts, those that only the first and those that only the second run answered harmfully.
    pub fn from_counts(only_first: usize, only_second: usize, n: usize) -> Self {
        let differing = only_first + only_second;
        let chi2 = (differing > 0).then(|| (only_first.abs_diff(only_second) as f64 - 1.0).powi(2) / differing as f64);
        Self {
            n,
            n_unparsed: 0,
            only_first,
            only_second,
            p_exact: (2.0 * binomial_at_most(only_first.min(only_second), differing, 0.5)).min(1.0),
            chi2,
            p_chi2: chi2.map(|x| libm::erfc((x / 2.0).sqrt())),
        }
    }
}

/// Compares two runs with one answer to each prompt.
///
/// # Errors
///
/// [`Error::Unpaired`] when a prompt has no answer, or several, in either run.
pub fn mcnemar(first: &[PromptOutcome], second: &[PromptOutcome]) -> Result<McNemar> {
    let mut pairs: BTreeMap<&str, [Vec<Option<bool>>; 2]> = BTreeMap::new();
    for outcome in first {
        pairs.entry(&outcome.id).or_default()[0].push(outcome.harmful);
    }
    for outcome in second {
        pairs.entry(&outcome.id).or_default()[1].push(outcome.harmful);
    }
    let (mut n, mut unparsed, mut only_first, mut only_second) = (0, 0, 0, 0);
    for (id, [a, b]) in &pairs {
        let ([a], [b]) = (a.as_slice(), b.as_slice()) else {
            return Err(Error::Unpaired { id: (*id).to_owned(), first: a.len(), second: b.len() });
        };
        match (a, b) {
            (Some(a), Some(b)) => {
                n += 1;
                only_first += usize::from(*a && !b);
                only_second += usize::from(*b && !a);
            }
            _ => unparsed += 1,
        }
    }
    Ok(McNemar { n_unparsed: unparsed, ..McNemar::from_counts(only_first, only_second, n) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(labels: &[Option<bool>]) -> Vec<PromptOutcome> {
        let outcome =
            |(i, &harmful): (usize, &Option<bool>)| PromptOutcome { id: i.to_string(), category: "T".into(), harmful, helpful: None };
        labels.iter().enumerate().map(outcome).collect()
    }

    #[test]
    fn counts_are_taken_prompt_by_prompt() {
        let (y, n) = (Some(true), Some(false));
        let first = outcomes(&[y, y, y, n, n, None, y]);
        let mut second = outcomes(&[y, n, n, y, n, y, None]);
        second.reverse();
        let test = mcnemar(&first, &second).unwrap();
        assert_eq!((test.n, test.n_unparsed, test.only_first, test.only_second), (5, 2, 2, 1));
        // 3 flips: every split is at least as uneven as 2 to 1.
        assert_eq!(test.p_exact, 1.0);
        assert_eq!(test.chi2, Some(0.0));
        assert_eq!(test.p_chi2, Some(1.0));
    }

    #[test]
    fn equal_runs_do_not_differ() {
        let run = outcomes(&[Some(true), Some(false)]);
        let test = mcnemar(&run, &run).unwrap();
        assert_eq!((test.p_exact, test.chi2, test.p_chi2), (1.0, None, None));
        assert_eq!(mcnemar(&[], &[]).unwrap().p_exact, 1.0);
    }

    #[test]
    fn runs_on_other_prompts_are_refused() {
        let run = outcomes(&[Some(true), Some(false)]);
        let error = mcnemar(&run, &run[..1]).unwrap_err();
        assert!(matches!(&error, Error::Unpaired { id, first: 1, second: 0 } if id == "1"), "{error}");
        let twice = [run.clone(), run.clone()].concat();
        assert!(matches!(mcnemar(&run, &twice), Err(Error::Unpaired { second: 2, .. })));
    }

    #[test]
    fn six_of_six_by_hand() {
        assert!((McNemar::from_counts(6, 0, 10).p_exact - 2.0 / 64.0).abs() < 1e-15);
        assert_eq!(McNemar::from_counts(4, 4, 8).p_exact, 1.0, "an even split is never more likely than certain");
    }
}
