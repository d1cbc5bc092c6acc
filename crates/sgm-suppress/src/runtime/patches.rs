//! Patch neurons of an intervention in a running model.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use sgm_core::{Intervention, PatchNeuron};
use sgm_models::{MlpInput, change_values, with_values};

use crate::kernel::{OnDevice, Strengths, TokenStrengths};

/// The added neurons of all layers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patches(BTreeMap<usize, Added>);

/// The added neurons of one layer, at least one.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    /// f32 `[added, 3, hidden]`: each neuron's gate, up and down weights next to each other in memory.
    neurons: Vec<f32>,
    added: usize,
    /// The gate weights, then the up weights, `[hidden, 2 * added]`.
    gate_up: OnDevice,
    /// The down weights, `[added, hidden]`.
    down: OnDevice,
}

impl Patches {
    pub(crate) fn new(intervention: &Intervention) -> Self {
        let layer = |neurons: &Vec<PatchNeuron>| {
            let side_by_side = neurons.iter().flat_map(|n| [&n.gate, &n.up, &n.down]).flatten().copied().collect();
            Added { neurons: side_by_side, added: neurons.len(), gate_up: OnDevice::default(), down: OnDevice::default() }
        };
        let layers = intervention.patches().iter().filter(|(_, neurons)| !neurons.is_empty());
        Self(layers.map(|(index, neurons)| (*index, layer(neurons))).collect())
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
    /// Adds the neurons' contribution to the output of the layer's MLP; `strengths` has a factor for each token, sequence after sequence.
    pub(crate) fn apply_to(&self, input: &MlpInput<'_>, output: Tensor, strengths: &TokenStrengths) -> sgm_models::Result<Tensor> {
        let (batch, tokens, hidden) = output.dims3()?;
        let (dtype, device) = (output.dtype(), output.device());
        // If gradients are tracked, candle must record the operations.
        if device.is_cpu() && dtype == DType::F32 && !output.track_op() && !input.hidden.track_op() {
            let output = output.contiguous()?;
            change_values(&output, |output| self.add_to(input, output, strengths.each()))?;
            return Ok(output);
        }
        Ok(self.add_by_products(input, &output.reshape((batch * tokens, hidden))?, strengths)?.reshape((batch, tokens, hidden))?)
    }

    /// Adds the contribution to the output `[tokens, hidden]` by two products of tensors.
    fn add_by_products(&self, input: &MlpInput<'_>, output: &Tensor, strengths: &TokenStrengths) -> sgm_models::Result<Tensor> {
        let (dtype, device) = (output.dtype(), output.device());
        let (tokens, hidden) = output.dims2()?;
        let neurons = || Tensor::from_slice(&self.neurons, (self.added, 3, hidden), device);
        let gate_up = self.gate_up.get(device, dtype, || neurons()?.narrow(1, 0, 2)?.transpose(0, 1)?.flatten_to(1)?.t()?.contiguous())?;
        let down = self.down.get(device, dtype, || neurons()?.narrow(1, 2, 1)?.squeeze(1)?.contiguous())?;
        let read = input.hidden.reshape((tokens, hidden))?.matmul(&gate_up)?;
        let part = |at: usize| read.narrow(1, at * self.added, self.added)?.contiguous();
        let active = (input.activate(&part(0)?)? * part(1)?)?;
        let active = match strengths.strengths() {
            Strengths::Same(1.0) => active,
            _ => active.broadcast_mul(&strengths.column(device)?.to_dtype(dtype)?)?,
        };
        Ok((output + active.matmul(&down)?)?)
    }

    /// Adds the neurons' contribution to numbers `[batch, tokens, hidden]` in place, in plain loops: with the precision of candle's
    /// products and without the overhead of ten operations on small tensors.
    pub(crate) fn add_to(&self, input: &MlpInput<'_>, output: &mut [f32], strengths: &[f32]) -> sgm_models::Result<()> {
        let (neurons, added) = (&self.neurons, self.added);
        let mut read = with_values(input.hidden, |hidden| pulp::Arch::new().dispatch(Read { neurons, added, hidden }))?;
        let half = read.len() / 2;
        let (active, ups) = read.split_at_mut(half);
        input.activate_values(active)?;
        active.iter_mut().zip(ups).for_each(|(active, up)| *active *= *up);
        for (active, strength) in active.chunks_exact_mut(added).zip(strengths) {
            active.iter_mut().for_each(|active| *active *= strength);
        }
        pulp::Arch::new().dispatch(Contribute { neurons, added, active, output });
        Ok(())
    }
}

/// The products of hidden states `[tokens, hidden]` with the neurons' gate weights, then with their up weights, each `[tokens, added]`.
struct Read<'a> {
    neurons: &'a [f32],
    added: usize,
    hidden: &'a [f32],
}

impl pulp::WithSimd for Read<'_> {
    type Output = Vec<f32>;

    // Inlined so that each instantiation uses the instructions of `S`.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Self::Output {
        let Self { neurons, added, hidden } = self;
        let width = (neurons.len() / (3 * added)).max(1);
        let half = hidden.len() / width * added;
        let mut read = vec![0.0; 2 * half];
        let (gates, ups) = read.split_at_mut(half);
        for ((row, gates), ups) in hidden.chunks_exact(width).zip(gates.chunks_exact_mut(added)).zip(ups.chunks_exact_mut(added)) {
            for ((neuron, gate), up) in neurons.chunks_exact(3 * width).zip(gates).zip(ups) {
                let (reads, _) = neuron.split_at(2 * width);
                let (of_gate, of_up) = reads.split_at(width);
                (*gate, *up) = (dot(of_gate, row), dot(of_up, row));
            }
        }
        read
    }
}

/// The addition of the contributions of neurons with activations `[tokens, added]` to an MLP's output `[tokens, hidden]`.
struct Contribute<'a> {
    neurons: &'a [f32],
    added: usize,
    active: &'a [f32],
    output: &'a mut [f32],
}

impl pulp::WithSimd for Contribute<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { neurons, added, active, output } = self;
        let width = (neurons.len() / (3 * added)).max(1);
        for (row, active) in output.chunks_exact_mut(width).zip(active.chunks_exact(added)) {
            for (neuron, active) in neurons.chunks_exact(3 * width).zip(active) {
                let down = neuron.get(2 * width..).unwrap_or_default();
                row.iter_mut().zip(down).for_each(|(value, down)| *value += active * down);
            }
        }
    }
}

/// The dot product of two vectors of equal length, summed in eight lanes for vector instructions.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    let (a, b) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a.0.iter().zip(b.0) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f32>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f32>()
}
