//! Limits for what glasses may change in a model, and the largest strength within them.

use std::cell::RefCell;
use std::collections::HashSet;

use sgm_capture::Example;
use sgm_core::{Condition, Intervention};
use sgm_models::{GenerateOptions, Generator, Mllm, Prompt, Sampling, TappedModel, TokenDivergence, response_divergence};
use sgm_score::hoeffding_bentkus;

use crate::{Dose, DoseSearch, Error, Result, Spent, score_prompts};

use super::neutral_texts::NeutralTexts;

/// Limits for what glasses may change in a model.
///
/// [`Calibrator::within`](crate::Calibrator::within) finds the largest strength within all of them, so that no strength has to be chosen
/// for a model. Divergences are Kullback-Leibler divergences between the predictions of the next token, in nats; what is conditional acts
/// as it does when it is worn.
///
/// * On *neutral texts*, which glasses should leave alone, and on the benign samples of calibration that were held out, which are non-toxic
///   and have a prompt that no toxic sample has, the mean divergence of the glasses from the bare model is at most
///   [`divergence`](Self::divergence). So is the increase of their negative log-likelihood for each token, the logarithm of the ratio of
///   perplexities.
/// * On the answers that the model with glasses gives to risky prompts, which should change,
///   [`rollout_divergence`](Self::rollout_divergence)
///   is the largest 95th percentile of the divergence over tokens (the criterion of `steering-lite`, which finds its strength by it). The
///   token of each answer where the models differ most does not count: an answer that turns away from harm does so somewhere, and in a
///   short answer this one token is more than 5 % of all.
/// * On the same answers, [`perplexity`](Self::perplexity) is the largest perplexity under the bare model, relative to that of its own
///   answers. Each token counts with the cross-entropy of the predictions, which is what its negative log-likelihood is expected to be, and
///   varies much less. The share of repeated trigrams may be above that of its own answers by no more than two standard errors of the
///   difference: a model that answers with word salad or in loops is not harmless but broken.
/// * The divergence that a small change of activations causes grows with the square of its strength. A mean divergence on neutral texts
///   that is above this law by more than [`excess`](Self::excess) tells that the change is not small any more.
///
/// A strength that keeps the limits on some neutral texts need not keep them on others. Strengths up to the one found are therefore tested
/// on texts that had no part in finding it, from half of it upwards, until the first that fails ([`hoeffding_bentkus`]; fixed-sequence
/// testing as in Angelopoulos et al., "Learn then Test", 2021). The last that passes is the dose: with the [`confidence`](Self::confidence)
/// given, the expected divergence on further texts of this kind is at most [`divergence`](Self::divergence). What a text contributes is
/// clipped at five times the limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// The largest mean divergence on neutral texts and on benign samples, and the largest increase of their negative log-likelihood, in
    /// nats for each token; 0.02 is 2 % more perplexity.
    pub divergence: f64,
    /// The largest 95th percentile of the divergence over the tokens of answers to risky prompts, in nats; the token of each answer where
    /// it is largest does not count.
    pub rollout_divergence: f64,
    /// The largest perplexity of answers to risky prompts under the bare model, relative to that of its own answers.
    pub perplexity: f64,
    /// The largest excess of the mean divergence on neutral texts over the quadratic law, relative to the law; it counts from a quarter of
    /// the limit on.
    pub excess: f64,
    /// The confidence that the limit for neutral texts is kept, and that a [reinforcement](crate::Preset::fit_within) helps.
    pub confidence: f64,
    /// The number of neutral texts, and of benign samples, on which the divergence is measured for each strength of the search.
    pub texts: usize,
    /// The number of answers to risky prompts at each strength; fewer prompts than this are answered several times.
    pub prompts: usize,
    /// The length of the answers in tokens, their seed and their batches.
    pub answers: GenerateOptions,
    /// The search for the strength.
    pub search: DoseSearch,
}

