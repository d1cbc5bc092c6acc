use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use sgm_core::{Gate, Intervention, Probe, Site};
use sgm_models::{GenerateOptions, Generator, Mllm, MlpInput, Part, Prompt, Tap, TapGuard, TokenKind, TokenSpans, View, with_values};

use crate::glasses::{Changes, Worn};
use crate::kernel::Strengths;
use crate::sites::Sites;
use crate::{Amplify, Error, Result};

/// Glasses that a probe switches on: benign sequences are left untouched, to the bit.
///
/// The prompt is read without glasses first. If the probe's score of its last token reaches the gate, the prompt is read again through the
/// glasses, and the response decoded through them; otherwise nothing happens, and nothing is computed twice. With
/// [`Gate::watch`] the scores of response tokens switch the glasses for the tokens after them. A given response is treated as the same one decoded
/// token by token, so likelihoods, cached and recomputed passes agree.
///
/// Every sequence of a batch is switched on its own. Dropping the glasses restores the model.
#[derive(Debug)]
#[must_use = "the model wears the glasses until this is dropped"]
pub struct AdaptiveGlasses {
    tap: Arc<Gated>,
    _attached: TapGuard,
}

impl AdaptiveGlasses {
    /// Puts an intervention with a probe on a model.
    ///
    /// # Errors
    ///
    /// [`Error::NoProbe`] when the intervention has none, and as [`Glasses::wear`](crate::Glasses::wear).
    pub fn wear<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        let probe = intervention.probe.clone().ok_or(Error::NoProbe)?;
        probe.check()?;
        let changes = Changes::of(model, intervention, amplify)?;
        let follow = probe.gate.watch;
        let tap = Arc::new(Gated::new(probe, follow, changes));
        Ok(Self { _attached: model.taps().attach(tap.clone()), tap })
    }

    /// Takes the scores since the last call, by the caller's row number: that of the prompt's last token as it was read without glasses, then,
    /// if the gate watches, those of the response tokens. Otherwise these are not read, and decoding costs no more than the glasses.
    pub fn take_scores(&self) -> BTreeMap<usize, Vec<f32>> {
        self.tap.take_scores()
    }
}

/// A probe that only looks: it scores prompts and response tokens and changes nothing.
#[derive(Debug)]
#[must_use = "the probe looks until this is dropped"]
pub struct Detector {
    tap: Arc<Gated>,
    _attached: TapGuard,
}

impl Detector {
    /// Attaches a probe to a model.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when the probe is out of range, or reads a site that is not the model's or has another width.
    pub fn attach<M: Mllm + ?Sized>(model: &M, probe: &Probe) -> Result<Self> {
        probe.check()?;
        let mut only_probe = Intervention::default();
        only_probe.probe = Some(probe.clone());
        let changes = Changes::of(model, &only_probe, Amplify::Refuse)?;
        let tap = Arc::new(Gated::new(probe.clone(), true, changes));
        Ok(Self { _attached: model.taps().attach(tap.clone()), tap })
    }

    /// Takes the scores since the last call, by the caller's row number: that of the prompt's last token, then those of the response tokens.
    pub fn take_scores(&self) -> BTreeMap<usize, Vec<f32>> {
        self.tap.take_scores()
    }
}

/// The score of each prompt's last token, read without glasses, in the prompts' order: what the gate of adaptive glasses with this probe
/// compares.
///
/// # Errors
///
/// As [`Detector::attach`], and what the model reports.
pub fn score_prompts<M: Mllm + ?Sized>(model: &M, probe: &Probe, prompts: &[Prompt], batch_size: usize) -> Result<Vec<f32>> {
    let view = View::new(model);
    let detector = Detector::attach(&view, probe)?;
    view.generate(prompts, &GenerateOptions { max_new_tokens: 1, batch_size, ..GenerateOptions::default() })?;
    Ok(detector.take_scores().into_values().filter_map(|scores| scores.first().copied()).collect())
}

