//! Inputs and outputs of one layer's MLP at single tokens.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use sgm_core::Site;
use sgm_models::{MlpInput, Tap, TokenKind, TokenSpans, with_values};

/// The inputs and outputs of one layer's MLP at some tokens of one sample; see
/// [`Layerwise::mlp_tokens`](crate::Layerwise::mlp_tokens).
#[derive(Debug, Clone, PartialEq)]
pub struct MlpTokens {
    /// Whether the sample is toxic.
    pub toxic: bool,
    /// The kinds of the tokens.
    pub kinds: Vec<TokenKind>,
    /// Whether each token is the last one of the prompt.
    pub prompt_end: Vec<bool>,
    /// Normalised hidden states `[tokens, hidden]`, f32, row-major.
    pub inputs: Vec<f32>,
    /// The MLP's outputs `[tokens, hidden]` after all taps, f32, row-major.
    pub outputs: Vec<f32>,
}

impl MlpTokens {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether no token was chosen.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Each token: its kind, whether it ends the prompt, its input and its output `[hidden]`.
    pub fn tokens(&self) -> impl Iterator<Item = (TokenKind, bool, &[f32], &[f32])> {
        let hidden = (self.inputs.len() / self.kinds.len().max(1)).max(1);
        let values = self.inputs.chunks_exact(hidden).zip(self.outputs.chunks_exact(hidden));
        self.kinds.iter().zip(&self.prompt_end).zip(values).map(|((kind, end), (input, output))| (*kind, *end, input, output))
    }
}

/// A tap that keeps the inputs and outputs of one layer's MLP by the caller's id.
pub(crate) struct MlpTap<F> {
    layer: usize,
    labels: Vec<bool>,
    chosen: F,
    samples: Mutex<BTreeMap<usize, MlpTokens>>,
}

impl<F> MlpTap<F> {
    pub(crate) fn new(layer: usize, labels: Vec<bool>, chosen: F) -> Self {
        Self { layer, labels, chosen, samples: Mutex::default() }
    }

    pub(crate) fn take(&self) -> BTreeMap<usize, MlpTokens> {
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Fn(bool, TokenKind, bool, usize) -> bool + Send + Sync> Tap for MlpTap<F> {
    fn apply(&self, _: Site, output: Tensor, _: &TokenSpans) -> sgm_models::Result<Tensor> {
        Ok(output)
    }

    fn after_mlp(&self, input: &MlpInput<'_>, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        if input.layer != self.layer {
            return Ok(output);
        }
        let (_, _, hidden) = output.dims3()?;
        for (index, row) in spans.ids().iter().enumerate() {
            let toxic = self.labels.get(*row).copied().unwrap_or_default();
            let kinds = spans.row(index);
            let end = kinds.iter().rposition(|kind| matches!(kind, TokenKind::PromptText | TokenKind::Image));
            let is_chosen = |(place, kind): &(usize, &TokenKind)| {
                **kind != TokenKind::Padding && (self.chosen)(toxic, **kind, Some(*place) == end, *place)
            };
            let places: Vec<usize> = kinds.iter().enumerate().filter(is_chosen).map(|(place, _)| place).collect();
            let read = |tensor: &Tensor| {
                let row = tensor.narrow(0, index, 1)?;
                with_values(&row, |values| {
                    let token = |place: &usize| values.get(place * hidden..(place + 1) * hidden).unwrap_or_default();
                    places.iter().flat_map(|place| token(place).iter().copied()).collect::<Vec<f32>>()
                })
            };
            let sample = MlpTokens {
                toxic,
                kinds: places.iter().filter_map(|place| kinds.get(*place)).copied().collect(),
                prompt_end: places.iter().map(|place| Some(*place) == end).collect(),
                inputs: read(input.hidden)?,
                outputs: read(&output)?,
            };
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).insert(*row, sample);
        }
        Ok(output)
    }
}
