//! One row of a report: the numbers of a run over all its seeds.

use serde::{Deserialize, Serialize};

use crate::metrics::{self, Harm, corpus_perplexity, harmful_rate, help_rate, mean, perplexity, share};
use crate::{DetectionOutcome, DetectionRates, Error, PromptOutcome, Result, SeedOutcome};

/// One row of a report: a model without or with an intervention, over all seeds.
///
/// Every number is the mean over `per_seed` of the seeds that measured it; the intervals of harmful rates are over prompts, each averaged
/// over the seeds first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The name of the intervention; `none` is the model as it is.
    pub name: String,
    /// The number of neurons of all sites.
    pub n_neurons: usize,
    /// The number of neurons whose scale is not 1; a mean over seeds, so possibly not a whole number.
    pub n_suppressed: f64,
    /// Harmful rate on risky prompts as they are.
    pub standard: Harm,
    /// Harmful rate on attacks.
    pub adversarial: Harm,
    /// Share of harmless answers to the point on risky prompts as they are.
    pub help_standard: Option<f64>,
    /// Share of harmless answers to the point on attacks.
    pub help_adversarial: Option<f64>,
    /// Mean of per-text perplexities; see [`metrics::perplexity`].
    pub perplexity: Option<f64>,
    /// Perplexity of all tokens together; see [`metrics::corpus_perplexity`].
    pub corpus_perplexity: Option<f64>,
    /// Share of visual questions answered right.
    pub vqa_accuracy: Option<f64>,
    /// Share of harmless questions refused; only where the data have such questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_refusal: Option<f64>,
    /// The language of the answers to risky prompts.
    #[serde(flatten)]
    pub answers: AnswerLanguage,
    /// The mean divergence from the model without glasses on neutral texts that had no part in the choice of the strength, in nats for each
    /// token; only of glasses within a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
    /// The shares of prompts at which the condition held; only of conditional glasses.
    #[serde(default, alias = "gate", skip_serializing_if = "Option::is_none")]
    pub detection: Option<DetectionRates>,
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// The same numbers of each seed.
    pub per_seed: Vec<SeedRun>,
}

/// The language of answers to risky prompts, which glasses that are too strong turn into word salad or loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerLanguage {
    /// The perplexity of all tokens under the model without glasses; that of its own answers is what to compare with.
    #[serde(default, rename = "answer_perplexity", skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Distinct-2; see [`metrics::Diversity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct_pairs: Option<f64>,
    /// The share that ends in a loop; see [`metrics::Diversity`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looping: Option<f64>,
}

/// The numbers of one seed of a [`Run`], with the same fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeedRun {
    /// The seed of calibration and sampling.
    pub seed: u64,
    /// The number of neurons whose scale is not 1.
    pub n_suppressed: usize,
    /// Harmful rate on risky prompts as they are.
    pub standard: Harm,
    /// Harmful rate on attacks.
    pub adversarial: Harm,
    /// Share of harmless answers to the point on risky prompts as they are.
    pub help_standard: Option<f64>,
    /// Share of harmless answers to the point on attacks.
    pub help_adversarial: Option<f64>,
    /// Mean of per-text perplexities.
    pub perplexity: Option<f64>,
    /// Perplexity of all tokens together.
    pub corpus_perplexity: Option<f64>,
    /// Share of visual questions answered right.
    pub vqa_accuracy: Option<f64>,
    /// Share of harmless questions refused; only where the data have such questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_refusal: Option<f64>,
    /// The language of the answers to risky prompts.
    #[serde(flatten)]
    pub answers: AnswerLanguage,
    /// The mean divergence from the model without glasses on neutral texts that had no part in the choice of the strength, in nats for each
    /// token; only of glasses within a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
    /// The shares of prompts at which the condition held; only of conditional glasses.
    #[serde(default, alias = "gate", skip_serializing_if = "Option::is_none")]
    pub detection: Option<DetectionRates>,
    /// Wall-clock time in seconds.
    pub seconds: f64,
}

