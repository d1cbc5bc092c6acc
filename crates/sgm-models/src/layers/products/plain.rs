//! Products with matrices of f32, f16 or bf16 values.

use candle_core::{DType, Result, Tensor};
use candle_nn::Module;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::layers::products::few_rows::{FEW_ROWS, Weight};
use crate::layers::products::{bf16_dot, few_rows, panels, with_last_dim, with_slice};

/// Multiplies rows `x` `[.., inputs]` with a matrix `[outputs, inputs]`.
///
/// f32 rows give the products with the weights in f32, whatever their dtype. f16 and bf16 rows do the same with products
/// rounded to their dtype.
pub(crate) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs.max(1);
    if !x.device().is_cpu() || rows == 0 || x.dims().last() != Some(&inputs) {
        return general(x, weight);
    }
    if x.dtype() == DType::BF16 && weight.dtype() == DType::BF16 && rows > FEW_ROWS {
        let products = with_slice(x, |x: &[bf16]| with_slice(weight, |weight: &[bf16]| Ok(bf16_dot::product(x, weight, inputs))))?;
        if let Some(products) = products {
            return with_last_dim(products, x, outputs)?.to_dtype(DType::BF16);
        }
    }
    let wide = x.to_dtype(DType::F32)?;
    let products = with_slice(&wide, |x: &[f32]| match weight.dtype() {
        DType::F16 => with_slice(weight, |weight: &[f16]| half(x, weight, inputs, outputs, |from, to| from.convert_to_f32_slice(to))),
        DType::BF16 => with_slice(weight, |weight: &[bf16]| half(x, weight, inputs, outputs, |from, to| from.convert_to_f32_slice(to))),
        DType::F32 if rows <= FEW_ROWS => with_slice(weight, |weight: &[f32]| Ok(few_rows::product(x, weight, inputs))),
        _ => Ok(None),
    })?;
    match products {
        Some(products) => with_last_dim(products, x, outputs)?.to_dtype(x.dtype()),
        None => general(x, weight),
    }
}

/// The product by candle.
fn general(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    candle_nn::Linear::new(weight.to_dtype(x.dtype())?, None).forward(x)
}

fn half<W: Weight>(
    x: &[f32],
    weight: &[W],
    inputs: usize,
    outputs: usize,
    widen: impl Fn(&[W], &mut [f32]) + Sync,
) -> Result<Option<Vec<f32>>> {
    if x.len() / inputs <= FEW_ROWS
        && let Some(products) = few_rows::product(x, weight, inputs)
    {
        return Ok(Some(products));
    }
    let widened = |first: usize, values: &mut [f32]| match weight.get(first * inputs..first * inputs + values.len()) {
        Some(weights) => {
            widen(weights, values);
            Ok(())
        }
        None => candle_core::bail!("the matrix has no row {first}"),
    };
    panels::product(x, inputs, outputs, widened).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The largest difference relative to the largest value.
    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let (a, b) = (values(a), values(b));
        let largest = b.iter().fold(0f32, |largest, b| largest.max(b.abs()));
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest
    }

    /// Sizes around those of tiles, panels and vectors.
    const SIZES: [(usize, usize); 5] = [(1, 8), (7, 40), (67, 33), (48, 1024), (600, 130)];
    const ROWS: [usize; 6] = [1, 2, 7, FEW_ROWS, FEW_ROWS + 1, 35];

    #[test]
    fn weights_of_16_bits_give_the_products_of_their_f32_form_bit_by_bit() {
        for (outputs, inputs) in SIZES {
            for dtype in [DType::F16, DType::BF16] {
                let weight = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let wide = weight.to_dtype(DType::F32).unwrap();
                for rows in ROWS {
                    let x = Tensor::randn(0f32, 1.0, (1, rows, inputs), &Device::Cpu).unwrap();
                    let products = product(&x, &weight).unwrap();
                    assert_eq!(products.dims(), [1, rows, outputs]);
                    assert_eq!(values(&products), values(&product(&x, &wide).unwrap()), "{dtype:?} {outputs} x {inputs}, {rows} rows");
                    let candle = x.broadcast_matmul(&wide.t().unwrap()).unwrap();
                    assert!(difference(&products, &candle) < 2e-6);
                }
            }
        }
    }

    #[test]
    fn rows_of_16_bits_give_products_rounded_to_16_bits() {
        for (outputs, inputs) in SIZES {
            for (dtype, rounding) in [(DType::F16, 2f32.powi(-11)), (DType::BF16, 2f32.powi(-8))] {
                let weight = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                for rows in ROWS {
                    let x = Tensor::randn(0f32, 1.0, (rows, inputs), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                    let products = product(&x, &weight).unwrap();
                    assert_eq!(products.dtype(), dtype);
                    let exact = product(&x.to_dtype(DType::F32).unwrap(), &weight).unwrap();
                    assert!(difference(&products, &exact) <= rounding, "{dtype:?} {outputs} x {inputs}, {rows} rows");
                }
            }
        }
    }

    #[test]
    fn a_narrowed_matrix_and_transposed_rows_are_read_where_they_are() {
        let weight = Tensor::randn(0f32, 1.0, (20, 24), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
        let x = Tensor::randn(0f32, 1.0, (24, 5), &Device::Cpu).unwrap().t().unwrap();
        let part = product(&x, &weight.narrow(0, 3, 10).unwrap()).unwrap();
        let whole = product(&x.contiguous().unwrap(), &weight).unwrap().narrow(1, 3, 10).unwrap();
        assert_eq!(values(&part), values(&whole.contiguous().unwrap()));
    }

    #[test]
    fn rows_of_another_length_are_refused() {
        let weight = Tensor::zeros((4, 8), DType::BF16, &Device::Cpu).unwrap();
        assert!(product(&Tensor::zeros((2, 7), DType::F32, &Device::Cpu).unwrap(), &weight).is_err());
    }

    #[test]
    fn numbers_that_are_not_finite_stay_so() {
        for dtype in [DType::F16, DType::BF16] {
            let weight = Tensor::new(&[[f32::INFINITY; 16], [f32::NAN; 16]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let products = values(&product(&Tensor::ones((1, 16), DType::F32, &Device::Cpu).unwrap(), &weight).unwrap());
            assert!(matches!(products.as_slice(), [a, b] if *a == f32::INFINITY && b.is_nan()), "{products:?}");
        }
    }
}