/// What is remembered of a sequence.
#[derive(Debug, Clone, Default)]
struct Sequence {
    /// The pass whose log-odds are being added up.
    pass: Option<u64>,
    /// The log-odds of each token that something is predicted from.
    log_odds: Vec<f64>,
    /// The score of the prompt's last token without glasses.
    prompt: Option<f32>,
    /// How strongly the glasses act.
    strength: f32,
    /// Whether each token of the pass that began the cache is read through the glasses.
    through: Vec<bool>,
    /// Whether the next token will be.
    on: bool,
}

/// One forward pass.
#[derive(Debug)]
struct Pass {
    number: u64,
    /// Whether a token is scored.
    scored: bool,
    /// How strongly the glasses act on each token; none if they act on no token at all.
    strengths: Option<Vec<f32>>,
}

/// The tap behind adaptive glasses and detectors.
#[derive(Debug)]
struct Gated {
    probe: Probe,
    weights: Sites<Vec<f32>>,
    /// Whether response tokens are scored too.
    follow: bool,
    changes: Arc<Changes>,
    /// Where sequences are remembered, and the pass, with its first sequence.
    key: u64,
    pass_key: u64,
    scores: Mutex<BTreeMap<usize, Vec<f32>>>,
}

impl Gated {
    fn new(probe: Probe, follow: bool, changes: Changes) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        let [key, pass_key] = [(); 2].map(|()| KEYS.fetch_add(1, Ordering::Relaxed));
        let weights = probe.weights().iter().map(|(site, weights)| (*site, weights.clone())).collect();
        Self { probe, weights, follow, changes: Arc::new(changes), key, pass_key, scores: Mutex::default() }
    }

    fn take_scores(&self) -> BTreeMap<usize, Vec<f32>> {
        std::mem::take(&mut self.scores.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is remembered of a sequence, if anything.
    fn recall(&self, spans: &TokenSpans, index: usize) -> Option<Arc<Sequence>> {
        spans.memory(index).and_then(|memory| memory.recall(self.key))
    }

    /// A sequence in this pass, whose log-odds begin with the bias.
    fn sequence(&self, spans: &TokenSpans, index: usize) -> Sequence {
        let mut sequence = self.recall(spans, index).map(|known| Sequence::clone(&known)).unwrap_or_default();
        if sequence.pass != Some(spans.pass()) {
            sequence.pass = Some(spans.pass());
            sequence.log_odds = vec![f64::from(self.probe.bias); self.scored(spans.row(index)).count()];
        }
        sequence
    }

    /// The tokens that are scored: the last one of the prompt and, where they are followed, those of the response.
    fn scored<'k>(&self, kinds: &'k [TokenKind]) -> impl Iterator<Item = usize> + 'k {
        let last = kinds.iter().rposition(|kind| is_prompt(*kind));
        let response = kinds.iter().enumerate().filter(|(_, kind)| **kind == TokenKind::Response).map(|(place, _)| place);
        last.into_iter().chain(response.take(if self.follow { usize::MAX } else { 0 }))
    }

    /// Whether a token of the pass is scored.
    fn scores_any(&self, spans: &TokenSpans) -> bool {
        self.follow || (0..spans.batch()).any(|index| self.scored(spans.row(index)).next().is_some())
    }

    fn keep(&self, spans: &TokenSpans, index: usize, sequence: Sequence) {
        if let Some(memory) = spans.memory(index) {
            memory.remember(self.key, sequence);
        }
    }

    /// What is the same at all sites of a pass; found at the first.
    fn pass(&self, spans: &TokenSpans) -> Arc<Pass> {
        let memory = spans.memory(0);
        let known: Option<Arc<Pass>> = memory.and_then(|memory| memory.recall(self.pass_key));
        if let Some(known) = known.filter(|pass| pass.number == spans.pass()) {
            return known;
        }
        let pass = Arc::new(Pass { number: spans.pass(), scored: self.scores_any(spans), strengths: self.strengths(spans) });
        if let Some(memory) = memory {
            memory.remember_shared(self.pass_key, pass.clone());
        }
        pass
    }

    fn strengths(&self, spans: &TokenSpans) -> Option<Vec<f32>> {
        let mut strengths = Vec::with_capacity(spans.batch() * spans.tokens());
        for index in 0..spans.batch() {
            let kinds = spans.row(index);
            let Some(sequence) = self.recall(spans, index) else {
                strengths.extend(kinds.iter().map(|_| 0.0));
                continue;
            };
            let through = |token: usize| if begins(kinds) { sequence.through.get(token).copied().unwrap_or(false) } else { sequence.on };
            let chosen = self.changes.positions.chosen(kinds).enumerate();
            strengths.extend(chosen.map(|(token, chosen)| if chosen && through(token) { sequence.strength } else { 0.0 }));
        }
        strengths.iter().any(|strength| *strength != 0.0).then_some(strengths)
    }

    /// Adds one site's part of the log-odds of the tokens that are scored.
    fn read(&self, weights: &[f32], output: &Tensor, spans: &TokenSpans) -> sgm_models::Result<()> {
        let (_, tokens, neurons) = output.dims3()?;
        with_values(output, |values| {
            for (index, row) in values.chunks_exact((tokens * neurons).max(1)).enumerate() {
                let mut sequence = self.sequence(spans, index);
                for (place, log_odds) in self.scored(spans.row(index)).zip(&mut sequence.log_odds) {
                    let token = row.get(place * neurons..(place + 1) * neurons).unwrap_or_default();
                    *log_odds += token.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
                }
                self.keep(spans, index, sequence);
            }
        })
    }
}

