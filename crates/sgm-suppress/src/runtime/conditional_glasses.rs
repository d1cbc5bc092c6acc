//! Conditional glasses: an intervention on the sequences whose prompt a probe finds risky.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use sgm_core::{Amplify, Condition, Intervention, Probe, Site};
use sgm_models::{
    Access, GenerateOptions, Generator, Mllm, MlpInput, Prompt, Tap, TapGuard, TappedModel, TokenKind, TokenSpans, with_values,
};

use crate::kernel::{OnDevice, TokenStrengths};
use crate::{Error, Result};

use super::glasses::{Changes, InPlaceSuppression};
use super::sites::Sites;

/// Glasses that act on sequences for which their condition holds; all other sequences are bitwise unchanged.
///
/// The prompt is first processed without glasses. If the probe's score at its last token reaches the threshold, the prompt is processed
/// again with glasses, and the response is decoded with them; otherwise no pass is repeated. A given response is treated like the same
/// response decoded token by token, so that likelihoods, cached and recomputed passes agree.
///
/// The condition is checked separately for every sequence of a batch. Dropping the glasses restores the model.
#[derive(Debug)]
#[must_use = "the model wears the glasses until this is dropped"]
pub struct ConditionalGlasses {
    tap: Arc<ConditionalTap>,
    _attached: TapGuard,
}

impl ConditionalGlasses {
    /// Puts an intervention with a condition on a model.
    ///
    /// # Errors
    ///
    /// [`Error::NoCondition`] when the intervention has no condition, and as [`Glasses::wear`](crate::Glasses::wear).
    pub fn wear<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        let condition = intervention.condition.clone().ok_or(Error::NoCondition)?;
        condition.check()?;
        let changes = Changes::of(model, intervention, amplify)?;
        let tap = Arc::new(ConditionalTap::new(condition, false, changes));
        Ok(Self { _attached: model.taps().attach(tap.clone()), tap })
    }

    /// Takes the scores of prompts' last tokens, without glasses, since the last call, by the caller's id.
    pub fn take_scores(&self) -> BTreeMap<usize, f32> {
        self.tap.take_scores().into_iter().filter_map(|(id, scores)| Some((id, *scores.first()?))).collect()
    }
}

/// A probe attached to a model: it scores prompts and response tokens and changes nothing.
#[derive(Debug)]
#[must_use = "tokens are scored until this is dropped"]
pub struct Detector {
    tap: Arc<ConditionalTap>,
    _attached: TapGuard,
}

impl Detector {
    /// Attaches a probe to a model.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when the probe is out of range, or reads a site that the model lacks or has with another width.
    pub fn attach<M: Mllm + ?Sized>(model: &M, probe: &Probe) -> Result<Self> {
        probe.check()?;
        let condition = Condition { probe: probe.clone(), threshold: 1.0 };
        let mut only_probe = Intervention::default();
        only_probe.condition = Some(condition.clone());
        let changes = Changes::of(model, &only_probe, Amplify::Refuse)?;
        let tap = Arc::new(ConditionalTap::new(condition, true, changes));
        Ok(Self { _attached: model.taps().attach(tap.clone()), tap })
    }

    /// Takes the scores since the last call by the caller's id: that of the prompt's last token, then those of the response tokens.
    pub fn take_scores(&self) -> BTreeMap<usize, Vec<f32>> {
        self.tap.take_scores()
    }
}

/// The score of each prompt's last token without glasses, in the order of the prompts: the score that a condition with this probe uses.
///
/// # Errors
///
/// As [`Detector::attach`], and the errors of the model.
pub fn score_prompts<M: Mllm + ?Sized>(model: &M, probe: &Probe, prompts: &[Prompt], batch_size: usize) -> Result<Vec<f32>> {
    let tapped = TappedModel::new(model);
    let detector = Detector::attach(&tapped, probe)?;
    tapped.generate(prompts, &GenerateOptions { max_new_tokens: 1, batch_size, ..GenerateOptions::default() })?;
    Ok(detector.take_scores().into_values().filter_map(|scores| scores.first().copied()).collect())
}

/// The state of one sequence.
#[derive(Debug, Clone, Default)]
struct Sequence {
    /// The pass whose log-odds are being summed.
    pass: Option<u64>,
    /// The log-odds of each scored token.
    log_odds: Vec<f64>,
    /// The score of the prompt's last token, without glasses.
    prompt: Option<f32>,
    /// Whether the condition holds.
    holds: bool,
}