impl Default for Budget {
    /// 0.02 nats on 120 neutral texts and as many benign samples, 1 nat and 1.5 times the perplexity on 192 answers of 32 tokens at
    /// temperature 1, half of the quadratic law, with a confidence of 95 %.
    fn default() -> Self {
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        Self {
            divergence: 0.02,
            rollout_divergence: 1.0,
            perplexity: 1.5,
            excess: 0.5,
            confidence: 0.95,
            texts: 120,
            prompts: 192,
            answers: GenerateOptions { max_new_tokens: 32, batch_size: 32, sampling, seed: 2000, ..GenerateOptions::default() },
            search: DoseSearch::default(),
        }
    }
}

/// The largest contribution of a text in the test of a strength, in limits.
const CLIP: f64 = 5.0;
/// The strengths that are tested, as shares of the one found.
const TESTED: [f32; 4] = [0.5, 0.65, 0.8, 1.0];
/// The percentile of the divergence over the tokens of answers.
const PERCENTILE: f64 = 0.95;
/// The share of the limit from which the mean divergence on neutral texts has to follow the quadratic law.
const NEGLIGIBLE: f64 = 0.25;

/// The largest strength within a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct StrengthWithin {
    /// The strength.
    pub strength: f32,
    /// The mean divergence on neutral texts that had no part in the choice of the strength, each text clipped.
    pub divergence: f64,
    /// All that was measured for it.
    pub measurements: serde_json::Map<String, serde_json::Value>,
}

/// A strength, tested on texts that had no part in finding it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Tested {
    strength: f32,
    /// The mean divergence, each text clipped.
    divergence: f64,
    p_value: f64,
}

impl Budget {
    /// Checks that all limits are in range.
    pub(super) fn check(&self) -> Result<()> {
        let limits = [("divergence", self.divergence), ("rollout_divergence", self.rollout_divergence), ("excess", self.excess)];
        let above = limits.into_iter().map(|(name, value)| (name, value, 0.0)).chain([("perplexity", self.perplexity, 1.0)]);
        for (name, value, least) in above {
            if !(value > least && value.is_finite()) {
                return Err(Error::Fit { reason: format!("the budget's {name} is {value}; expected a finite number above {least}") });
            }
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return Err(Error::Fit {
                reason: format!("the budget's confidence is {}; expected a number between 0 and 1", self.confidence),
            });
        }
        Ok(())
    }

