//! Conditional patch neurons: added neurons that act at the tokens where a probe detects risk.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use sgm_capture::{Capture, Examples, MlpTokens};
use sgm_core::{Amplify, Calibration, Intervention, PatchNeuron, Projection, Site};
use sgm_models::{Mllm, TappedModel, TokenKind};
use sgm_score::logistic_regression;

use crate::{Error, Glasses, Result};

use super::linear_algebra::{Mean, constant, product};
use super::metadata::metadata;

/// The fit of conditional patch neurons: one for each layer, whose gate is a probe of the MLP's input and whose output is a shift.
///
/// In each layer, on the model with the neurons of the layers before:
///
/// * A logistic regression separates tokens of toxic samples from tokens of non-toxic ones by the MLP's input x. Toxic tokens are the last
///   token of the prompt and the response, from which toxic answers are predicted; non-toxic tokens are all text and some image tokens.
///   The log-odds, minus the quantile that `false_positive_rate` of the non-toxic tokens exceed, are the neuron's gate.
/// * Most MLPs have no bias, so that constants are computed from x: the least-squares solution of `u . x = 1` over all these tokens is the
///   neuron's row in `up_proj`, and subtracts the threshold from the gate. The neuron is then about `act(log-odds - threshold)`: near 0
///   below the threshold, and increasing above it.
/// * The column in `down_proj` is a shift divided by the mean activation at detected toxic tokens: the difference between the MLP's mean
///   outputs at the end of non-toxic and of toxic prompts (the shift of Mean-AcT, arXiv 2410.23054), or that of
///   [`CausalSteering`](crate::CausalSteering) in [`Component::CausalPatches`](crate::Component::CausalPatches).
///
/// The intervention consists of a few added neurons, which can be folded into any checkpoint and need no condition. The samples of the two
/// classes should be risky and harmless prompts, with their answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionalPatches {
    /// The share of non-toxic tokens above the threshold of the neurons.
    pub false_positive_rate: f64,
    /// The distance by which detected tokens are moved, in differences of means or in shifts of causal steering.
    pub strength: f64,
    /// The layers; all without a range.
    pub layers: Option<RangeInclusive<usize>>,
    /// The weight of the tokens relative to the penalty in the logistic regression (scikit-learn's `C`).
    pub c: f64,
    /// The stride by which image tokens are sampled; 0 counts as 1.
    pub image_stride: usize,
    /// Samples run together.
    pub batch_size: usize,
}

impl Default for ConditionalPatches {
    fn default() -> Self {
        Self { false_positive_rate: 0.1, strength: 1.0, layers: None, c: 0.1, image_stride: 8, batch_size: 16 }
    }
}