impl Tap for Gated {
    fn part(&self, spans: &TokenSpans) -> Part {
        if self.scores_any(spans) {
            // They are read from tensors.
            return Part::Tensors;
        }
        match self.strengths(spans) {
            Some(strengths) => Part::Numbers(Box::new(Worn::new(self.changes.clone(), strengths))),
            None if (0..spans.batch()).any(|index| begins(spans.row(index))) => Part::Tensors,
            None => Part::Nothing,
        }
    }

    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let pass = self.pass(spans);
        if let Some(weights) = self.weights.get(site).filter(|_| pass.scored) {
            self.read(weights, &output, spans)?;
        }
        match (self.changes.sites.get(site), &pass.strengths) {
            (Some(scaling), Some(strengths)) => Ok(scaling.apply_to(output, Strengths::Each(strengths))?),
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
        let mut repeat = false;
        for (index, row) in spans.rows().iter().enumerate() {
            let kinds = spans.row(index);
            if !self.follow && !begins(kinds) {
                continue;
            }
            let mut sequence = self.sequence(spans, index);
            let scores: Vec<f32> = sequence.log_odds.iter().map(|z| score(*z)).collect();
            let mut all = self.scores.lock().unwrap_or_else(PoisonError::into_inner);
            if begins(kinds) {
                if sequence.prompt.is_none() {
                    let log_odds = sequence.log_odds.first().copied().unwrap_or(f64::NEG_INFINITY);
                    sequence.strength = self.probe.dose.map_or(1.0, |dose| dose.strength(log_odds));
                }
                let prompt = *sequence.prompt.get_or_insert_with(|| prompt_score(kinds, &scores));
                let given = if self.follow { responses(kinds) } else { 0 };
                let response = scores.get(scores.len().saturating_sub(given)..).unwrap_or_default();
                let (through, on) = course(self.probe.gate, prompt, kinds, response);
                let before = |token: usize| sequence.through.get(token).copied().unwrap_or(false);
                repeat |= !self.changes.is_empty() && through.iter().enumerate().any(|(token, through)| *through != before(token));
                all.insert(*row, std::iter::once(prompt).chain(response.iter().copied()).collect());
                (sequence.through, sequence.on) = (through, on);
            } else if let (Some(TokenKind::Response), Some(score)) = (kinds.first(), scores.first()) {
                sequence.on = next(self.probe.gate, sequence.on, *score);
                all.entry(*row).or_default().push(*score);
            }
            self.keep(spans, index, sequence);
        }
        Ok(repeat)
    }
}