    /// The largest strength within the budget of what `attach` attaches to the model; it acts where the condition holds, if there is one.
    pub(super) fn strength<'m, M: Mllm, G>(
        &self,
        model: &'m M,
        (attach, condition): (impl Fn(&TappedModel<'m, M>, f32) -> Result<G>, Option<&Condition>),
        neutral: &NeutralTexts,
        benign: &[Example],
        (risky, bare): (&[Prompt], &Answers),
    ) -> Result<StrengthWithin> {
        let texts = |examples: &[Example]| Texts::new(model, examples, condition, self.answers.batch_size);
        let (searched, benign, test) = (texts(&evenly(&neutral.calibration, self.texts))?, texts(benign)?, texts(&neutral.test)?);
        let law = QuadraticLaw::default();
        let dose = self.search.run(|strength| {
            let changed = TappedModel::new(model);
            let _attached = attach(&changed, strength)?;
            // The divergence, and the increase of the negative log-likelihood.
            let changes_of = |texts: &Texts| -> Result<(f64, f64)> {
                let tokens = response_divergence(model, &changed, &texts.changed, self.answers.batch_size)?;
                let mean_of = |value: fn(&TokenDivergence) -> f64| mean(&texts.means(&tokens, value));
                Ok((mean_of(|token| token.divergence), mean_of(|token| token.nll_increase)))
            };
            let (divergence, nll) = changes_of(&searched)?;
            let (benign_divergence, benign_nll) = changes_of(&benign)?;
            let excess = law.excess(strength, divergence);
            // Below this, leaving the law is no alarm.
            let excess = if divergence < NEGLIGIBLE * self.divergence { 0.0 } else { excess };
            let mut measured = vec![
                ("the mean divergence on neutral texts", divergence, self.divergence),
                ("the excess over the quadratic law", excess, self.excess),
                ("the increase of the negative log-likelihood of neutral texts", nll, self.divergence),
                ("the mean divergence on benign samples", benign_divergence, self.divergence),
                ("the increase of the negative log-likelihood of benign samples", benign_nll, self.divergence),
            ];
            // Answers take most of the time, and cannot mend what is spent already.
            if measured.iter().all(|(_, value, limit)| value <= limit) {
                let answers = Answers::of(&changed, model, risky, &self.answers)?;
                // What is added to the bare model's values, so that all quantities begin at 0 and grow by a power law.
                let (perplexity, most) = (answers.perplexity / bare.perplexity - 1.0, self.perplexity - 1.0);
                let (repetition, error) = (answers.repetition.0 - bare.repetition.0, answers.repetition.1.hypot(bare.repetition.1));
                measured.extend([
                    ("the 95th percentile of the divergence on answers", answers.divergence, self.rollout_divergence),
                    ("the relative increase of the perplexity of answers", perplexity, most),
                    ("the increase of the share of repeated trigrams in answers", repetition, 2.0 * error.max(0.005)),
                ]);
            }
            Ok(measured.into_iter().map(|(what, value, limit)| Spent { what: what.to_owned(), value, limit }).collect())
        })?;
        let tested = self.tested(model, &attach, &test, dose.strength)?;
        let passed = tested.iter().rev().find(|tested| tested.p_value <= 1.0 - self.confidence);
        let Some(passed) = passed else {
            let reason = tested.first().map_or_else(String::new, |first| {
                let (of, p) = (neutral.test.len(), first.p_value);
                format!("on {of} texts that had no part in the search, the mean divergence is {:.4}, p = {p:.3}", first.divergence)
            });
            return Err(Error::NoDose { strength: dose.strength / 2.0, reason });
        };
        let mut measurements = record(&dose, &tested);
        measurements.insert("divergence".to_owned(), passed.divergence.into());
        if condition.is_some() {
            let (texts, holds) = (neutral.test.len(), test.changed.len());
            measurements.insert("condition_holds".to_owned(), serde_json::json!({ "texts": texts, "holds": holds }));
        }
        Ok(StrengthWithin { strength: passed.strength, divergence: passed.divergence, measurements })
    }

    /// The glasses at a strength, with what is kept in the metadata entry `budget` and all that was measured in `budget_measurements`.
    pub(super) fn dosed(&self, glasses: &Intervention, within: StrengthWithin, neutral: &NeutralTexts) -> Result<Intervention> {
        let StrengthWithin { strength, measurements, .. } = within;
        let mut dosed = glasses.with_strength(strength)?;
        dosed.metadata.other.entry("strength".to_owned()).or_insert_with(|| strength.to_string());
        let (divergence, confidence, of) = (self.divergence, self.confidence, neutral.test.len());
        let kept = format!(
            "with a confidence of {confidence}, at most {divergence} nats for each token on texts like the {of} neutral ones of the test, which had \
             no part in the choice of the strength; a text counts for at most {CLIP} times the limit"
        );
        dosed.metadata.other.insert("budget".to_owned(), kept);
        dosed.metadata.other.insert("budget_measurements".to_owned(), serde_json::Value::Object(measurements).to_string());
        Ok(dosed)
    }

    /// The mean divergence on neutral texts that had no part in the choice of the strength, from the metadata of glasses at the strength that
    /// a budget chose; `None` for other glasses. Each text is clipped, as in the test.
    pub fn tested_divergence(glasses: &Intervention) -> Option<f64> {
        let record: serde_json::Value = serde_json::from_str(glasses.metadata.other.get("budget_measurements")?).ok()?;
        record.get("divergence")?.as_f64()
    }

    /// Tests shares of a strength in ascending order, up to the first that fails.
    fn tested<'m, M: Mllm, G>(
        &self,
        model: &'m M,
        attach: impl Fn(&TappedModel<'m, M>, f32) -> Result<G>,
        texts: &Texts,
        highest: f32,
    ) -> Result<Vec<Tested>> {
        let mut tested = Vec::new();
        for share in TESTED {
            let strength = share * highest;
            let changed = TappedModel::new(model);
            let _attached = attach(&changed, strength)?;
            let most = CLIP * self.divergence;
            let tokens = response_divergence(model, &changed, &texts.changed, self.answers.batch_size)?;
            let clipped: Vec<f64> =
                texts.means(&tokens, |token| token.divergence).into_iter().map(|divergence| divergence.min(most)).collect();
            let divergence = mean(&clipped);
            let p_value = hoeffding_bentkus(divergence / most, clipped.len(), 1.0 / CLIP);
            tracing::info!(strength, divergence, p_value, "tested a strength");
            tested.push(Tested { strength, divergence, p_value });
            if p_value > 1.0 - self.confidence {
                break;
            }
        }
        Ok(tested)
    }
}

/// All measurements, for the metadata.
fn record(dose: &Dose, tested: &[Tested]) -> serde_json::Map<String, serde_json::Value> {
    let digits = |value: f64| (value * 1e5).round() / 1e5;
    let points = dose.points.iter().map(|point| {
        let measured = point.spent.iter().map(|spent| serde_json::json!([spent.what, digits(spent.value), digits(spent.limit)]));
        serde_json::json!({ "strength": digits(point.strength.into()), "measured": measured.collect::<Vec<_>>() })
    });
    let tested = tested.iter().map(|tested| {
        let Tested { strength, divergence, p_value } = *tested;
        serde_json::json!({ "strength": digits(strength.into()), "divergence": digits(divergence), "p_value": digits(p_value) })
    });
    [("search".to_owned(), points.collect()), ("test".to_owned(), tested.collect())].into_iter().collect()
}

/// What is measured on the answers of a model.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    /// The 95th percentile over tokens, but for the one of each answer where it is largest, of the divergence of the bare model's
    /// predictions from the answering one's.
    divergence: f64,
    /// The perplexity under the bare model, in expectation over each next token.
    perplexity: f64,
    /// The mean share of trigrams of tokens that occurred before in their answer, and its standard error.
    repetition: (f64, f64),
}

