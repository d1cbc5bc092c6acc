//! The gated MLP of decoder layers, with a tap on the output of each projection.

use candle_core::Tensor;
use candle_nn::Module;
use rayon::prelude::*;
use sgm_core::{Projection, Site};

use crate::Result;
use crate::activation::Activation;
use crate::decoder_config::DecoderConfig;
use crate::linear::{Linear, Weights};
use crate::tap::{Edit, MlpInput, PassTaps};
use crate::values::{change_values, change_values_by, changeable};

/// `down(activation(gate(x)) * up(x))`.
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
        let [gate, up] = if config.fused {
            let parts = weights.fused("gate_up_proj", hidden, &[intermediate, intermediate])?;
            <[Linear; 2]>::try_from(parts).map_err(|_| candle_core::Error::Msg("gate_up_proj has two parts".to_owned()))?
        } else {
            let linear = |p: Projection| weights.linear(p.name(), hidden, intermediate, mlp_bias);
            [linear(Projection::Gate)?, linear(Projection::Up)?]
        };
        let down = weights.linear(Projection::Down.name(), intermediate, hidden, mlp_bias)?;
        Ok(Self { gate, up, down, activation, layer })
    }

    /// The output for normalised hidden states, added to `residual` if there is one; all of shape `[batch, tokens, hidden]`.
    pub(crate) fn forward(&self, x: &Tensor, residual: Option<&Tensor>, taps: &PassTaps) -> Result<Tensor> {
        let site = |projection| Site::new(self.layer, projection);
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        let in_place = changeable(&gate) && changeable(&up) && residual.is_none_or(changeable);
        if let Some(edits) = taps.edits().filter(|_| in_place) {
            return self.in_place(x, gate, up, residual, edits);
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

    /// The same, to the bit, in the memory of the projections' outputs: as many operations on tensors with taps as without.
    fn in_place(&self, x: &Tensor, gate: Tensor, up: Tensor, residual: Option<&Tensor>, edits: &[Box<dyn Edit>]) -> Result<Tensor> {
        let edit = |projection, values: &mut [f32]| edits.iter().try_for_each(|e| e.apply(Site::new(self.layer, projection), values));
        let gate = if self.activation.is_direct() {
            change_values(&gate, |values| {
                edit(Projection::Gate, values)?;
                Ok(self.activation.replace(values)?)
            })?;
            gate
        } else {
            if !edits.is_empty() {
                change_values(&gate, |values| edit(Projection::Gate, values))?;
            }
            self.activation.forward(&gate)?
        };
        change_values_by(&up, &gate, |up, gate| {
            edit(Projection::Up, up)?;
            by_each(up, gate, |up, gate| *up *= gate);
            Ok(())
        })?;
        let output = self.down.forward(&up)?;
        let last = |values: &mut [f32]| {
            edit(Projection::Down, values)?;
            edits.iter().try_for_each(|edit| edit.after_mlp(&self.input(x), values))
        };
        match residual {
            None => change_values(&output, last)?,
            Some(residual) => change_values_by(&output, residual, |output, residual| {
                last(output)?;
                by_each(output, residual, |output, residual| *output += residual);
                Ok(())
            })?,
        }
        Ok(output)
    }

    fn input<'a>(&self, x: &'a Tensor) -> MlpInput<'a> {
        MlpInput::new(self.layer, x, self.activation)
    }
}

/// Changes each number by its counterpart, in parallel where they are many.
fn by_each(values: &mut [f32], others: &[f32], change: impl Fn(&mut f32, &f32) + Sync) {
    /// Numbers that a thread takes at a time.
    const CHUNK: usize = 1 << 15;
    let serial = |values: &mut [f32], others: &[f32]| values.iter_mut().zip(others).for_each(|(value, other)| change(value, other));
    if values.len() <= CHUNK {
        return serial(values, others);
    }
    values.par_chunks_mut(CHUNK).zip(others.par_chunks(CHUNK)).for_each(|(values, others)| serial(values, others));
}
