//! Rows rounded to 8 bits.

use rayon::prelude::*;

/// Values that share a scale.
pub(crate) const BLOCK: usize = 32;

/// Rows rounded to 8 bits as in the format Q8_0, but with scales in f32.
#[derive(Debug)]
pub(crate) struct Rounded {
    /// `[rows, inputs]`, from -127 to 127.
    pub(crate) integers: Vec<i8>,
    /// `[rows, inputs / 32]`.
    pub(crate) scales: Vec<f32>,
    /// The sum of the rounded values of each block.
    pub(crate) sums: Vec<f32>,
    pub(crate) rows: usize,
}

impl Rounded {
    /// Rounds rows `[rows, inputs]`; `inputs` is a multiple of [`BLOCK`].
    pub(crate) fn new(x: &[f32], inputs: usize) -> Self {
        let blocks = x.len() / BLOCK;
        let mut rounded = Self { integers: vec![0; x.len()], scales: vec![0.0; blocks], sums: vec![0.0; blocks], rows: x.len() / inputs };
        let row_blocks = inputs / BLOCK;
        let rows = x.par_chunks_exact(inputs).zip(rounded.integers.par_chunks_exact_mut(inputs));
        let rows = rows.zip(rounded.scales.par_chunks_exact_mut(row_blocks)).zip(rounded.sums.par_chunks_exact_mut(row_blocks));
        rows.for_each(|(((x, integers), scales), sums)| {
            for (((x, integers), scale), sum) in x.as_chunks().0.iter().zip(integers.as_chunks_mut().0).zip(scales).zip(sums) {
                (*scale, *sum) = round(x, integers);
            }
        });
        rounded
    }
}

/// Rounds a block to integers; returns their scale and the sum of the rounded values.
fn round(x: &[f32; BLOCK], integers: &mut [i8; BLOCK]) -> (f32, f32) {
    /// Adding it rounds to the nearest integer, which the low byte of the sum holds.
    const ROUND: f32 = 12_582_912.0;
    let largest = x.iter().fold(0f32, |largest, value| if value.abs() > largest { value.abs() } else { largest });
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sum = 0i32;
    for (value, integer) in x.iter().zip(integers) {
        let [byte, ..] = (value * inverse + ROUND).to_bits().to_le_bytes();
        *integer = byte.cast_signed();
        sum += i32::from(*integer);
    }
    (scale, scale * sum as f32)
}
