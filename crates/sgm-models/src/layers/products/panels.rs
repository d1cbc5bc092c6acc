//! Products of many rows with weights that are widened to f32 panel by panel.

use candle_core::utils::get_num_threads;
use gemm::Parallelism;
use rayon::prelude::*;

/// The number of weight rows of a panel: enough to share the cost of packing the inputs, few enough to stay in a cache.
const PANEL: usize = 512;

/// Multiplies rows `x` `[rows, inputs]` with weights `[outputs, inputs]`; returns `[rows, outputs]`.
///
/// `widen(first, values)` writes the weights of consecutive rows from `first` on.
pub(crate) fn product<E: Send>(
    x: &[f32],
    inputs: usize,
    outputs: usize,
    widen: impl Fn(usize, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<Vec<f32>, E> {
    /// The number of rows that one thread widens at a time.
    const CHUNK: usize = 16;
    if inputs == 0 {
        return Ok(Vec::new());
    }
    let mut products = vec![0f32; x.len() / inputs * outputs];
    let mut panel = vec![0f32; PANEL.min(outputs) * inputs];
    for first in (0..outputs).step_by(PANEL) {
        let rows = PANEL.min(outputs - first);
        panel.truncate(rows * inputs);
        panel.par_chunks_mut(CHUNK * inputs).enumerate().try_for_each(|(i, values)| widen(first + i * CHUNK, values))?;
        multiply(x, &panel, inputs, &mut products, outputs, first);
    }
    Ok(products)
}

/// Writes the products of all rows of `x` with a panel into the columns of `products` from `first` on.
#[allow(unsafe_code, reason = "the matrix product takes pointers and strides")]
fn multiply(x: &[f32], panel: &[f32], inputs: usize, products: &mut [f32], outputs: usize, first: usize) {
    let (rows, columns) = (x.len() / inputs, panel.len() / inputs);
    assert!(rows * outputs == products.len() && first + columns <= outputs, "a panel lies within the matrix");
    let (row, stride) = (inputs.cast_signed(), outputs.cast_signed());
    let parallelism = match get_num_threads() {
        0 | 1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    // SAFETY: `x` holds `rows` rows and `panel` `columns` rows of `inputs` values; `products` holds `rows` rows of
    // `outputs` values, of which `columns` from `first` on are written.
    unsafe {
        let target = products.as_mut_ptr().add(first);
        gemm::gemm(
            rows,
            columns,
            inputs,
            target,
            1,
            stride,
            false,
            x.as_ptr(),
            1,
            row,
            panel.as_ptr(),
            row,
            1,
            0f32,
            1f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}