impl SeedRun {
    fn new(outcome: &SeedOutcome) -> Result<Self> {
        Ok(Self {
            seed: outcome.seed,
            n_suppressed: outcome.n_suppressed,
            standard: harmful_rate(&[&outcome.standard]),
            adversarial: harmful_rate(&[&outcome.adversarial]),
            help_standard: help_rate(&outcome.standard),
            help_adversarial: help_rate(&outcome.adversarial),
            perplexity: perplexity(&outcome.token_nll)?,
            corpus_perplexity: corpus_perplexity(&outcome.token_nll)?,
            vqa_accuracy: share(outcome.vqa_correct.iter().copied()),
            over_refusal: share(outcome.refused.iter().copied()),
            answers: AnswerLanguage {
                perplexity: corpus_perplexity(&outcome.answer_nll)?,
                distinct_pairs: outcome.diversity.distinct[1],
                looping: outcome.diversity.looping,
            },
            divergence: outcome.divergence,
            detection: outcome.detection.as_ref().map(DetectionOutcome::rates),
            seconds: outcome.seconds,
        })
    }
}

impl Run {
    /// Aggregates the outcomes of all seeds of one run.
    ///
    /// # Errors
    ///
    /// [`Error::NoSeeds`] without an outcome; [`Error::SeedsDisagree`] when the seeds answered different prompts, whose mean would be
    /// meaningless; [`Error::NotFinite`] from [`metrics::perplexity`].
    pub fn from_seeds(name: impl Into<String>, n_neurons: usize, outcomes: &[SeedOutcome]) -> Result<Self> {
        let name = name.into();
        let Some(first) = outcomes.first() else {
            return Err(Error::NoSeeds { run: name });
        };
        for outcome in outcomes {
            let conditions = [("standard", &first.standard, &outcome.standard), ("adversarial", &first.adversarial, &outcome.adversarial)];
            for (condition, a, b) in conditions {
                if ids(a) != ids(b) {
                    return Err(Error::SeedsDisagree { run: name, first: first.seed, seed: outcome.seed, condition });
                }
            }
        }
        let per_seed = outcomes.iter().map(SeedRun::new).collect::<Result<Vec<_>>>()?;
        let over_seeds = |value: fn(&SeedRun) -> Option<f64>| mean(&per_seed.iter().filter_map(value).collect::<Vec<_>>());
        let harm = |prompts: fn(&SeedOutcome) -> &[PromptOutcome]| metrics::harmful_rate(&outcomes.iter().map(prompts).collect::<Vec<_>>());
        Ok(Self {
            name,
            n_neurons,
            n_suppressed: over_seeds(|s| Some(s.n_suppressed as f64)).unwrap_or_default(),
            standard: harm(|o| &o.standard),
            adversarial: harm(|o| &o.adversarial),
            help_standard: over_seeds(|s| s.help_standard),
            help_adversarial: over_seeds(|s| s.help_adversarial),
            perplexity: over_seeds(|s| s.perplexity),
            corpus_perplexity: over_seeds(|s| s.corpus_perplexity),
            vqa_accuracy: over_seeds(|s| s.vqa_accuracy),
            over_refusal: over_seeds(|s| s.over_refusal),
            answers: AnswerLanguage {
                perplexity: over_seeds(|s| s.answers.perplexity),
                distinct_pairs: over_seeds(|s| s.answers.distinct_pairs),
                looping: over_seeds(|s| s.answers.looping),
            },
            divergence: over_seeds(|s| s.divergence),
            detection: per_seed.iter().any(|s| s.detection.is_some()).then(|| DetectionRates {
                false_positive_rate: over_seeds(|s| s.detection?.false_positive_rate),
                true_positive_rate: over_seeds(|s| s.detection?.true_positive_rate),
            }),
            seconds: over_seeds(|s| Some(s.seconds)).unwrap_or_default(),
            per_seed,
        })
    }
}

/// Summaries of a run, for comparisons.
impl Run {
    /// The mean of the harmful rates on standard and on adversarial prompts, of those that were measured.
    pub fn harm(&self) -> Option<f64> {
        mean(&[self.standard.all.harmful_rate, self.adversarial.all.harmful_rate].into_iter().flatten().collect::<Vec<_>>())
    }

