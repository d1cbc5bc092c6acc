//! Products with matrices in GGUF blocks. Inputs are rounded to 8 bits, block by block, for any number of rows.
//!
//! On x86 processors with AVX2 the usual formats have 8-bit dot products here. The rest is left to candle, but for many rows
//! with other formats of that processor: there, panels are dequantised and multiplied in f32 with the rounded inputs, which
//! gives the same values up to the rounding of sums.

use std::sync::Arc;

use candle_core::quantized::k_quants::{BlockQ8K, GgmlType};
use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{D, Device, Result, Tensor};
use candle_nn::Module;

use crate::layers::products::few_rows::FEW_ROWS;
use crate::layers::products::{integer_dot, panels, with_last_dim, with_slice};

/// Multiplies f32 rows `x` `[.., inputs]` with a quantised matrix `[outputs, inputs]`.
pub(crate) fn product(x: &Tensor, weight: &Arc<QTensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.shape().dims2()?;
    let rows = x.elem_count() / inputs.max(1);
    if !x.device().is_cpu() || rows == 0 || x.dims().last() != Some(&inputs) {
        return QMatMul::QTensor(weight.clone()).forward(x);
    }
    let products = product_of_numbers(x, weight, outputs, inputs)?;
    // Rounding loses what is no number.
    let broken = (x * 0.0)?.sum_keepdim(D::Minus1)?;
    if broken.sum_all()?.to_scalar::<f32>()? == 0.0 { Ok(products) } else { products.broadcast_add(&broken) }
}

/// The products of rows on the CPU in which every value is finite.
fn product_of_numbers(x: &Tensor, weight: &Arc<QTensor>, outputs: usize, inputs: usize) -> Result<Tensor> {
    let rows = x.elem_count() / inputs;
    let many_of_256 = rows > FEW_ROWS && weight.dtype().block_size() == BlockQ8K::BLCK_SIZE && cfg!(target_arch = "x86_64");
    let products = with_slice(x, |x: &[f32]| match integer_dot::product(x, weight.dtype(), &weight.data()?, inputs) {
        Some(products) => Ok(Some(products)),
        None if many_of_256 => dequantised(&rounded_by_256(x), weight, outputs, inputs).map(Some),
        None => Ok(None),
    })?;
    match products {
        Some(products) => with_last_dim(products, x, outputs),
        None => QMatMul::QTensor(weight.clone()).forward(x),
    }
}

/// The products of rounded rows with dequantised panels, `[rows, outputs]`.
fn dequantised(x: &[f32], weight: &QTensor, outputs: usize, inputs: usize) -> Result<Vec<f32>> {
    panels::product(x, inputs, outputs, |first, values: &mut [f32]| {
        let rows = rows_of(weight, first, values.len() / inputs)?.dequantize(&Device::Cpu)?.flatten_all()?;
        with_slice(&rows, |rows: &[f32]| {
            values.copy_from_slice(rows);
            Ok(())
        })
    })
}

/// Some rows of a quantised matrix. Blocks lie within rows, so nothing is quantised again.
pub(crate) fn rows_of(weight: &QTensor, start: usize, count: usize) -> Result<QTensor> {
    let (rows, inputs) = weight.shape().dims2()?;
    let data = weight.data()?;
    let row = data.len() / rows.max(1);
    let Some(bytes) = data.get(start * row..(start + count) * row) else {
        candle_core::bail!("a matrix of {rows} rows has no rows {start} to {}", start + count)
    };
    // Whole blocks from the start of an aligned vector of blocks are aligned too.
    QTensor::new(QStorage::from_data(bytes.into(), &weight.device(), weight.dtype())?, (count, inputs))
}

