//! The gated MLP of decoder layers, with a tap on the output of each projection.

use candle_core::Tensor;
use candle_nn::Module;
use rayon::prelude::*;
use sgm_core::{Projection, Site};

use crate::decoder::config::DecoderConfig;
use crate::error::Result;
use crate::layers::activation::Activation;
use crate::layers::linear::{Linear, Weights};
use crate::layers::values::{can_change_in_place, change_values, change_values_by};
use crate::taps::registry::PassTaps;
use crate::taps::tap::{InPlaceHook, MlpInput};

/// A gated MLP: `down(activation(gate(x)) * up(x))`.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
    layer: usize,
}

impl Mlp {
    pub(crate) fn new(config: &DecoderConfig, layer: usize, weights: &Weights<'_>) -> Result<Self> {
        let DecoderConfig { hidden, intermediate, mlp_bias, activation, .. } = *config;
        let [gate, up] = if config.fused_projections {
            let parts = weights.fused("gate_up_proj", hidden, &[intermediate, intermediate])?;
            <[Linear; 2]>::try_from(parts).map_err(|_| candle_core::Error::Msg("gate_up_proj has two parts".to_owned()))?
        } else {
            let linear = |p: Projection| weights.linear(p.name(), hidden, intermediate, mlp_bias);
            [linear(Projection::Gate)?, linear(Projection::Up)?]
        };
        let down = weights.linear(Projection::Down.name(), intermediate, hidden, mlp_bias)?;
        Ok(Self { gate, up, down, activation, layer })
    }

    /// Runs the MLP on normalised hidden states `[batch, tokens, hidden]` and adds `residual`, if given, of the same
    /// shape.
    pub(crate) fn forward(&self, x: &Tensor, residual: Option<&Tensor>, taps: &PassTaps) -> Result<Tensor> {
        let site = |projection| Site::new(self.layer, projection);
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        let in_place = can_change_in_place(&gate) && can_change_in_place(&up) && residual.is_none_or(can_change_in_place);
        if let Some(hooks) = taps.hooks().filter(|_| in_place) {
            return self.in_place(x, gate, up, residual, hooks);
        }
        let gate = taps.apply(site(Projection::Gate), gate)?;
        let up = taps.apply(site(Projection::Up), up)?;
        let y = (self.activation.forward(&gate)? * up)?;
        let output = taps.apply(site(Projection::Down), self.down.forward(&y)?)?;
        let output = taps.after_mlp(&self.input(x), output)?;
        match residual {
            None => Ok(output),
            Some(residual) => Ok((residual + output)?),
        }
    }

    /// Runs the MLP in the memory of the projections' outputs, bit-equal to the tensor form. The number of tensor
    /// operations does not depend on the taps.
    fn in_place(&self, x: &Tensor, gate: Tensor, up: Tensor, residual: Option<&Tensor>, hooks: &[Box<dyn InPlaceHook>]) -> Result<Tensor> {
        let hook = |projection, values: &mut [f32]| hooks.iter().try_for_each(|hook| hook.apply(Site::new(self.layer, projection), values));
        let gate = if self.activation.works_on_slices() {
            change_values(&gate, |values| {
                hook(Projection::Gate, values)?;
                Ok(self.activation.apply_in_place(values)?)
            })?;
            gate
        } else {
            if !hooks.is_empty() {
                change_values(&gate, |values| hook(Projection::Gate, values))?;
            }
            self.activation.forward(&gate)?
        };
        change_values_by(&up, &gate, |up, gate| {
            hook(Projection::Up, up)?;
            zip_in_parallel(up, gate, |up, gate| *up *= gate);
            Ok(())
        })?;
        let output = self.down.forward(&up)?;
        let last = |values: &mut [f32]| {
            hook(Projection::Down, values)?;
            hooks.iter().try_for_each(|hook| hook.after_mlp(&self.input(x), values))
        };
        match residual {
            None => change_values(&output, last)?,
            Some(residual) => change_values_by(&output, residual, |output, residual| {
                last(output)?;
                zip_in_parallel(output, residual, |output, residual| *output += residual);
                Ok(())
            })?,
        }
        Ok(output)
    }

    fn input<'a>(&self, x: &'a Tensor) -> MlpInput<'a> {
        MlpInput::new(self.layer, x, self.activation)
    }
}

/// Changes each value by its counterpart, in parallel for large slices.
fn zip_in_parallel(values: &mut [f32], others: &[f32], change: impl Fn(&mut f32, &f32) + Sync) {
    /// The number of values that one thread processes at a time.
    const CHUNK: usize = 1 << 15;
    let serial = |values: &mut [f32], others: &[f32]| values.iter_mut().zip(others).for_each(|(value, other)| change(value, other));
    if values.len() <= CHUNK {
        return serial(values, others);
    }
    values.par_chunks_mut(CHUNK).zip(others.par_chunks(CHUNK)).for_each(|(values, others)| serial(values, others));
}
