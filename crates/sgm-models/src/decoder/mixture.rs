//! Mixtures of experts, which stand for the MLPs of some decoder layers.
//!
//! A router sends each token to a few experts, gated MLPs of the same width. Their outputs are added with the weights that the router
//! gives them. The output of the whole mixture is a site, as the output of an MLP is; so are the outputs of the projections of each
//! expert, for taps that want them.

use candle_core::{DType, Tensor};
use candle_nn::Module;
use sgm_core::{Projection, Site};

use crate::decoder::config::{DecoderConfig, MixtureConfig};
use crate::error::{Error, Result};
use crate::layers::activation::Activation;
use crate::layers::derivative::softmax;
use crate::layers::linear::{Linear, Weights};
use crate::taps::registry::PassTaps;
use crate::taps::tap::MlpInput;
use crate::taps::token_spans::TokenSpans;

/// A mixture of experts.
#[derive(Debug)]
pub(crate) struct Mixture {
    router: Linear,
    experts: Vec<Expert>,
    /// An expert that all tokens pass, and the layer whose sigmoid is its weight.
    shared: Option<(Expert, Linear)>,
    per_token: usize,
    normalised: bool,
    activation: Activation,
    layer: usize,
}

/// A gated MLP without biases.
#[derive(Debug)]
struct Expert {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// The experts that each token is routed to.
struct Routing {
    /// The indices of the tokens of each expert, ascending.
    tokens: Vec<Vec<u32>>,
    /// The weight of each expert for each token, `[tokens, experts]`; 0 for experts that a token is not routed to.
    weights: Tensor,
}

impl Mixture {
    /// Loads a mixture whose experts are modules of their own, or stacked in two tensors of either orientation.
    pub(crate) fn new(config: &DecoderConfig, mixture: &MixtureConfig, layer: usize, weights: &Weights<'_>) -> Result<Self> {
        let DecoderConfig { hidden, activation, .. } = *config;
        let MixtureConfig { experts, per_token, intermediate, shared, normalised, .. } = *mixture;
        let shared = match shared {
            None => None,
            Some(width) => {
                let expert = Expert::new(&weights.pp("shared_expert"), ["gate_proj", "up_proj", "down_proj"], hidden, width)?;
                Some((expert, weights.linear("shared_expert_gate", hidden, 1, false)?))
            }
        };
        let router = weights.linear("gate", hidden, experts, false)?;
        let below = weights.pp("experts");
        let experts = if below.has("gate_up_proj") {
            stacked_experts(&below, experts, hidden, intermediate)?
        } else {
            // The second names are Mixtral's.
            let names = [["gate_proj", "up_proj", "down_proj"], ["w1", "w3", "w2"]];
            let [first, second] = names.map(|[gate, ..]| format!("0.{gate}.weight"));
            let names = names.into_iter().find(|[gate, ..]| below.has(&format!("0.{gate}.weight")));
            let names = names.ok_or_else(|| Error::MissingTensor {
                part: "experts",
                names: [first, second, "gate_up_proj".to_owned()].map(|name| format!("{}.{name}", below.vb().prefix())).into(),
            })?;
            (0..experts).map(|expert| Expert::new(&below.pp(expert), names, hidden, intermediate)).collect::<Result<_>>()?
        };
        Ok(Self { router, experts, shared, per_token, normalised, activation, layer })
    }

