//! Hand-written derivatives of operations that candle does not record.
//!
//! candle's fused operations (norm, rotation, softmax) and this crate's products with weights have no backward pass.
//! Their forward values stay bit-equal; their derivatives are defined here. None of this runs unless a tensor is
//! [tracked](Tensor::track_op), and only taps that ask for gradients track tensors.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, D, Layout, Module, Result as CandleResult, Shape, Storage, Tensor};

/// Attaches a derivative to `value`, a function of `input`: gradients that reach the returned tensor go back through
/// `backward`.
///
/// `backward` gets the value and the gradient with respect to it, both of the value's shape, and returns the gradient
/// with respect to `input`, of the shape of `input`. If `input` is not [tracked](Tensor::track_op), the returned tensor
/// is `value` itself. Otherwise it is a bit-equal copy, which requires a tensor on the CPU.
///
/// `value` must have been computed from `input.detach()`, or by an operation that candle does not record.
///
/// # Errors
///
/// candle's errors, among them one for tracked tensors that are not on the CPU.
pub fn with_gradient<B>(input: &Tensor, value: Tensor, backward: B) -> CandleResult<Tensor>
where
    B: Fn(&Tensor, &Tensor) -> CandleResult<Tensor> + Send + Sync + 'static,
{
    if !input.track_op() {
        return Ok(value);
    }
    input.apply_op1(ValueWithGradient { value: Mutex::new(Some(value)), backward })
}

struct ValueWithGradient<B> {
    /// Taken when the result is made.
    value: Mutex<Option<Tensor>>,
    backward: B,
}

impl<B> CustomOp1 for ValueWithGradient<B>
where
    B: Fn(&Tensor, &Tensor) -> CandleResult<Tensor>,
{
    fn name(&self) -> &'static str {
        "known"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(value) = value else { candle_core::bail!("a known value is taken once") };
        // A narrowed or transposed value would not fill its storage; the copy does.
        let value = value.force_contiguous()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.clone(), layout.shape().clone())),
            _ => candle_core::bail!("gradients of tensors that are not on the CPU"),
        }
    }

    fn bwd(&self, _: &Tensor, value: &Tensor, gradient: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some((self.backward)(&value.detach(), gradient)?))
    }
}

/// The root-mean-square norm of decoders.
#[derive(Debug)]
pub(crate) struct RmsNorm(candle_nn::RmsNorm);

impl RmsNorm {
    pub(crate) fn new(weight: Tensor, eps: f64) -> Self {
        Self(candle_nn::RmsNorm::new(weight, eps))
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> CandleResult<Tensor> {
        let inputs = x.detach();
        let (weight, eps) = (self.0.weight().clone(), self.0.eps());
        // With n = x / rms and g = gradient * weight: (g - n * mean(g * n)) / rms.
        with_gradient(x, self.0.forward(&inputs)?, move |_, gradient| {
            let rms = (inputs.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
            let normed = inputs.broadcast_div(&rms)?;
            let gradient = gradient.broadcast_mul(&weight)?;
            let along = (&gradient * &normed)?.mean_keepdim(D::Minus1)?;
            (gradient - normed.broadcast_mul(&along)?)?.broadcast_div(&rms)
        })
    }
}

/// Softmax over the last dimension.
pub(crate) fn softmax(x: &Tensor) -> CandleResult<Tensor> {
    with_gradient(x, candle_nn::ops::softmax_last_dim(&x.detach())?, |probabilities, gradient| {
        let weighted = (gradient * probabilities)?;
        &weighted - probabilities.broadcast_mul(&weighted.sum_keepdim(D::Minus1)?)?
    })
}

/// Rotates contiguous heads `[batch, heads, tokens, head_dim]`; gradients are rotated back.
pub(crate) fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> CandleResult<Tensor> {
    let back = if x.track_op() { Some((cos.clone(), sin.neg()?)) } else { None };
    with_gradient(x, candle_nn::rotary_emb::rope(&x.detach(), cos, sin)?, move |_, gradient| match &back {
        Some((cos, sin)) => candle_nn::rotary_emb::rope(&gradient.contiguous()?, cos, sin),
        None => Ok(gradient.clone()),
    })
}
