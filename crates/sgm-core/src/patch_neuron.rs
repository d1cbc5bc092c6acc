//! Patch neurons: neurons that an intervention adds to an MLP.

use std::collections::BTreeMap;

use crate::{Error, Projection, Result, Site};

/// A neuron that an intervention adds to the gated MLP of a layer: `y += down * act(gate . x) * (up . x)`, where x is the MLP's input
/// (normalised hidden states), act its activation function and y its output, before any norm of the output.
///
/// With a detector as its gate the neuron acts only at the tokens that the detector finds. It is an ordinary hidden neuron, so that any
/// inference engine runs it as part of a checkpoint. Patch neurons were introduced to edit models (Transformer-Patcher, arXiv 2301.09785).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PatchNeuron {
    /// A row for `gate_proj`, f32 `[hidden]`.
    pub gate: Vec<f32>,
    /// A row for `up_proj`, f32 `[hidden]`.
    pub up: Vec<f32>,
    /// A column for `down_proj`, f32 `[hidden]`.
    pub down: Vec<f32>,
}

impl PatchNeuron {
    /// The neuron's weights at each projection.
    pub fn weights(&self) -> [(Projection, &[f32]); 3] {
        [(Projection::Gate, &self.gate), (Projection::Up, &self.up), (Projection::Down, &self.down)]
    }
}

/// The vectors of a layer's patch neurons by site, neuron after neuron, as files hold them.
pub(crate) fn to_vectors(layer: usize, neurons: &[PatchNeuron]) -> [(Site, Vec<f32>); 3] {
    Projection::ALL.map(|projection| {
        let of =
            |neuron: &PatchNeuron| neuron.weights().into_iter().find(|(p, _)| *p == projection).map_or(Vec::new(), |(_, w)| w.to_vec());
        (Site::new(layer, projection), neurons.iter().flat_map(of).collect())
    })
}

/// The neurons of a layer, from the vectors by projection and the length of one neuron's vector.
pub(crate) fn from_vectors(layer: usize, vectors: &BTreeMap<Projection, (Vec<f32>, usize)>) -> Result<Vec<PatchNeuron>> {
    let mut count = None;
    let mut parts = Projection::ALL.into_iter().map(|projection| {
        let site = Site::new(layer, projection).to_string();
        let (values, hidden) = vectors.get(&projection).map_or((&[][..], 0), |(values, hidden)| (values.as_slice(), *hidden));
        let parts: Vec<Vec<f32>> = values.chunks_exact(hidden.max(1)).map(<[f32]>::to_vec).collect();
        match *count.get_or_insert(parts.len()) {
            expected if expected != parts.len() => Err(Error::Width { site, what: PATCH, expected, got: parts.len() }),
            _ => Ok(parts),
        }
    });
    let mut next = || parts.next().unwrap_or_else(|| Ok(Vec::new()));
    let (gates, ups, downs) = (next()?, next()?, next()?);
    let neurons = gates.into_iter().zip(ups).zip(downs).map(|((gate, up), down)| PatchNeuron { gate, up, down });
    Ok(neurons.collect())
}

/// The name of patch neurons' weights in a file.
pub(crate) const PATCH: &str = "patch";

/// Checks that the vectors of a layer's neurons have one length and finite values.
pub(crate) fn check(layer: usize, neurons: &[PatchNeuron]) -> Result<()> {
    let hidden = neurons.first().map_or(0, |neuron| neuron.gate.len());
    for (neuron, (projection, weights)) in neurons.iter().enumerate().flat_map(|(i, neuron)| neuron.weights().map(|w| (i, w))) {
        let site = Site::new(layer, projection).to_string();
        if weights.len() != hidden {
            return Err(Error::Width { site, what: PATCH, expected: hidden, got: weights.len() });
        }
        if let Some(value) = weights.iter().copied().find(|v| !v.is_finite()) {
            return Err(Error::Value { site, what: PATCH, neuron, value, expected: "a finite number" });
        }
    }
    Ok(())
}
