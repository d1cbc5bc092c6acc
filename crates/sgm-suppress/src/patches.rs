//! Neurons that an intervention adds, at work in a running model.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use sgm_core::{Intervention, PatchNeuron};
use sgm_models::MlpInput;

/// The added neurons of all layers, as matrices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patches(BTreeMap<usize, Layer>);

#[derive(Debug, Clone)]
struct Layer {
    /// f32 `[hidden, added]`.
    gate: Tensor,
    /// f32 `[hidden, added]`.
    up: Tensor,
    /// f32 `[added, hidden]`.
    down: Tensor,
}

impl Patches {
    pub(crate) fn new(intervention: &Intervention) -> sgm_models::Result<Self> {
        let layer = |neurons: &[PatchNeuron]| -> sgm_models::Result<Layer> {
            let matrix = |part: fn(&PatchNeuron) -> &[f32]| -> sgm_models::Result<Tensor> {
                let (added, hidden) = (neurons.len(), neurons.first().map_or(0, |neuron| neuron.down.len()));
                let rows: Vec<f32> = neurons.iter().flat_map(part).copied().collect();
                Ok(Tensor::from_vec(rows, (added, hidden), &Device::Cpu)?)
            };
            let [gate, up] = [matrix(|n| &n.gate)?.t()?.contiguous()?, matrix(|n| &n.up)?.t()?.contiguous()?];
            Ok(Layer { gate, up, down: matrix(|n| &n.down)? })
        };
        Ok(Self(intervention.patches().iter().map(|(index, neurons)| Ok((*index, layer(neurons)?))).collect::<sgm_models::Result<_>>()?))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn changes(&self, layer: usize) -> bool {
        self.0.contains_key(&layer)
    }

    /// Adds what the neurons of a layer say to its MLP's output; `strengths` has a factor for each token, batch by batch, if not 1 for all.
    pub(crate) fn apply_to(&self, input: &MlpInput<'_>, output: Tensor, strengths: Option<Vec<f32>>) -> sgm_models::Result<Tensor> {
        let Some(layer) = self.0.get(&input.layer) else { return Ok(output) };
        let (batch, tokens, hidden) = output.dims3()?;
        let (dtype, device) = (output.dtype(), output.device());
        let x = input.hidden.reshape((batch * tokens, hidden))?;
        let read = |weights: &Tensor| x.matmul(&weights.to_device(device)?.to_dtype(dtype)?);
        let mut active = (input.activate(&read(&layer.gate)?)? * read(&layer.up)?)?;
        if let Some(strengths) = strengths {
            let strengths = Tensor::from_vec(strengths, (batch * tokens, 1), device)?.to_dtype(dtype)?;
            active = active.broadcast_mul(&strengths)?;
        }
        let added = active.matmul(&layer.down.to_device(device)?.to_dtype(dtype)?)?;
        Ok((output + added.reshape((batch, tokens, hidden))?)?)
    }
}
