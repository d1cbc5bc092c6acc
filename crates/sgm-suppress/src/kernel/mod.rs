//! The scaling kernel: `y = scale * x + shift` for the neurons of one site, in place, on row-major responses `[tokens, neurons]`.
//!
//! The kernel works on slices and has no unsafe code. `pulp` compiles its loops a second time for processors with AVX2. Products and sums
//! are neither reordered nor fused, so that all variants give the same bits. With the feature `candle` it also works on tensors.

mod element;
mod scaling;
#[cfg(feature = "candle")]
mod tensor;

pub use element::Element;
#[cfg(feature = "candle")]
pub(crate) use scaling::Strengths;
pub use scaling::{ScaleLayout, Scaling};
#[cfg(feature = "candle")]
pub(crate) use tensor::{OnDevice, TensorScaling, TokenStrengths};