/// One forward pass.
#[derive(Debug)]
struct Pass {
    number: u64,
    /// Whether a token is scored.
    scored: bool,
    /// The strengths of the tokens; none if no token is changed.
    strengths: Option<Arc<TokenStrengths>>,
    /// The scored tokens as indices into all tokens, u32 `[scored]`, on the device.
    rows: OnDevice,
    /// The sums of the log-odds that are still on the device, without the bias, f32 `[scored, 1]`.
    log_odds: Mutex<Option<Tensor>>,
}

/// The weights of a probe at one site.
#[derive(Debug)]
struct ProbeWeights {
    values: Vec<f32>,
    /// The same on the device, f32 `[neurons, 1]`.
    column: OnDevice,
}

impl ProbeWeights {
    /// The products with some tokens, `rows`, of responses `[.., neurons]`: f32 `[rows, 1]`.
    fn products(&self, responses: &Tensor, rows: &Tensor) -> candle_core::Result<Tensor> {
        let neurons = self.values.len();
        let column = || Tensor::from_slice(&self.values, (neurons, 1), responses.device());
        let column = self.column.get(responses.device(), DType::F32, column)?;
        responses.reshape(((), neurons))?.index_select(rows, 0)?.to_dtype(DType::F32)?.matmul(&column)
    }
}

/// The tap behind conditional glasses and detectors.
#[derive(Debug)]
struct ConditionalTap {
    condition: Condition,
    weights: Sites<ProbeWeights>,
    /// Whether response tokens are scored too.
    follow: bool,
    changes: Arc<Changes>,
    /// The memory keys of a sequence's state, and of the pass, which is stored with the first sequence.
    key: u64,
    pass_key: u64,
    scores: Mutex<BTreeMap<usize, Vec<f32>>>,
}

