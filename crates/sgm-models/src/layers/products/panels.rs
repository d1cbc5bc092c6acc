//! Products of many rows with weights that are widened to f32 panel by panel.

use candle_core::utils::get_num_threads;
use gemm::Parallelism;
use rayon::prelude::*;

use crate::layers::products::multiply;

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
    let parallelism = match get_num_threads() {
        0 | 1 => Parallelism::None,
        threads => Parallelism::Rayon(threads),
    };
    let mut products = vec![0f32; x.len() / inputs * outputs];
    let mut panel = vec![0f32; PANEL.min(outputs) * inputs];
    for first in (0..outputs).step_by(PANEL) {
        let rows = PANEL.min(outputs - first);
        panel.truncate(rows * inputs);
        panel.par_chunks_mut(CHUNK * inputs).enumerate().try_for_each(|(i, values)| widen(first + i * CHUNK, values))?;
        if let Some(products) = products.get_mut(first..) {
            multiply([x.len() / inputs, inputs, rows], x, &panel, true, products, outputs, parallelism);
        }
    }
    Ok(products)
}
