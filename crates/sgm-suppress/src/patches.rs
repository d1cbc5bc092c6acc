//! Neurons that an intervention adds, at work in a running model.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor};
use sgm_core::{Intervention, PatchNeuron};
use sgm_models::{MlpInput, with_values};

/// The added neurons of all layers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patches(BTreeMap<usize, Added>);

/// The added neurons of one layer, at least one.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    neurons: Vec<PatchNeuron>,
    /// The same as matrices, f32 `[hidden, added]`.
    gate: Tensor,
    up: Tensor,
    /// f32 `[added, hidden]`.
    down: Tensor,
}

impl Patches {
    pub(crate) fn new(intervention: &Intervention) -> sgm_models::Result<Self> {
        let layer = |neurons: &Vec<PatchNeuron>| -> sgm_models::Result<Added> {
            let (added, hidden) = (neurons.len(), neurons.first().map_or(0, |neuron| neuron.down.len()));
            let matrix = |part: fn(&PatchNeuron) -> &[f32]| -> sgm_models::Result<Tensor> {
                let rows: Vec<f32> = neurons.iter().flat_map(part).copied().collect();
                Ok(Tensor::from_vec(rows, (added, hidden), &Device::Cpu)?)
            };
            let [gate, up] = [matrix(|n| &n.gate)?.t()?.contiguous()?, matrix(|n| &n.up)?.t()?.contiguous()?];
            Ok(Added { gate, up, down: matrix(|n| &n.down)?, neurons: neurons.clone() })
        };
        let layers = intervention.patches().iter().filter(|(_, neurons)| !neurons.is_empty());
        Ok(Self(layers.map(|(index, neurons)| Ok((*index, layer(neurons)?))).collect::<sgm_models::Result<_>>()?))
    }

    /// The neurons added to a layer, if there are any.
    pub(crate) fn of(&self, layer: usize) -> Option<&Added> {
        self.0.get(&layer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Added {
    /// Adds what the neurons say to the output of the layer's MLP; `strengths` has a factor for each token, batch by batch, if not 1 for all.
    pub(crate) fn apply_to(&self, input: &MlpInput<'_>, output: Tensor, strengths: Option<&[f32]>) -> sgm_models::Result<Tensor> {
        let (batch, tokens, hidden) = output.dims3()?;
        let (dtype, device) = (output.dtype(), output.device());
        // Where gradients are wanted, candle must record what happens.
        if device.is_cpu() && dtype == DType::F32 && !output.track_op() && !input.hidden.track_op() {
            let output = output.contiguous()?;
            let active = self.active(input, strengths)?;
            output.inplace_op1(&Sum { neurons: &self.neurons, active })?;
            return Ok(output);
        }
        let x = input.hidden.reshape((batch * tokens, hidden))?;
        let read = |weights: &Tensor| x.matmul(&weights.to_device(device)?.to_dtype(dtype)?);
        let mut active = (input.activate(&read(&self.gate)?)? * read(&self.up)?)?;
        if let Some(strengths) = strengths {
            let strengths = Tensor::from_slice(strengths, (batch * tokens, 1), device)?.to_dtype(dtype)?;
            active = active.broadcast_mul(&strengths)?;
        }
        let added = active.matmul(&self.down.to_device(device)?.to_dtype(dtype)?)?;
        Ok((output + added.reshape((batch, tokens, hidden))?)?)
    }

    /// How active the neurons are, `[tokens, added]`, in plain loops: as precise as candle's products, and free of what ten operations on small
    /// tensors cost.
    fn active(&self, input: &MlpInput<'_>, strengths: Option<&[f32]>) -> sgm_models::Result<Vec<f32>> {
        let added = self.neurons.len();
        let (mut active, ups) = with_values(input.hidden, |values| {
            let hidden = self.neurons.first().map_or(1, |neuron| neuron.gate.len().max(1));
            let room = values.len() / hidden * added;
            let (mut gates, mut ups) = (Vec::with_capacity(room), Vec::with_capacity(room));
            for row in values.chunks_exact(hidden) {
                gates.extend(self.neurons.iter().map(|neuron| dot(&neuron.gate, row)));
                ups.extend(self.neurons.iter().map(|neuron| dot(&neuron.up, row)));
            }
            (gates, ups)
        })?;
        input.activate_values(&mut active)?;
        active.iter_mut().zip(&ups).for_each(|(active, up)| *active *= up);
        for (active, strength) in active.chunks_exact_mut(added).zip(strengths.unwrap_or_default()) {
            active.iter_mut().for_each(|active| *active *= strength);
        }
        Ok(active)
    }
}

/// What added neurons say, added to what an MLP says.
struct Sum<'a> {
    neurons: &'a [PatchNeuron],
    /// `[tokens, added]`.
    active: Vec<f32>,
}

impl InplaceOp1 for Sum<'_> {
    fn name(&self) -> &'static str {
        "sgm-patches"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(all), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("sgm-patches: {layout:?} is not contiguous f32")
        };
        let hidden = layout.dims().last().copied().unwrap_or(1).max(1);
        let rows = all.get_mut(start..end).unwrap_or_default().chunks_exact_mut(hidden);
        for (row, active) in rows.zip(self.active.chunks_exact(self.neurons.len())) {
            for (neuron, active) in self.neurons.iter().zip(active) {
                row.iter_mut().zip(&neuron.down).for_each(|(value, down)| *value += active * down);
            }
        }
        Ok(())
    }
}

/// The sum of products, in lanes that a processor adds to at once.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.0.iter().zip(b.0) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f32>()
}