impl ConditionalPatches {
    /// Fits the neurons to labelled samples, which pass the model [layer by layer](sgm_capture::Layerwise); this takes as long as two runs.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when a class has no samples or a setting is out of range, and the errors of the model and the samples.
    pub fn fit<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, calibration: Option<Calibration>) -> Result<Intervention> {
        self.fit_beside_neutral(model, examples, examples.len(), None, calibration)
    }

    /// The same with neutral texts after the first `matched` examples: the neurons learn to leave their tokens alone, but the shift is that
    /// between the samples of the two classes, or else that of `shifts` at the output of the same MLP.
    pub(super) fn fit_beside_neutral<M: Mllm + ?Sized>(
        &self,
        model: &M,
        examples: &Examples<'_>,
        matched: usize,
        shifts: Option<&Intervention>,
        calibration: Option<Calibration>,
    ) -> Result<Intervention> {
        if !(0.0..1.0).contains(&self.false_positive_rate) || !self.strength.is_finite() {
            let (rate, strength) = (self.false_positive_rate, self.strength);
            let reason = format!("a false positive rate of {rate} and a strength of {strength}; expected one in 0..1 and a finite number");
            return Err(Error::Fit { reason });
        }
        let info = model.info();
        let method = if shifts.is_some() { "causal-patches" } else { "conditional-patches" };
        let mut fitted = Intervention::new(metadata(info, method, self, calibration));
        let mut layers: Vec<usize> = info.sites.iter().map(|info| info.site.layer).collect();
        layers.dedup();
        let capture = Capture { batch_size: self.batch_size, ..Capture::new(Vec::new()) };
        let mut samples = capture.layerwise(model, examples)?;
        for layer in layers.into_iter().filter(|layer| self.layers.as_ref().is_none_or(|layers| layers.contains(layer))) {
            let _span = tracing::info_span!("patch neuron of layer", layer).entered();
            let tapped = TappedModel::new(model);
            let glasses = Glasses::wear(&tapped, &fitted, Amplify::Refuse)?;
            let stride = self.image_stride.max(1);
            let chosen = move |toxic: bool, kind: TokenKind, end: bool, place: usize| match (toxic, kind) {
                (true, kind) => end || kind == TokenKind::Response,
                (false, TokenKind::Image) => place.is_multiple_of(stride),
                (false, _) => true,
            };
            samples.advance_to(&tapped, layer)?;
            let tokens = samples.mlp_tokens(&tapped, chosen)?;
            drop(glasses);
            let shift = shifts.and_then(|shifts| shifts.sites().get(&Site::new(layer, Projection::Down))?.shift.as_deref());
            let neuron = self.neuron(tokens, matched, shift)?;
            fitted.insert_patches(layer, vec![neuron])?;
        }
        Ok(fitted)
    }

    /// The neuron of one layer; the first `matched` samples determine the shift.
    fn neuron(&self, mut samples: Vec<MlpTokens>, matched: usize, shift: Option<&[f32]>) -> Result<PatchNeuron> {
        let (mut toxic_end, mut other_end) = (Mean::default(), Mean::default());
        for (number, sample) in samples.iter_mut().enumerate() {
            for (_, _, _, output) in sample.tokens().filter(|(_, end, ..)| *end && number < matched) {
                if sample.toxic { &mut toxic_end } else { &mut other_end }.add(output);
            }
            // All outputs together take as much memory as all inputs, and no more than the means of some is needed.
            sample.outputs = Vec::new();
        }
        if toxic_end.count == 0 || other_end.count == 0 {
            let reason = format!("there are {} toxic and {} non-toxic samples, expected some of both", toxic_end.count, other_end.count);
            return Err(Error::Fit { reason });
        }
        let hidden = toxic_end.values.len().max(1);
        let tokens: Vec<(&[f32], bool)> =
            samples.iter().flat_map(|sample| sample.inputs.chunks_exact(hidden).map(|input| (input, sample.toxic))).collect();
        let inputs = tokens.iter().map(|(input, _)| *input).collect::<Vec<_>>();
        let (log_odds, one) = rayon::join(|| logistic_regression(&tokens, self.c, 1e-3), || constant(&inputs));
        let failed = |error| Error::Fit { reason: format!("no constant could be computed from an MLP's inputs: {error}") };
        let (log_odds, one) = (log_odds?.weights, one.map_err(failed)?);
        let mut unnoticed: Vec<f64> = tokens.iter().filter(|(_, toxic)| !toxic).map(|(input, _)| product(&log_odds, input)).collect();
        unnoticed.sort_unstable_by(|a, b| b.total_cmp(a));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the number of tokens")]
        let threshold = unnoticed.get((self.false_positive_rate * unnoticed.len() as f64) as usize).copied().unwrap_or_default();
        let gate: Vec<f64> = log_odds.iter().zip(&one).map(|(w, one)| w - threshold * one).collect();
        let activations = tokens.iter().filter(|(_, toxic)| *toxic).map(|(x, _)| (product(&gate, x), product(&one, x)));
        // Computed with the sigmoid linear unit; other activation functions of the family are close to it for positive gates.
        let noticed: Vec<f64> = activations.map(|(gate, one)| gate / (1.0 + (-gate).exp()) * one).filter(|a| *a > 0.0).collect();
        let mean = noticed.iter().sum::<f64>() / noticed.len().max(1) as f64;
        let factor = if noticed.is_empty() { 0.0 } else { self.strength / mean };
        let difference = || other_end.values.iter().zip(&toxic_end.values).map(|(other, toxic)| other - toxic).collect();
        let shift = shift.map_or_else(difference, |shift| shift.iter().copied().map(f64::from).collect::<Vec<_>>());
        let down = shift.into_iter().map(|shift| factor * shift);
        #[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32")]
        let single = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        Ok(PatchNeuron { gate: single(gate), up: single(one), down: single(down.collect()) })
    }
}