impl ConditionalTap {
    fn new(condition: Condition, follow: bool, changes: Changes) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let [key, pass_key] = [(); 2].map(|()| KEYS.fetch_add(1, Ordering::Relaxed));
        let weights = |values: &Vec<f32>| ProbeWeights { values: values.clone(), column: OnDevice::default() };
        let weights = condition.probe.weights().iter().map(|(site, values)| (*site, weights(values))).collect();
        Self { condition, weights, follow, changes: Arc::new(changes), key, pass_key, scores: Mutex::default() }
    }

    fn take_scores(&self) -> BTreeMap<usize, Vec<f32>> {
        std::mem::take(&mut self.scores.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The state of a sequence, if it has one.
    fn recall(&self, spans: &TokenSpans, index: usize) -> Option<Arc<Sequence>> {
        spans.state(index).and_then(|state| state.get(self.key))
    }

    /// The state of a sequence in this pass; its log-odds start with the bias.
    fn sequence(&self, spans: &TokenSpans, index: usize) -> Sequence {
        let mut sequence = self.recall(spans, index).map(|known| Sequence::clone(&known)).unwrap_or_default();
        if sequence.pass != Some(spans.pass()) {
            sequence.pass = Some(spans.pass());
            sequence.log_odds = vec![f64::from(self.condition.probe.bias); self.scored(spans.row(index)).count()];
        }
        sequence
    }

    /// The scored positions: the last one of the prompt and, if `follow`, those of the response.
    fn scored<'k>(&self, kinds: &'k [TokenKind]) -> impl Iterator<Item = usize> + 'k {
        let last = kinds.iter().rposition(|kind| kind.is_prompt());
        let response = kinds.iter().enumerate().filter(|(_, kind)| **kind == TokenKind::Response).map(|(place, _)| place);
        last.into_iter().chain(response.take(if self.follow { usize::MAX } else { 0 }))
    }

    /// Whether a token of the pass is scored.
    fn scores_any(&self, spans: &TokenSpans) -> bool {
        self.follow || (0..spans.batch()).any(|index| self.scored(spans.row(index)).next().is_some())
    }

    fn keep(&self, spans: &TokenSpans, index: usize, sequence: Sequence) {
        if let Some(state) = spans.state(index) {
            state.set(self.key, sequence);
        }
    }

    /// The state of a pass, common to all sites.
    fn pass(&self, spans: &TokenSpans) -> Arc<Pass> {
        let state = spans.state(0);
        let known: Option<Arc<Pass>> = state.and_then(|state| state.get(self.pass_key));
        if let Some(known) = known.filter(|pass| pass.number == spans.pass()) {
            return known;
        }
        let pass = Arc::new(Pass {
            number: spans.pass(),
            scored: self.scores_any(spans),
            strengths: self.strengths(spans),
            rows: OnDevice::default(),
            log_odds: Mutex::default(),
        });
        if let Some(state) = state {
            state.set_shared(self.pass_key, pass.clone());
        }
        pass
    }

    fn strengths(&self, spans: &TokenSpans) -> Option<Arc<TokenStrengths>> {
        let mut strengths = Vec::with_capacity(spans.batch() * spans.tokens());
        for index in 0..spans.batch() {
            let kinds = spans.row(index);
            let Some(sequence) = self.recall(spans, index) else {
                strengths.extend(kinds.iter().map(|_| 0.0));
                continue;
            };
            let strength = if sequence.holds { 1.0 } else { 0.0 };
            strengths.extend(self.changes.selected(kinds).map(|selected| if selected { strength } else { 0.0 }));
        }
        strengths.iter().any(|strength| *strength != 0.0).then(|| Arc::new(TokenStrengths::new(strengths)))
    }

    /// Adds one site's part of the log-odds of the scored tokens.
    fn read(&self, weights: &ProbeWeights, output: &Tensor, spans: &TokenSpans, pass: &Pass) -> sgm_models::Result<()> {
        let (_, tokens, neurons) = output.dims3()?;
        if !output.device().is_cpu() || output.dtype() != DType::F32 {
            return self.read_on_device(weights, &output.detach(), spans, pass);
        }
        with_values(output, |values| {
            for (index, row) in values.chunks_exact((tokens * neurons).max(1)).enumerate() {
                let mut sequence = self.sequence(spans, index);
                for (place, log_odds) in self.scored(spans.row(index)).zip(&mut sequence.log_odds) {
                    let token = row.get(place * neurons..(place + 1) * neurons).unwrap_or_default();
                    *log_odds += token.iter().zip(&weights.values).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                }
                self.keep(spans, index, sequence);
            }
        })
    }

    /// The same by tensor operations, in f32; the sums stay on the device until the pass is over.
    fn read_on_device(&self, weights: &ProbeWeights, output: &Tensor, spans: &TokenSpans, pass: &Pass) -> sgm_models::Result<()> {
        let rows = || {
            let places = |index: usize| self.scored(spans.row(index)).map(move |place| index * spans.tokens() + place);
            let rows = (0..spans.batch()).flat_map(places).map(|row| u32::try_from(row).unwrap_or(u32::MAX));
            Tensor::new(rows.collect::<Vec<_>>(), output.device())
        };
        let rows = pass.rows.get(output.device(), DType::U32, rows)?;
        if rows.elem_count() == 0 {
            return Ok(());
        }
        let products = weights.products(output, &rows)?;
        let mut sums = pass.log_odds.lock().unwrap_or_else(PoisonError::into_inner);
        *sums = Some(match sums.take() {
            None => products,
            Some(sums) => (sums + products)?,
        });
        Ok(())
    }

    /// Adds the sums that are still on the device to the log-odds of the sequences.
    fn collect(&self, spans: &TokenSpans) -> sgm_models::Result<()> {
        let sums = self.pass(spans).log_odds.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(sums) = sums else { return Ok(()) };
        let sums = sums.flatten_all()?.to_vec1::<f32>()?;
        let mut sums = sums.into_iter();
        for index in 0..spans.batch() {
            let mut sequence = self.sequence(spans, index);
            sequence.log_odds.iter_mut().zip(sums.by_ref()).for_each(|(log_odds, sum)| *log_odds += f64::from(sum));
            self.keep(spans, index, sequence);
        }
        Ok(())
    }
}

impl Tap for ConditionalTap {
    fn expert_sites(&self) -> bool {
        self.changes.sites.has_experts() || self.weights.has_experts()
    }