    /// Runs the mixture on normalised hidden states `[batch, tokens, hidden]` and adds `residual`, if given, of the same
    /// shape.
    pub(crate) fn forward(&self, x: &Tensor, residual: Option<&Tensor>, taps: &PassTaps) -> Result<Tensor> {
        let rows = x.flatten_to(1)?;
        let routing = self.route(&rows)?;
        let mut output = rows.zeros_like()?;
        // The order of experts is fixed, so that sums are.
        let spans = taps.spans_for_experts();
        for (index, (expert, tokens)) in self.experts.iter().zip(&routing.tokens).enumerate() {
            let tapped = match spans {
                None => None,
                Some(spans) => Some(TappedExpert::new((self.layer, index), (x, tokens), (taps, spans))?),
            };
            if tokens.is_empty() {
                if let Some(tapped) = &tapped {
                    tapped.no_token(expert)?;
                }
                continue;
            }
            let tokens = Tensor::new(tokens.as_slice(), x.device())?;
            let y = expert.forward(&rows.index_select(&tokens, 0)?, self.activation, tapped.as_ref())?;
            let weights = routing.weights.narrow(1, index, 1)?.contiguous()?.index_select(&tokens, 0)?;
            output = output.index_add(&tokens, &y.broadcast_mul(&weights)?, 0)?;
        }
        if let Some((expert, gate)) = &self.shared {
            let weights = candle_nn::ops::sigmoid(&gate.forward(&rows)?)?;
            output = (output + expert.forward(&rows, self.activation, None)?.broadcast_mul(&weights)?)?;
        }
        let output = taps.apply(Site::new(self.layer, Projection::Down), output.reshape(x.shape())?)?;
        let output = taps.after_mlp(&MlpInput::new(self.layer, x, self.activation), output)?;
        match residual {
            None => Ok(output),
            Some(residual) => Ok((residual + output)?),
        }
    }

    /// Routes tokens `[tokens, hidden]` to the experts with the largest probabilities; among equals, to those with the smaller index.
    fn route(&self, x: &Tensor) -> Result<Routing> {
        let dtype = x.dtype();
        let probabilities = softmax(&self.router.forward(x)?.to_dtype(DType::F32)?)?;
        let mut tokens = vec![Vec::new(); self.experts.len()];
        let mut selected = Vec::with_capacity(probabilities.elem_count());
        for (token, row) in probabilities.detach().to_vec2::<f32>()?.iter().enumerate() {
            let token = u32::try_from(token).map_err(|_| Error::Inputs { reason: "there are more than 2^32 tokens".to_owned() })?;
            let mut order: Vec<usize> = (0..row.len()).collect();
            let probability = |expert: &usize| row.get(*expert).copied().unwrap_or_default();
            order.sort_by(|a, b| probability(b).total_cmp(&probability(a)));
            order.truncate(self.per_token);
            selected.extend((0..row.len()).map(|expert| if order.contains(&expert) { 1f32 } else { 0.0 }));
            for expert in &order {
                if let Some(tokens) = tokens.get_mut(*expert) {
                    tokens.push(token);
                }
            }
        }
        let selected = Tensor::from_vec(selected, probabilities.shape(), x.device())?;
        let weights = (probabilities * selected)?;
        let weights = if self.normalised { weights.broadcast_div(&weights.sum_keepdim(1)?)? } else { weights };
        Ok(Routing { tokens, weights: weights.to_dtype(dtype)? })
    }
}

impl Expert {
    fn new(weights: &Weights<'_>, [gate, up, down]: [&str; 3], hidden: usize, intermediate: usize) -> Result<Self> {
        Ok(Self {
            gate: weights.linear(gate, hidden, intermediate, false)?,
            up: weights.linear(up, hidden, intermediate, false)?,
            down: weights.linear(down, intermediate, hidden, false)?,
        })
    }

    /// Runs the expert on tokens `[tokens, hidden]`.
    fn forward(&self, x: &Tensor, activation: Activation, tapped: Option<&TappedExpert<'_>>) -> Result<Tensor> {
        let tap = |projection, y: Tensor| match tapped {
            None => Ok(y),
            Some(tapped) => tapped.apply(projection, &y),
        };
        let gate = tap(Projection::Gate, self.gate.forward(x)?)?;
        let up = tap(Projection::Up, self.up.forward(x)?)?;
        tap(Projection::Down, self.down.forward(&(activation.forward(&gate)? * up)?)?)
    }
}

/// An expert whose outputs taps want.
struct TappedExpert<'a> {
    layer: usize,
    expert: usize,
    /// The numbers of sequences and of tokens of each.
    shape: (usize, usize),
    /// The indices of the tokens routed to the expert, u32 `[tokens]`.
    tokens: Tensor,
    spans: TokenSpans,
    taps: &'a PassTaps,
    dtype: DType,
}

