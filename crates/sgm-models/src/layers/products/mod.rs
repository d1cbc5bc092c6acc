//! Products of rows with weight matrices `[outputs, inputs]` that stay as they are stored, on the CPU.
//!
//! Generation multiplies few rows with every matrix, so it reads weights at the speed of the memory; a prompt multiplies
//! hundreds, so it is bound by arithmetic. Both read 16-bit and quantised weights in place and never widen a whole
//! matrix. Every value is summed in an order that does not depend on the number of threads.

mod bf16_dot;
#[cfg(target_arch = "x86_64")]
mod blocks;
mod few_rows;
mod integer_dot;
mod panels;
pub(crate) mod plain;
pub(crate) mod quantised;
#[cfg(target_arch = "x86_64")]
mod rounded;

use candle_core::{Device, Result, Storage, Tensor, WithDType};
use gemm::Parallelism;
use rayon::prelude::*;

/// Multiplies `a` `[rows, inner]` with `b` `[inner, columns]`, or with the transpose of `b` `[columns, inner]`, into rows of
/// `products` that begin `stride` values apart.
#[allow(unsafe_code, reason = "the matrix product takes pointers and strides")]
pub(crate) fn multiply(
    [rows, inner, columns]: [usize; 3],
    a: &[f32],
    b: &[f32],
    b_transposed: bool,
    products: &mut [f32],
    stride: usize,
    parallelism: Parallelism,
) {
    let fits = rows == 0 || products.len() >= (rows - 1) * stride + columns;
    assert!(a.len() == rows * inner && b.len() == inner * columns && columns <= stride && fits, "slices of the shapes");
    let [inner_stride, columns_stride, stride] = [inner, columns, stride].map(usize::cast_signed);
    let (b_column, b_row) = if b_transposed { (inner_stride, 1) } else { (1, columns_stride) };
    let (target, a, b) = (products.as_mut_ptr(), a.as_ptr(), b.as_ptr());
    // SAFETY: the slices hold what the shapes and strides reach.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            target,
            1,
            stride,
            false,
            a,
            1,
            inner_stride,
            b,
            b_column,
            b_row,
            0f32,
            1f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Whether the processor has the vector instructions of the products with few rows and with GGUF blocks.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Gives access to the values of a tensor on the CPU in row-major order, which are copied only if they are stored in
/// another order.
fn with_slice<T: WithDType, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("products of stored weights need tensors on the CPU") };
    let values = storage.as_slice::<T>()?;
    match layout.contiguous_offsets().and_then(|(start, end)| values.get(start..end)) {
        Some(values) => read(values),
        None => candle_core::bail!("{layout:?} is not row-major"),
    }
}

/// Makes a tensor of the shape of another, but for its last dimension.
fn with_last_dim(values: Vec<f32>, like: &Tensor, last: usize) -> Result<Tensor> {
    let mut shape = like.dims().to_vec();
    shape.pop();
    shape.push(last);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Swaps the dimensions of products `[outputs, rows]`.
fn transpose(products: Vec<f32>, rows: usize) -> Vec<f32> {
    if rows <= 1 {
        return products;
    }
    (0..rows).flat_map(|row| products.iter().skip(row).step_by(rows).copied()).collect()
}

/// Joins the products `[rows, width]` of all panels of `width` outputs to `[rows, outputs]`; the last panel may be wider
/// than what is left.
fn join(panels: &[Vec<f32>], width: usize, rows: usize, outputs: usize) -> Vec<f32> {
    let mut products = vec![0f32; rows * outputs];
    products.par_chunks_mut(outputs.max(1)).enumerate().for_each(|(row, products)| {
        for (products, panel) in products.chunks_mut(width).zip(panels) {
            if let Some(panel) = panel.get(row * width..row * width + products.len()) {
                products.copy_from_slice(panel);
            }
        }
    });
    products
}

/// The sum of the lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_lanes(lanes: std::arch::x86_64::__m256) -> f32 {
    use std::arch::x86_64::*;
    let sum = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
    let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
}
