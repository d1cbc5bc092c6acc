//! Activation functions, under the names that configurations give them.

use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::Module;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::layers::derivative::with_gradient;
use crate::layers::exponential::scaled_silu;

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
    /// The slope `a` of an activation `x * sigmoid(a x)`.
    fn slope(self) -> Option<f32> {
        match self {
            Self::QuickGelu => Some(1.702),
            Self::Candle(candle_nn::Activation::Silu) => Some(1.0),
            Self::Candle(_) => None,
        }
    }

    /// Whether [`apply_in_place`](Self::apply_in_place) works on the slice itself, without a tensor.
    pub(crate) fn works_on_slices(self) -> bool {
        self.slope().is_some()
    }

    /// Replaces each value by its activation. The result is bit-equal to that of [`forward`](Module::forward).
    pub(crate) fn apply_in_place(self, values: &mut [f32]) -> CandleResult<()> {
        if let Some(slope) = self.slope() {
            if values.len() <= CHUNK {
                scaled_silu(values, slope);
            } else {
                values.par_chunks_mut(CHUNK).for_each(|values| scaled_silu(values, slope));
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
        if let Some(slope) = self.slope().filter(|_| xs.device().is_cpu()) {
            let inputs = xs.detach();
            let mut values = inputs.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            self.apply_in_place(&mut values)?;
            let y = Tensor::from_vec(values, xs.shape(), &Device::Cpu)?.to_dtype(xs.dtype())?;
            // With s = sigmoid(a x): s + a x s (1 - s) = s + a y (1 - s).
            return with_gradient(xs, y, move |y, gradient| {
                let sigmoid = candle_nn::ops::sigmoid(&(&inputs * f64::from(slope))?)?;
                let curve = ((y * f64::from(slope))? * (1.0 - &sigmoid)?)?;
                gradient * (sigmoid + curve)?
            });
        }
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
    fn values_and_gradients_are_those_of_candle() {
        let numbers: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.0317).collect();
        let x = candle_core::Var::new(numbers.as_slice(), &Device::Cpu).unwrap();
        for (name, slope) in [("silu", 1.0), ("quick_gelu", 1.702)] {
            let ours = Activation::from_name(name).unwrap().forward(&x).unwrap();
            let candle = (&*x * candle_nn::ops::sigmoid(&(&*x * slope).unwrap()).unwrap()).unwrap();
            let gradients = [&ours, &candle].map(|y| y.backward().unwrap().get(&x).unwrap().to_vec1::<f32>().unwrap());
            let [ours, candle] = [ours, candle].map(|y| y.to_vec1::<f32>().unwrap());
            for ((x, ours), candle) in numbers.iter().zip(&ours).zip(&candle) {
                assert!((ours - candle).abs() <= 4e-7 * candle.abs().max(1e-30), "{name}({x}): {ours}, {candle}");
            }
            for ((x, ours), candle) in numbers.iter().zip(&gradients[0]).zip(&gradients[1]) {
                assert!((ours - candle).abs() <= 4e-6, "{name}'({x}): {ours}, {candle}");
            }
        }
    }

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
