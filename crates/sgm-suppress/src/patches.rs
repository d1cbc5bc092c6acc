//! Neurons that an intervention adds, at work in a running model.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor};
use sgm_core::{Intervention, PatchNeuron};
use sgm_models::{MlpInput, with_values};

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
    neurons: Vec<PatchNeuron>,
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
            Ok(Layer { gate, up, down: matrix(|n| &n.down)?, neurons: neurons.to_vec() })
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
    pub(crate) fn apply_to(&self, input: &MlpInput<'_>, output: Tensor, strengths: Option<&[f32]>) -> sgm_models::Result<Tensor> {
        let Some(layer) = self.0.get(&input.layer) else { return Ok(output) };
        let (batch, tokens, hidden) = output.dims3()?;
        let (dtype, device) = (output.dtype(), output.device());
        // Where gradients are wanted, candle must record what happens.
        if device.is_cpu() && dtype == DType::F32 && !output.track_op() && !input.hidden.track_op() {
            return layer.apply_in_place(input, output, strengths);
        }
        let x = input.hidden.reshape((batch * tokens, hidden))?;
        let read = |weights: &Tensor| x.matmul(&weights.to_device(device)?.to_dtype(dtype)?);
        let mut active = (input.activate(&read(&layer.gate)?)? * read(&layer.up)?)?;
        if let Some(strengths) = strengths {
            let strengths = Tensor::from_slice(strengths, (batch * tokens, 1), device)?.to_dtype(dtype)?;
            active = active.broadcast_mul(&strengths)?;
        }
        let added = active.matmul(&layer.down.to_device(device)?.to_dtype(dtype)?)?;
        Ok((output + added.reshape((batch, tokens, hidden))?)?)
    }
}

impl Layer {
    /// The same in plain loops, of which each token has its own: as precise, and free of what ten operations on small tensors cost.
    fn apply_in_place(&self, input: &MlpInput<'_>, output: Tensor, strengths: Option<&[f32]>) -> sgm_models::Result<Tensor> {
        let (batch, tokens, hidden) = output.dims3()?;
        let read = |row: &[f32], part: fn(&PatchNeuron) -> &[f32]| self.neurons.iter().map(|n| dot(part(n), row)).collect::<Vec<f32>>();
        let (gates, ups) = with_values(input.hidden, |values| {
            let rows = || values.chunks_exact(hidden.max(1));
            (
                rows().flat_map(|row| read(row, |n| &n.gate)).collect::<Vec<f32>>(),
                rows().flat_map(|row| read(row, |n| &n.up)).collect::<Vec<f32>>(),
            )
        })?;
        let gates = Tensor::from_vec(gates, (batch * tokens, self.neurons.len()), output.device())?;
        let mut active = with_values(&input.activate(&gates)?, <[f32]>::to_vec)?;
        active.iter_mut().zip(&ups).for_each(|(active, up)| *active *= up);
        for (active, strength) in active.chunks_exact_mut(self.neurons.len().max(1)).zip(strengths.unwrap_or_default()) {
            active.iter_mut().for_each(|active| *active *= strength);
        }
        let output = if output.is_contiguous() { output } else { output.contiguous()? };
        output.inplace_op1(&Added { neurons: &self.neurons, active })?;
        Ok(output)
    }
}

/// What added neurons say, added to what an MLP says.
struct Added<'a> {
    neurons: &'a [PatchNeuron],
    /// `[tokens, added]`.
    active: Vec<f32>,
}

impl InplaceOp1 for Added<'_> {
    fn name(&self) -> &'static str {
        "sgm-patches"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(all), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("sgm-patches: {layout:?} is not contiguous f32")
        };
        let hidden = layout.dims().last().copied().unwrap_or(1).max(1);
        let rows = all.get_mut(start..end).unwrap_or_default().chunks_exact_mut(hidden);
        for (row, active) in rows.zip(self.active.chunks_exact(self.neurons.len().max(1))) {
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
