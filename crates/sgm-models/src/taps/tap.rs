//! The interface of taps: the trait, its in-place form, and the inputs of an MLP.

use candle_core::Tensor;
use candle_nn::Module;
use sgm_core::Site;

use crate::error::Result;
use crate::layers::activation::Activation;
use crate::taps::token_spans::TokenSpans;

/// A hook on the output of every MLP projection during a forward pass, which may replace that output.
///
/// Capture and run-time suppression are taps. All threads that run the model share a tap, so a tap keeps gathered data
/// behind a lock; [`TokenSpans::ids`] identifies the sequences.
pub trait Tap: Send + Sync {
    /// Returns the access that the tap needs in the pass that is about to start.
    fn access(&self, spans: &TokenSpans) -> Access {
        let _ = spans;
        Access::Tensor
    }

    /// Whether the tap also wants the outputs of single experts of a mixture, in addition to the output of the whole mixture.
    ///
    /// A model has very many of them. Without a tap that wants them, they cost nothing.
    fn expert_sites(&self) -> bool {
        false
    }

    /// Receives the output of `site` and returns the output with which the model continues.
    ///
    /// # Shapes
    ///
    /// `output` is `[batch, tokens, neurons]`, of the model's dtype, contiguous; position `(b, t)` belongs to token `t`
    /// of row `b` of `spans`. The returned tensor must have the same shape.
    ///
    /// At the site of an expert, tokens that are not [routed](TokenSpans::routed) to it have zeros, and what the tap makes of
    /// them has no effect.
    ///
    /// # Requirements
    ///
    /// A tap that only reads returns `output` itself and must not keep a clone of it, because a later tap may change it
    /// in place. An `output` that is [tracked](Tensor::track_op) is part of a computation with gradients: it must not
    /// be changed in place, and a replacement must be computed from it by candle's recorded operations or
    /// [`with_gradient`](crate::with_gradient).
    ///
    /// If a sequence outgrows the original context of a LongRoPE model during decoding, the whole sequence is computed
    /// again, and taps see it again.
    ///
    /// # Errors
    ///
    /// [`Error::Tap`](crate::Error::Tap) or any other error ends the forward pass.
    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> Result<Tensor>;

    /// Receives the output of a layer's MLP after the taps of `down_proj`, and the input of that MLP; returns the
    /// output with which the model continues. A tap can thus read the inputs of an MLP and add neurons to it.
    ///
    /// # Shapes
    ///
    /// `output` and the input are `[batch, tokens, hidden]`. The requirements of [`apply`](Self::apply) hold.
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn after_mlp(&self, input: &MlpInput<'_>, output: Tensor, spans: &TokenSpans) -> Result<Tensor> {
        let _ = (input, spans);
        Ok(output)
    }

    /// Called when a pass has been through all sites; returns whether to repeat it from the same inputs.
    ///
    /// A tap can thus look at a whole prompt first and act on it in the repetition. Only a pass into an empty cache is
    /// repeated: as long as any tap asks for it, and at most once for each of its tokens. All taps see the repetition,
    /// with the same [sequence states](TokenSpans::state).
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn settle(&self, spans: &TokenSpans) -> Result<bool> {
        let _ = spans;
        Ok(false)
    }
}

/// The access to the outputs of sites that a tap needs in one pass.
pub enum Access {
    /// No access: the tap is not called again until the next pass.
    None,
    /// Access as tensors: [`Tap::apply`] and [`Tap::after_mlp`] are called.
    Tensor,
    /// Access as f32 slices, changed in place by a hook whose results are bit-equal to those of the tap on tensors.
    ///
    /// Hooks are used if every tap of a pass offers one and the model computes in f32 on the CPU; a pass through small
    /// layers then takes hardly longer with taps than without. Otherwise, and in computations with gradients, the tap
    /// is called with tensors.
    InPlace(Box<dyn InPlaceHook>),
}

/// A hook that changes the values of one pass in place.
pub trait InPlaceHook: Send + Sync {
    /// Changes the output of `site`: `[batch, tokens, neurons]` in row-major order.
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn apply(&self, site: Site, output: &mut [f32]) -> Result<()>;

    /// Changes the output of a layer's MLP, `[batch, tokens, hidden]` in row-major order, after the hooks of `down_proj`.
    ///
    /// # Errors
    ///
    /// Any error ends the forward pass.
    fn after_mlp(&self, input: &MlpInput<'_>, output: &mut [f32]) -> Result<()> {
        let _ = (input, output);
        Ok(())
    }
}

/// The input of a layer's gated MLP, with the activation function of that MLP.
#[derive(Debug, Clone, Copy)]
pub struct MlpInput<'a> {
    /// The decoder layer.
    pub layer: usize,
    /// Normalised hidden states `[batch, tokens, hidden]`, of the model's dtype.
    pub hidden: &'a Tensor,
    activation: Activation,
}

impl<'a> MlpInput<'a> {
    pub(crate) fn new(layer: usize, hidden: &'a Tensor, activation: Activation) -> Self {
        Self { layer, hidden, activation }
    }

    /// Applies the MLP's activation function to a tensor of any shape.
    ///
    /// # Errors
    ///
    /// candle's errors.
    pub fn activate(&self, gates: &Tensor) -> Result<Tensor> {
        Ok(self.activation.forward(gates)?)
    }

    /// Applies the MLP's activation function in place, bit-equal to [`activate`](Self::activate).
    ///
    /// # Errors
    ///
    /// candle's errors.
    pub fn activate_values(&self, gates: &mut [f32]) -> Result<()> {
        Ok(self.activation.apply_in_place(gates)?)
    }
}