    fn access(&self, spans: &TokenSpans) -> Access {
        if self.scores_any(spans) {
            // The probe needs tensors.
            return Access::Tensor;
        }
        match self.strengths(spans) {
            Some(strengths) => Access::InPlace(Box::new(InPlaceSuppression { changes: self.changes.clone(), strengths })),
            None if (0..spans.batch()).any(|index| begins(spans.row(index))) => Access::Tensor,
            None => Access::None,
        }
    }

    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let pass = self.pass(spans);
        if let Some(weights) = self.weights.get(site).filter(|_| pass.scored) {
            self.read(weights, &output, spans, &pass)?;
        }
        match (self.changes.sites.get(site), &pass.strengths) {
            (Some(scaling), Some(strengths)) => Ok(scaling.apply_to(output, strengths)?),
            _ => Ok(output),
        }
    }

    fn after_mlp(&self, input: &MlpInput<'_>, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let Some(added) = self.changes.patches.of(input.layer) else { return Ok(output) };
        match &self.pass(spans).strengths {
            None => Ok(output),
            Some(strengths) => added.apply_to(input, output, strengths),
        }
    }

    fn settle(&self, spans: &TokenSpans) -> sgm_models::Result<bool> {
        self.collect(spans)?;
        let mut repeat = false;
        for (index, id) in spans.ids().iter().enumerate() {
            let kinds = spans.row(index);
            if !self.follow && !begins(kinds) {
                continue;
            }
            let mut sequence = self.sequence(spans, index);
            let scores: Vec<f32> = sequence.log_odds.iter().map(|z| score(*z)).collect();
            let mut all = self.scores.lock().unwrap_or_else(PoisonError::into_inner);
            if begins(kinds) {
                let prompt = *sequence.prompt.get_or_insert_with(|| prompt_score(kinds, &scores));
                let given = if self.follow { responses(kinds) } else { 0 };
                let response = scores.get(scores.len().saturating_sub(given)..).unwrap_or_default();
                let holds = self.condition.holds(prompt);
                repeat |= !self.changes.is_empty() && holds != sequence.holds;
                all.insert(*id, std::iter::once(prompt).chain(response.iter().copied()).collect());
                sequence.holds = holds;
            } else if let (Some(TokenKind::Response), Some(score)) = (kinds.first(), scores.first()) {
                all.entry(*id).or_default().push(*score);
            }
            self.keep(spans, index, sequence);
        }
        Ok(repeat)
    }
}

/// Whether tokens start a sequence, in contrast to the next token of its response.
fn begins(kinds: &[TokenKind]) -> bool {
    kinds.len() > 1 || kinds.iter().any(|kind| kind.is_prompt())
}

fn responses(kinds: &[TokenKind]) -> usize {
    kinds.iter().filter(|kind| **kind == TokenKind::Response).count()
}

/// The score of the prompt's last token; 0 without a prompt.
fn prompt_score(kinds: &[TokenKind], scores: &[f32]) -> f32 {
    scores.first().copied().filter(|_| kinds.iter().any(|kind| kind.is_prompt())).unwrap_or(0.0)
}

#[allow(clippy::cast_possible_truncation, reason = "scores are f32")]
fn score(log_odds: f64) -> f32 {
    (1.0 / (1.0 + (-log_odds).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::patches::Patches;
    use TokenKind::{Image, Padding, PromptText, Response};
    use sgm_core::TokenSelection;

    #[test]
    fn the_prompt_end_is_scored_and_a_detector_follows_the_response() {
        let kinds = [Padding, PromptText, Image, PromptText, Response, Response, Response, Padding];
        let nothing = || Changes { sites: Sites::from_iter([]), patches: Patches::default(), tokens: TokenSelection::All };
        let condition = Condition { probe: Probe::default(), threshold: 0.5 };
        let scored = |follow| ConditionalTap::new(condition.clone(), follow, nothing()).scored(&kinds).collect::<Vec<_>>();
        assert_eq!((scored(true), scored(false)), (vec![3, 4, 5, 6], vec![3]));
    }

    #[test]
    fn products_of_tensors_are_those_of_the_numbers() {
        let weights = ProbeWeights { values: vec![0.5, -1.25, 0.125, 3.0, 0.7], column: OnDevice::default() };
        let values: Vec<f32> = (0..30).map(|i| (i * 7919 % 101) as f32 / 10.0 - 5.0).collect();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let responses = Tensor::from_slice(&values, (2, 3, 5), &candle_core::Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let rounded = responses.to_dtype(DType::F32).unwrap().flatten_to(1).unwrap().to_vec2::<f32>().unwrap();
            let rows = Tensor::new(&[1u32, 5], responses.device()).unwrap();
            let products = weights.products(&responses, &rows).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (product, row) in products.iter().zip([1, 5]) {
                let expected: f32 = rounded[row].iter().zip(&weights.values).map(|(x, w)| x * w).sum();
                assert!((product - expected).abs() <= 1e-6 * 30.0, "{dtype:?}: {product} {expected}");
            }
        }
    }

    #[test]
    fn a_next_token_is_told_from_a_beginning() {
        assert!(begins(&[PromptText]) && begins(&[Padding, Image]) && begins(&[Response, Response]));
        assert!(!begins(&[Response]) && !begins(&[Padding]));
        assert_eq!(prompt_score(&[Response, Response], &[0.5, 0.5]), 0.0);
    }
}