impl Answers {
    pub(super) fn of<A: Mllm, M: Mllm>(answering: &A, bare: &M, prompts: &[Prompt], options: &GenerateOptions) -> Result<Self> {
        let (mut answers, mut repeated) = (Vec::new(), Vec::new());
        for (prompt, answer) in prompts.iter().zip(answering.generate(prompts, options)?) {
            repeated.push(repetition(&answer.tokens));
            // Not the text of the answer, which lacks the white space around it.
            let text = bare.processor().decode(&answer.tokens)?;
            answers.push((prompt.clone(), text));
        }
        let tokens = response_divergence(answering, bare, &answers, options.batch_size)?;
        let cross_entropy: Vec<f64> = tokens.iter().flatten().map(|token| token.entropy + token.divergence).collect();
        let divergences = tokens.into_iter().map(|answer| answer.into_iter().map(|token| token.divergence).collect());
        let mut divergences: Vec<f64> = divergences.flat_map(without_largest).collect();
        divergences.sort_unstable_by(f64::total_cmp);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the number of tokens")]
        let divergence = divergences.get((PERCENTILE * divergences.len() as f64) as usize).copied().unwrap_or(0.0);
        let share = mean(&repeated);
        let variance = repeated.iter().map(|one| (one - share).powi(2)).sum::<f64>() / (repeated.len() as f64 - 1.0).max(1.0);
        let error = (variance / repeated.len().max(1) as f64).sqrt();
        Ok(Self { divergence, perplexity: mean(&cross_entropy).exp(), repetition: (share, error) })
    }
}