impl<'a> TappedExpert<'a> {
    fn new((layer, expert): (usize, usize), (x, tokens): (&Tensor, &[u32]), (taps, spans): (&'a PassTaps, &TokenSpans)) -> Result<Self> {
        let (batch, count, _) = x.dims3()?;
        let mut routed = vec![false; batch * count];
        for token in tokens {
            if let Some(routed) = routed.get_mut(*token as usize) {
                *routed = true;
            }
        }
        let spans = spans.of_expert(routed);
        Ok(Self { layer, expert, shape: (batch, count), tokens: Tensor::new(tokens, x.device())?, spans, taps, dtype: x.dtype() })
    }

    /// Applies taps to outputs `[routed tokens, neurons]` of a projection.
    fn apply(&self, projection: Projection, y: &Tensor) -> Result<Tensor> {
        let ((batch, count), neurons) = (self.shape, y.dim(1)?);
        let all = Tensor::zeros((batch * count, neurons), y.dtype(), y.device())?.index_add(&self.tokens, y, 0)?;
        let site = Site::of_expert(self.layer, self.expert, projection);
        let all = self.taps.apply_to_expert(site, all.reshape((batch, count, neurons))?, &self.spans)?;
        Ok(all.flatten_to(1)?.index_select(&self.tokens, 0)?)
    }

    /// Shows taps that no token is routed to the expert.
    fn no_token(&self, expert: &Expert) -> Result<()> {
        let (batch, count) = self.shape;
        for (projection, linear) in [(Projection::Gate, &expert.gate), (Projection::Up, &expert.up), (Projection::Down, &expert.down)] {
            let zeros = Tensor::zeros((batch, count, linear.outputs()?), self.dtype, self.tokens.device())?;
            self.taps.apply_to_expert(Site::of_expert(self.layer, self.expert, projection), zeros, &self.spans)?;
        }
        Ok(())
    }
}

/// Loads experts from `gate_up_proj` `[experts, 2 * intermediate, hidden]` and `down_proj` `[experts, hidden, intermediate]`, or, as in
/// Qwen3-VL's files, from `[experts, hidden, 2 * intermediate]` and `[experts, intermediate, hidden]`.
///
/// Together, the shapes of both tensors tell the orientation in all cases.
fn stacked_experts(weights: &Weights<'_>, experts: usize, hidden: usize, intermediate: usize) -> Result<Vec<Expert>> {
    let (gate_up, down) = (weights.stacked("gate_up_proj")?, weights.stacked("down_proj")?);
    let width = 2 * intermediate;
    let transposed = match (gate_up.dims(), down.dims()) {
        (a, b) if a == [experts, width, hidden] && b == [experts, hidden, intermediate] => false,
        (a, b) if a == [experts, hidden, width] && b == [experts, intermediate, hidden] => true,
        (a, b) => {
            let prefix = weights.vb().prefix();
            let reason = format!("{prefix}: gate_up_proj is {a:?} and down_proj {b:?}");
            let expected = format!("the configuration says {experts} experts from {hidden} to {intermediate} channels");
            return Err(candle_core::Error::Msg(format!("{reason}; {expected}")).into());
        }
    };
    let expert = |expert| -> Result<Expert> {
        let (gate_up, down) = (gate_up.matrix(expert, transposed)?, down.matrix(expert, transposed)?);
        Ok(Expert { gate: gate_up.part(0, intermediate)?, up: gate_up.part(intermediate, intermediate)?, down: down.part(0, hidden)? })
    };
    (0..experts).map(expert).collect()
}
