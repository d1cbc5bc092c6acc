//! Activation functions, under the names that configurations give them.

use candle_core::{Device, Result as CandleResult, Tensor};
use candle_nn::Module;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// The number of values that one thread processes at a time.
const CHUNK: usize = 1 << 14;

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Activation {
    /// `x * sigmoid(1.702 x)`, as in OpenAI's CLIP.
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

impl Activation {
    /// Whether [`apply_in_place`](Self::apply_in_place) works on the slice itself, without a tensor. This holds for
    /// SiLU, which most decoders use; candle's formula for it is repeated there.
    pub(crate) fn works_on_slices(self) -> bool {
        self == Self::Candle(candle_nn::Activation::Silu)
    }

    /// Replaces each value by its activation. The result is bit-equal to that of [`forward`](Module::forward).
    pub(crate) fn apply_in_place(self, values: &mut [f32]) -> CandleResult<()> {
        if self.works_on_slices() {
            let silu = |values: &mut [f32]| values.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp());
            if values.len() <= CHUNK {
                silu(values);
            } else {
                values.par_chunks_mut(CHUNK).for_each(silu);
            }
            return Ok(());
        }
        let activated = self.forward(&Tensor::new(&*values, &Device::Cpu)?)?.to_vec1::<f32>()?;
        values.copy_from_slice(&activated);
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_and_tensors_give_equal_bits() {
        let mut numbers: Vec<f32> = (-400..400).map(|i| i as f32 * 0.317).collect();
        numbers.extend([0.0, -0.0, 1e-40, f32::INFINITY, 3e38]);
        for name in ["silu", "gelu", "gelu_new", "quick_gelu", "relu"] {
            let activation = Activation::from_name(name).unwrap();
            let tensor = activation.forward(&Tensor::new(numbers.as_slice(), &Device::Cpu).unwrap()).unwrap();
            let mut replaced = numbers.clone();
            activation.apply_in_place(&mut replaced).unwrap();
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&replaced), bits(&tensor.to_vec1::<f32>().unwrap()), "{name}");
        }
    }
}
