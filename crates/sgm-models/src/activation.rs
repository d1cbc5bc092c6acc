use candle_core::{Result as CandleResult, Tensor};
use candle_nn::Module;

use crate::{Error, Result};

/// An activation function under the name configurations give it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    /// `x * sigmoid(1.702 x)`, the one of OpenAI's CLIP.
    QuickGelu,
    Candle(candle_nn::Activation),
}

impl Activation {
    pub(crate) fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "quick_gelu" => Self::QuickGelu,
            "gelu" => Self::Candle(candle_nn::Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Self::Candle(candle_nn::Activation::NewGelu),
            "silu" | "swish" => Self::Candle(candle_nn::Activation::Silu),
            "relu" => Self::Candle(candle_nn::Activation::Relu),
            _ => {
                let supported = &["silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu"];
                return Err(Error::Unsupported { what: "activation function", got: name.to_owned(), supported });
            }
        })
    }
}

impl Module for Activation {
    fn forward(&self, xs: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::QuickGelu => xs * candle_nn::ops::sigmoid(&(xs * 1.702f64)?),
            Self::Candle(activation) => activation.forward(xs),
        }
    }
}
