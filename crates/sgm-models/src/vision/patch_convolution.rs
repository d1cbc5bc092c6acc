//! The convolution that turns the pixels of a patch into its embedding.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Conv2d, Module};

/// A convolution in any dtype. candle has none in bf16 on the CPU: there it is computed in f32 and rounded.
#[derive(Debug)]
pub(crate) struct PatchConvolution(Conv2d);

impl PatchConvolution {
    pub(crate) fn weight(&self) -> &Tensor {
        self.0.weight()
    }
}

impl From<Conv2d> for PatchConvolution {
    fn from(convolution: Conv2d) -> Self {
        Self(convolution)
    }
}

impl Module for PatchConvolution {
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        if pixels.dtype() != DType::BF16 || !pixels.device().is_cpu() {
            return self.0.forward(pixels);
        }
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        let convolution = Conv2d::new(wide(self.0.weight())?, self.0.bias().map(wide).transpose()?, *self.0.config());
        convolution.forward(&wide(pixels)?)?.to_dtype(DType::BF16)
    }
}