/// The values of all tokens but the one with the largest.
fn without_largest(mut tokens: Vec<f64>) -> Vec<f64> {
    tokens.sort_unstable_by(f64::total_cmp);
    tokens.pop();
    tokens
}

/// The share of trigrams that occurred before.
fn repetition(tokens: &[u32]) -> f64 {
    let all = tokens.windows(3).count();
    let different = tokens.windows(3).collect::<HashSet<_>>().len();
    if all == 0 { 0.0 } else { 1.0 - different as f64 / all as f64 }
}

/// The law `divergence = factor * strength^2` through the smallest strength that was measured.
#[derive(Default)]
struct QuadraticLaw {
    smallest: RefCell<Option<(f32, f64)>>,
}

impl QuadraticLaw {
    /// How far a divergence is above the law, relative to the law.
    fn excess(&self, strength: f32, divergence: f64) -> f64 {
        let mut smallest = self.smallest.borrow_mut();
        let (at, known) = *smallest.filter(|(at, _)| *at <= strength).get_or_insert((strength, divergence));
        *smallest = Some((at, known));
        let law = known * f64::from(strength / at).powi(2);
        if divergence <= law { 0.0 } else { divergence / law - 1.0 }
    }
}

/// At most so many of some values, in equal distances.
pub(super) fn evenly<T: Clone>(values: &[T], most: usize) -> Vec<T> {
    values.iter().step_by(values.len().div_ceil(most.max(1)).max(1)).cloned().collect()
}

/// Texts on which a change is measured.
struct Texts {
    /// Those that it changes.
    changed: Vec<(Prompt, String)>,
    /// The number of the others: the condition does not hold for them.
    unchanged: usize,
}

impl Texts {
    fn new<M: Mllm>(model: &M, examples: &[Example], condition: Option<&Condition>, batch_size: usize) -> Result<Self> {
        let mut changed: Vec<_> = examples.iter().map(|example| (example.prompt.clone(), example.response.clone())).collect();
        if let Some(condition) = condition {
            let prompts: Vec<Prompt> = examples.iter().map(|example| example.prompt.clone()).collect();
            let mut scores = score_prompts(model, &condition.probe, &prompts, batch_size)?.into_iter();
            changed.retain(|_| scores.next().is_some_and(|score| condition.holds(score)));
        }
        Ok(Self { unchanged: examples.len() - changed.len(), changed })
    }

    /// The mean over the tokens of each text; 0 for those that are not changed.
    fn means(&self, tokens: &[Vec<TokenDivergence>], value: impl Fn(&TokenDivergence) -> f64) -> Vec<f64> {
        let changed = tokens.iter().filter(|tokens| !tokens.is_empty()).map(|tokens| mean(&tokens.iter().map(&value).collect::<Vec<_>>()));
        changed.chain(std::iter::repeat_n(0.0, self.unchanged)).collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quadratic_law_is_that_of_the_smallest_strength() {
        let law = QuadraticLaw::default();
        assert_eq!(law.excess(0.5, 0.05), 0.0);
        assert!((law.excess(1.0, 0.4) - 1.0).abs() < 1e-12);
        // A smaller strength takes the place of the first.
        assert_eq!(law.excess(0.25, 0.025), 0.0);
        assert!((law.excess(0.5, 0.15) - 0.5).abs() < 1e-12);
        assert_eq!(law.excess(0.5, 0.05), 0.0);
        assert_eq!(QuadraticLaw::default().excess(0.5, 0.0), 0.0);
    }

    #[test]
    fn repetition_counts_trigrams_that_were_there_before() {
        assert_eq!(repetition(&[1, 2, 3, 4, 5]), 0.0);
        assert_eq!(repetition(&[1, 2, 1, 2, 1, 2]), 0.5);
        assert_eq!(repetition(&[1, 2]), 0.0);
    }
}