/// Whether tokens are those that begin a sequence, not the next one of its response.
fn begins(kinds: &[TokenKind]) -> bool {
    kinds.len() > 1 || kinds.iter().any(|kind| is_prompt(*kind))
}

fn is_prompt(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::PromptText | TokenKind::Image)
}

fn responses(kinds: &[TokenKind]) -> usize {
    kinds.iter().filter(|kind| **kind == TokenKind::Response).count()
}

/// The score of the prompt's last token, 0 if there is no prompt.
fn prompt_score(kinds: &[TokenKind], scores: &[f32]) -> f32 {
    scores.first().copied().filter(|_| kinds.iter().any(|kind| is_prompt(*kind))).unwrap_or(0.0)
}

/// Which tokens of a sequence are read through the glasses, and whether the next one will be, from the scores of its prompt and response.
fn course(gate: Gate, prompt: f32, kinds: &[TokenKind], response: &[f32]) -> (Vec<bool>, bool) {
    let first = prompt >= gate.on;
    let (mut on, mut scores) = (first, response.iter());
    let through = kinds.iter().map(|kind| match kind {
        TokenKind::Response => {
            let through = on;
            on = scores.next().map_or(on, |score| next(gate, on, *score));
            through
        }
        _ => first,
    });
    let through = through.collect();
    (through, on)
}

/// Whether the glasses are on after a response token.
fn next(gate: Gate, on: bool, score: f32) -> bool {
    match (gate.watch, on) {
        (false, _) => on,
        (true, true) => score > gate.off,
        (true, false) => score >= gate.on,
    }
}

#[allow(clippy::cast_possible_truncation, reason = "scores are f32")]
fn score(log_odds: f64) -> f32 {
    (1.0 / (1.0 + (-log_odds).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Positions;
    use crate::patches::Patches;
    use TokenKind::{Image, Padding, PromptText, Response};

    #[test]
    fn the_prompt_decides_and_the_response_may_change_it() {
        let kinds = [Padding, PromptText, Image, PromptText, Response, Response, Response, Padding];
        let nothing = || Changes { sites: Sites::from_iter([]), patches: Patches::default(), positions: Positions::All };
        let scored = |follow| Gated::new(Probe::default(), follow, nothing()).scored(&kinds).collect::<Vec<_>>();
        assert_eq!((scored(true), scored(false)), (vec![3, 4, 5, 6], vec![3]));
        let gate = |watch| Gate { on: 0.75, off: 0.25, watch };
        let course = |watch, prompt, response: [f32; 3]| {
            let (through, on) = course(gate(watch), prompt, &kinds, &response);
            (through[1], [4, 5, 6].map(|place| through[place]), on)
        };
        assert_eq!(course(false, 0.75, [0.0; 3]), (true, [true; 3], true));
        assert_eq!(course(false, 0.74, [1.0; 3]), (false, [false; 3], false));
        // In between nothing changes; a switch counts from the next token on.
        assert_eq!(course(true, 0.8, [0.3, 0.25, 0.7]), (true, [true, true, false], false));
        assert_eq!(course(true, 0.5, [0.7, 0.75, 0.3]), (false, [false, false, true], true));
    }

    #[test]
    fn a_next_token_is_told_from_a_beginning() {
        assert!(begins(&[PromptText]) && begins(&[Padding, Image]) && begins(&[Response, Response]));
        assert!(!begins(&[Response]) && !begins(&[Padding]));
        assert_eq!(prompt_score(&[Response, Response], &[0.5, 0.5]), 0.0);
    }
}