/// Rounds rows as candle does for formats with blocks of 256 weights.
fn rounded_by_256(x: &[f32]) -> Vec<f32> {
    let mut blocks = vec![BlockQ8K::zeros(); x.len() / BlockQ8K::BLCK_SIZE];
    BlockQ8K::from_float(x, &mut blocks);
    let mut values = vec![0f32; x.len()];
    BlockQ8K::to_float(&blocks, &mut values);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::products::has_avx2;
    use candle_core::quantized::GgmlDType;

    const FORMATS: [GgmlDType; 10] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    #[test]
    fn rows_of_a_quantised_matrix_are_those_of_its_dequantised_form() {
        let weight = Tensor::randn(0f32, 1.0, (6, 256), &Device::Cpu).unwrap();
        for dtype in FORMATS {
            let whole = QTensor::quantize(&weight, dtype).unwrap();
            let rows = rows_of(&whole, 2, 3).unwrap().dequantize(&Device::Cpu).unwrap();
            let expected = whole.dequantize(&Device::Cpu).unwrap().narrow(0, 2, 3).unwrap();
            assert_eq!(rows.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
            assert!(rows_of(&whole, 4, 3).is_err());
        }
    }

    /// The largest difference relative to the largest value.
    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let largest = |x: &Tensor| x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        largest(&(a - b).unwrap()) / largest(b)
    }

    #[test]
    fn products_of_any_number_of_rows_are_those_of_the_dequantised_matrix_with_inputs_rounded_to_8_bits() {
        // Sizes around those of panels and blocks.
        for (outputs, inputs) in [(48, 512), (70, 256), (33, 768)] {
            let weight = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu).unwrap();
            for dtype in FORMATS {
                let weight = Arc::new(QTensor::quantize(&weight, dtype).unwrap());
                let dense = weight.dequantize(&Device::Cpu).unwrap();
                for rows in [1, 2, 5, FEW_ROWS, FEW_ROWS + 1, 40] {
                    let x = Tensor::randn(0f32, 1.0, (1, rows, inputs), &Device::Cpu).unwrap();
                    let products = product(&x, &weight).unwrap();
                    assert_eq!(products.dims(), [1, rows, outputs]);
                    let exact = x.broadcast_matmul(&dense.t().unwrap()).unwrap();
                    // The rounding is by at most a 254th of the largest input of a block.
                    assert!(difference(&products, &exact) < 0.02, "{dtype:?} {rows}: {}", difference(&products, &exact));
                    let one_by_one: Vec<_> = (0..rows).map(|row| product(&x.narrow(1, row, 1).unwrap(), &weight).unwrap()).collect();
                    let one_by_one = Tensor::cat(&one_by_one, 1).unwrap();
                    assert!(
                        difference(&products, &one_by_one) < 5e-6,
                        "{dtype:?} {outputs} x {inputs}, {rows}: {}",
                        difference(&products, &one_by_one)
                    );
                }
            }
        }
    }

    /// Rows whose blocks of 32 values are rounded to 127ths of their largest value.
    fn rounded_by_32(x: &[f32]) -> Vec<f32> {
        let block = |block: &[f32]| {
            let scale = block.iter().fold(0f32, |largest, x| largest.max(x.abs())) / 127.0;
            block.iter().map(|x| (x / scale).round_ties_even() * scale).collect::<Vec<_>>()
        };
        x.chunks(32).flat_map(block).collect()
    }

    #[test]
    fn integer_products_are_those_of_rounded_rows_with_the_dequantised_matrix() {
        let inputs = 512;
        // Elsewhere candle rounds scales to 16 bits.
        for dtype in FORMATS.into_iter().filter(|_| has_avx2()).filter(|dtype| !matches!(dtype, GgmlDType::Q2K | GgmlDType::Q3K)) {
            let weight = Arc::new(QTensor::quantize(&Tensor::randn(0f32, 1.0, (40, inputs), &Device::Cpu).unwrap(), dtype).unwrap());
            for rows in [1, 6, 30] {
                // Multiples of 1/64 up to 127/64, which rounding by 127ths keeps, times a scale for each block.
                let scale = |i: usize| [0.5f32, 3.0, 0.07, 11.0][i / 32 % 4];
                let value = |i: usize| if i % 32 == 5 { 127.0 } else { ((i * 37) % 255) as f32 - 127.0 };
                let x: Vec<f32> = (0..rows * inputs).map(|i| value(i) * scale(i) / 64.0).collect();
                let reference = Tensor::from_vec(rounded_by_32(&x), (rows, inputs), &Device::Cpu).unwrap();
                let reference = reference.matmul(&weight.dequantize(&Device::Cpu).unwrap().t().unwrap()).unwrap();
                let products = product(&Tensor::from_vec(x, (rows, inputs), &Device::Cpu).unwrap(), &weight).unwrap();
                assert!(difference(&products, &reference) < 2e-6, "{dtype:?}, {rows} rows: {}", difference(&products, &reference));
            }
        }
    }

    #[test]
    fn rows_with_a_value_that_is_no_number_have_no_products() {
        for dtype in FORMATS {
            let weight = Arc::new(QTensor::quantize(&Tensor::randn(0f32, 1.0, (20, 512), &Device::Cpu).unwrap(), dtype).unwrap());
            for broken in [f32::NAN, f32::INFINITY] {
                for rows in [2, 40] {
                    let mut values = vec![0.5f32; rows * 512];
                    values[700] = broken;
                    let x = Tensor::from_vec(values, (rows, 512), &Device::Cpu).unwrap();
                    let products = product(&x, &weight).unwrap().to_vec2::<f32>().unwrap();
                    for (row, products) in products.iter().enumerate() {
                        assert!(products.iter().all(|y| y.is_finite() == (row != 1)), "{dtype:?}, {rows} rows: {products:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn rows_of_zeros_give_zeros() {
        let weight = Arc::new(QTensor::quantize(&Tensor::randn(0f32, 1.0, (8, 64), &Device::Cpu).unwrap(), GgmlDType::Q4_1).unwrap());
        let x = Tensor::zeros((1, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(product(&x, &weight).unwrap().to_vec2::<f32>().unwrap(), [[0.0; 8]]);
    }
}
