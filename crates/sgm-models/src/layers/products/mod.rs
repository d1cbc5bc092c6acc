//! Products of rows with weight matrices `[outputs, inputs]` that stay as they are stored, on the CPU.
//!
//! Generation multiplies few rows with every matrix, so it reads weights at the speed of the memory; a prompt multiplies
//! hundreds, so it is bound by arithmetic. Both read 16-bit and quantised weights in place and never widen a whole
//! matrix. Every value is summed in an order that does not depend on the number of threads.

mod bf16_dot;
#[cfg(target_arch = "x86_64")]
mod blocks;
mod few_rows;
pub(crate) mod integer_dot;
mod panels;
pub(crate) mod plain;
pub(crate) mod quantised;
#[cfg(target_arch = "x86_64")]
mod rounded;

use candle_core::{Device, Result, Storage, Tensor, WithDType};

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
