//! Neurons that an intervention adds, at work in a running model.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use sgm_core::{Intervention, PatchNeuron};
use sgm_models::{MlpInput, change_values, with_values};

/// The added neurons of all layers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patches(BTreeMap<usize, Added>);

/// The added neurons of one layer, at least one.
#[derive(Debug, Clone)]
pub(crate) struct Added {
    /// f32 `[added, 3, hidden]`: the weights of each neuron's gate, up and down side by side, so that they come from memory together.
    neurons: Vec<f32>,
    added: usize,
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
            let side_by_side = neurons.iter().flat_map(|n| [&n.gate, &n.up, &n.down]).flatten().copied().collect();
            Ok(Added { gate, up, down: matrix(|n| &n.down)?, neurons: side_by_side, added })
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
    /// Adds what the neurons say to the output of the layer's MLP; `strengths` has a factor for each token, batch by batch.
    pub(crate) fn apply_to(&self, input: &MlpInput<'_>, output: Tensor, strengths: &[f32]) -> sgm_models::Result<Tensor> {
        let (batch, tokens, hidden) = output.dims3()?;
        let (dtype, device) = (output.dtype(), output.device());
        // Where gradients are wanted, candle must record what happens.
        if device.is_cpu() && dtype == DType::F32 && !output.track_op() && !input.hidden.track_op() {
            let output = output.contiguous()?;
            change_values(&output, |output| self.add_to(input, output, strengths))?;
            return Ok(output);
        }
        let x = input.hidden.reshape((batch * tokens, hidden))?;
        let read = |weights: &Tensor| x.matmul(&weights.to_device(device)?.to_dtype(dtype)?);
        let active = (input.activate(&read(&self.gate)?)? * read(&self.up)?)?;
        let strengths = Tensor::from_slice(strengths, (batch * tokens, 1), device)?.to_dtype(dtype)?;
        let active = active.broadcast_mul(&strengths)?;
        let added = active.matmul(&self.down.to_device(device)?.to_dtype(dtype)?)?;
        Ok((output + added.reshape((batch, tokens, hidden))?)?)
    }

    /// The same on numbers `[batch, tokens, hidden]`, in place and in plain loops: as precise as candle's products, and free of what ten operations
    /// on small tensors cost.
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
        pulp::Arch::new().dispatch(Say { neurons, added, active, output });
        Ok(())
    }
}

/// What the neurons' gates read from hidden states `[tokens, hidden]`, then what their ups do, each `[tokens, added]`.
struct Read<'a> {
    neurons: &'a [f32],
    added: usize,
    hidden: &'a [f32],
}

impl pulp::WithSimd for Read<'_> {
    type Output = Vec<f32>;

    // Compiled anew, with the instructions of `S`, for each.
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

/// Adds to an MLP's output `[tokens, hidden]` what active neurons `[tokens, added]` say.
struct Say<'a> {
    neurons: &'a [f32],
    added: usize,
    active: &'a [f32],
    output: &'a mut [f32],
}

impl pulp::WithSimd for Say<'_> {
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

/// The sum of products, in lanes that a processor adds to at once.
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