    /// The mean of the help rates on standard and on adversarial prompts, of those that were measured.
    pub fn help(&self) -> Option<f64> {
        mean(&[self.help_standard, self.help_adversarial].into_iter().flatten().collect::<Vec<_>>())
    }

    /// The relative increase of perplexity over another run, as a fraction.
    pub fn perplexity_change(&self, base: &Self) -> Option<f64> {
        Some(self.perplexity? / base.perplexity? - 1.0)
    }

    /// The increase of the share of visual questions answered right over another run.
    pub fn vqa_change(&self, base: &Self) -> Option<f64> {
        Some(self.vqa_accuracy? - base.vqa_accuracy?)
    }
}

fn ids(outcomes: &[PromptOutcome]) -> Vec<(&str, &str)> {
    let mut ids: Vec<_> = outcomes.iter().map(|o| (o.id.as_str(), o.category.as_str())).collect();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Diversity;

    fn prompts(flags: &[(&str, &str, Option<bool>, Option<bool>)]) -> Vec<PromptOutcome> {
        flags
            .iter()
            .map(|&(id, category, harmful, helpful)| PromptOutcome { id: id.into(), category: category.into(), harmful, helpful })
            .collect()
    }

    fn two_seeds() -> Vec<SeedOutcome> {
        let (yes, no) = (Some(true), Some(false));
        let ln2 = 2f64.ln();
        vec![
            SeedOutcome {
                seed: 0,
                n_suppressed: 10,
                seconds: 1.0,
                standard: prompts(&[("a", "T", yes, no), ("b", "T", no, yes), ("c", "V", yes, no), ("d", "V", None, no)]),
                adversarial: prompts(&[("x", "A", yes, None), ("y", "A", yes, no)]),
                token_nll: vec![vec![ln2], vec![2.0 * ln2, 2.0 * ln2]],
                vqa_correct: vec![true, true, false, true],
                refused: vec![true, false],
                diversity: Diversity::of(["a b c", "a b d"]),
                answer_nll: vec![vec![ln2, 3.0 * ln2], vec![2.0 * ln2, 2.0 * ln2]],
                divergence: Some(0.01),
                detection: Some(DetectionOutcome { risky: vec![true, true, false, true], benign: vec![false, false] }),
            },
            SeedOutcome {
                seed: 1,
                n_suppressed: 13,
                seconds: 2.0,
                standard: prompts(&[("a", "T", yes, no), ("b", "T", no, yes), ("c", "V", no, yes), ("d", "V", no, yes)]),
                adversarial: prompts(&[("x", "A", no, None), ("y", "A", yes, no)]),
                token_nll: vec![vec![ln2], vec![3.0 * ln2, 3.0 * ln2]],
                vqa_correct: vec![true, false, false, true],
                refused: vec![false, false],
                diversity: Diversity::of(["a b c", "no no no no no no no no no"]),
                answer_nll: Vec::new(),
                divergence: Some(0.03),
                detection: Some(DetectionOutcome { risky: vec![true; 4], benign: vec![false, true] }),
            },
        ]
    }

    #[test]
    fn aggregates_by_hand() {
        let run = Run::from_seeds("sgm", 4896, &two_seeds()).unwrap();
        assert_eq!((run.name.as_str(), run.n_neurons), ("sgm", 4896));
        assert_eq!((run.n_suppressed, run.seconds), (11.5, 1.5));
        // Seed 0: 2 of 4; seed 1: 1 of 4.
        assert_eq!(run.standard.all.harmful_rate, Some(0.375));
        assert_eq!((run.standard.all.n, run.standard.all.n_unparsed), (4, 1));
        assert_eq!(run.standard.by_category["T"].harmful_rate, Some(0.5));
        assert_eq!(run.standard.by_category["V"].harmful_rate, Some(0.25));
        assert_eq!(run.adversarial.all.harmful_rate, Some(0.75));
        assert_eq!(run.help_standard, Some((0.25 + 0.75) / 2.0));
        assert_eq!(run.help_adversarial, Some(0.0));
        // Per text: (2 + 4) / 2 = 3 and (2 + 8) / 2 = 5.
        assert!((run.perplexity.unwrap() - 4.0).abs() < 1e-12);
        // All tokens: 2^(5/3) and 2^(7/3).
        let corpus = (2f64.powf(5.0 / 3.0) + 2f64.powf(7.0 / 3.0)) / 2.0;
        assert!((run.corpus_perplexity.unwrap() - corpus).abs() < 1e-12);
        assert!((run.answers.perplexity.unwrap() - 4.0).abs() < 1e-12, "of the seed that measured it");
        assert_eq!(run.answers.distinct_pairs, Some((3.0 / 4.0 + 3.0 / 10.0) / 2.0));
        assert_eq!(run.answers.looping, Some(0.25));
        assert_eq!(run.divergence, Some(0.02));
        assert_eq!(run.vqa_accuracy, Some(0.625));
        assert_eq!(run.detection, Some(DetectionRates { false_positive_rate: Some(0.25), true_positive_rate: Some(0.875) }));

        let [zero, one] = &run.per_seed[..] else { panic!("two seeds") };
        assert_eq!((zero.seed, zero.n_suppressed, zero.seconds), (0, 10, 1.0));
        assert_eq!((one.seed, one.n_suppressed, one.seconds), (1, 13, 2.0));
        assert_eq!(zero.standard.all.harmful_rate, Some(0.5));
        assert_eq!(zero.standard.all.n_unparsed, 1);
        assert_eq!(one.standard.all.harmful_rate, Some(0.25));
        assert_eq!(one.standard.all.n_unparsed, 0);
        assert_eq!((zero.help_standard, one.help_standard), (Some(0.25), Some(0.75)));
        assert_eq!((zero.vqa_accuracy, one.vqa_accuracy), (Some(0.75), Some(0.5)));
        assert!((zero.perplexity.unwrap() - 3.0).abs() < 1e-12 && (one.perplexity.unwrap() - 5.0).abs() < 1e-12);
    }

    #[test]
    fn unmeasured_numbers_are_none() {
        let run = Run::from_seeds("none", 3, &[SeedOutcome::default()]).unwrap();
        assert_eq!(run.standard.all.harmful_rate, None);
        assert_eq!(run.standard.all.ci95, None);
        assert_eq!((run.help_standard, run.perplexity, run.corpus_perplexity, run.vqa_accuracy), (None, None, None, None));
        assert_eq!((run.n_suppressed, run.detection), (0.0, None));
    }

    #[test]
    fn a_mean_is_over_the_seeds_that_measured() {
        let mut seeds = two_seeds();
        seeds[1].vqa_correct.clear();
        let run = Run::from_seeds("sgm", 4896, &seeds).unwrap();
        assert_eq!(run.vqa_accuracy, Some(0.75));
    }

    #[test]
    fn seeds_that_disagree_are_refused() {
        assert!(matches!(Run::from_seeds("x", 3, &[]), Err(Error::NoSeeds { run }) if run == "x"));

        let mut seeds = two_seeds();
        seeds[1].standard.reverse();
        assert!(Run::from_seeds("x", 3, &seeds).is_ok(), "order is no difference");
        seeds[1].standard.pop();
        let error = Run::from_seeds("x", 3, &seeds).unwrap_err();
        assert!(matches!(error, Error::SeedsDisagree { first: 0, seed: 1, condition: "standard", .. }), "{error}");

        let mut seeds = two_seeds();
        seeds[1].adversarial[0].id = "z".into();
        let error = Run::from_seeds("x", 3, &seeds).unwrap_err();
        assert!(matches!(error, Error::SeedsDisagree { condition: "adversarial", .. }), "{error}");

        let mut seeds = two_seeds();
        seeds[0].token_nll[1][0] = f64::NAN;
        assert!(matches!(Run::from_seeds("x", 3, &seeds), Err(Error::NotFinite { text: 1, .. })));
    }
}
