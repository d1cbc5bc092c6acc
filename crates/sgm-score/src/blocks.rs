//! Blocks of neurons, read from rows and turned into columns.

use rayon::prelude::*;

use crate::order::Scratch;
#[cfg(target_arch = "x86_64")]
use crate::vectors;
use crate::{Error, Response, Responses, Result};

/// The bytes of a cache line: the unit in which rows are turned into columns.
const LINE: usize = 64;
/// The largest number of columns of a block; larger blocks are not faster.
const MAX_COLUMNS: usize = 256;

/// The side of the squares that are transposed without vector instructions of their own.
const QUAD: usize = 4;

/// The number of neurons per block at which all threads together stay within `memory` bytes; each neuron needs `per_sample` bytes more for
/// every sample.
pub(crate) fn columns_within<R: Responses>(responses: &R, memory: usize, per_sample: usize) -> Result<usize> {
    let samples = responses.samples();
    let fixed = Scratch::bytes(samples) + samples * size_of::<usize>();
    let column = stride::<R::Value>(samples) * size_of::<R::Value>() + samples * per_sample + LINE;
    let each = memory / rayon::current_num_threads();
    match each.saturating_sub(fixed) / column.max(1) {
        0 => Err(Error::Memory { budget: memory, needed: (fixed + column) * rayon::current_num_threads() }),
        columns => Ok(columns.min(MAX_COLUMNS)),
    }
}

/// A block of neurons, column by column, with the samples in the requested order.
pub(crate) struct Block<'a, T> {
    pub(crate) first: usize,
    samples: usize,
    neurons: usize,
    values: &'a [T],
}

/// The distance between the first responses of two neurons of a block: an odd number of cache lines, which avoids cache conflicts when the
/// number of samples is a power of two.
fn stride<T>(samples: usize) -> usize {
    let line = LINE / size_of::<T>();
    (samples.div_ceil(line) | 1) * line
}

impl<T> Block<'_, T> {
    /// The neurons with their responses.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (usize, &[T])> {
        let columns = self.values.chunks_exact(stride::<T>(self.samples)).take(self.neurons);
        (self.first..).zip(columns.map(|column| column.get(..self.samples).unwrap_or_default()))
    }
}

/// Computes a result for each neuron, in parallel over blocks of at most `width` neurons, from the rows in `order`. The results are in the
/// order of the neurons; an error is that of the first neuron, for any number of threads.
pub(crate) fn each_block<R: Responses, O: Send>(
    responses: &R,
    order: &[usize],
    width: usize,
    block: impl Fn(Block<'_, R::Value>, &mut Scratch) -> Result<Vec<O>> + Sync,
) -> Result<Vec<O>> {
    let neurons = responses.neurons();
    let start = || (Vec::new(), Vec::new(), Scratch::new());
    let blocks = (0..neurons.div_ceil(width)).into_par_iter().map_init(start, |(values, tile, scratch), index| {
        let first = index * width;
        let columns = width.min(neurons - first);
        let values = turn(responses, order, first, columns, values, tile);
        block(Block { first, samples: order.len(), neurons: columns, values }, scratch)
    });
    let mut all = Vec::with_capacity(neurons);
    for results in blocks.collect::<Vec<_>>() {
        all.extend(results?);
    }
    Ok(all)
}

/// Reads a block of columns row by row and writes it column by column.
fn turn<'a, R: Responses>(
    responses: &R,
    order: &[usize],
    first: usize,
    columns: usize,
    values: &'a mut Vec<R::Value>,
    tile: &mut Vec<R::Value>,
) -> &'a [R::Value] {
    let (line, stride, padded) = (LINE / size_of::<R::Value>(), stride::<R::Value>(order.len()), columns.next_multiple_of(QUAD));
    values.resize(stride * padded + line, R::Value::default());
    tile.resize(line * padded, R::Value::default());
    // Columns start with a cache line.
    let start = values.as_ptr().align_offset(LINE).min(line);
    let values = values.get_mut(start..).unwrap_or_default();
    for (index, rows) in order.chunks(line).enumerate() {
        for (row, part) in rows.iter().zip(tile.chunks_exact_mut(padded)) {
            responses.read(*row, first, part.get_mut(..columns).unwrap_or_default());
        }
        let lines = Lines { stride, start: index * line };
        #[cfg(target_arch = "x86_64")]
        let turned = if vectors::available() { by_vectors(tile, padded, values, lines) } else { 0 };
        #[cfg(not(target_arch = "x86_64"))]
        let turned = 0;
        by_quads(tile, padded, values, lines, turned);
    }
    values
}

/// One cache line in each column.
#[derive(Debug, Clone, Copy)]
struct Lines {
    /// The distance between two columns.
    stride: usize,
    /// The place within a column.
    start: usize,
}

/// Turns the columns from `turned` on of a tile of `padded` columns, in squares of four rows and four columns, which the compiler
/// transposes in registers.
fn by_quads<T: Response>(tile: &[T], padded: usize, values: &mut [T], lines: Lines, turned: usize) {
    let Lines { stride, start } = lines;
    let (quads, across, line) = (tile.as_chunks::<QUAD>().0, padded / QUAD, LINE / size_of::<T>());
    for (quad, four) in values.chunks_exact_mut(QUAD * stride).take(across).enumerate().skip(turned / QUAD) {
        let mut parts = four
            .chunks_exact_mut(stride)
            .map(|column| column.get_mut(start..start + line).unwrap_or_default().as_chunks_mut::<QUAD>().0.iter_mut());
        let [Some(a), Some(b), Some(c), Some(d)] = [parts.next(), parts.next(), parts.next(), parts.next()] else { continue };
        let mut rows = quads.iter().skip(quad).step_by(across).copied();
        for (((a, b), c), d) in a.zip(b).zip(c).zip(d) {
            let [Some(r0), Some(r1), Some(r2), Some(r3)] = [rows.next(), rows.next(), rows.next(), rows.next()] else { break };
            let ([a0, b0, c0, d0], [a1, b1, c1, d1], [a2, b2, c2, d2], [a3, b3, c3, d3]) = (r0, r1, r2, r3);
            (*a, *b, *c, *d) = ([a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]);
        }
    }
}

/// Turns squares of a cache line's values in rows and columns; returns the number of columns.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
fn by_vectors<T: Response>(tile: &[T], padded: usize, values: &mut [T], lines: Lines) -> usize {
    use std::arch::x86_64::*;

    use vectors::{LANES, transposed};

    let line = LINE / size_of::<T>();
    let squares = padded / line;
    let fits = tile.len() >= line * padded && squares * line * lines.stride <= values.len() && lines.start + line <= lines.stride;
    assert!(fits && matches!(size_of::<T>(), 2 | 4), "whole squares of halves or of f32");

    #[target_feature(enable = "avx512f")]
    fn square<T: Response>(tile: &[T], padded: usize, values: &mut [T], Lines { stride, start }: Lines, first: usize) {
        // SAFETY: the caller has checked that the squares fit.
        let row = |row: usize| unsafe { _mm512_loadu_si512(tile.as_ptr().add(row * padded + first).cast()) };
        let mut column = |column: usize, v| {
            // SAFETY: the caller has checked that the squares fit.
            unsafe { _mm512_storeu_si512(values.as_mut_ptr().add((first + column) * stride + start).cast(), v) }
        };
        if size_of::<T>() == 4 {
            for (i, v) in transposed::<LANES>(std::array::from_fn(row)).into_iter().enumerate() {
                column(i, v);
            }
            return;
        }
        // Pairs of halves from two rows: first of the even columns, then of the odd ones.
        let low = _mm512_set1_epi32(0xffff);
        let even = |pair| _mm512_ternarylogic_epi32::<0xca>(low, row(2 * pair), _mm512_slli_epi32::<16>(row(2 * pair + 1)));
        let odd = |pair| _mm512_ternarylogic_epi32::<0xca>(low, _mm512_srli_epi32::<16>(row(2 * pair)), row(2 * pair + 1));
        for (i, v) in transposed::<LANES>(std::array::from_fn(even)).into_iter().enumerate() {
            column(2 * i, v);
        }
        for (i, v) in transposed::<LANES>(std::array::from_fn(odd)).into_iter().enumerate() {
            column(2 * i + 1, v);
        }
    }
    for first in (0..squares).map(|square| square * line) {
        // SAFETY: the caller has found the features.
        unsafe { square(tile, padded, values, lines, first) };
    }
    squares * line
}

/// The error for a NaN among a neuron's responses.
pub(crate) fn refuse_nan<T: Response>(neuron: usize, column: &[T], order: &[usize]) -> Result<()> {
    let nan = T::first_nan(column).and_then(|place| order.get(place));
    nan.map_or(Ok(()), |sample| Err(Error::NotANumber { site: None, neuron, sample: *sample }))
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use half::bf16;

    use super::{LINE, Lines, Response, by_quads, by_vectors};

    /// A tile of distinct values turned in both ways.
    fn agrees<T: Response + PartialEq + std::fmt::Debug>(value: impl Fn(u16) -> T) {
        if !crate::vectors::available() {
            return;
        }
        let line = LINE / size_of::<T>();
        for padded in [4, 28, 32, 36, 64, 256] {
            let tile: Vec<T> = (0..=u16::MAX).map(&value).take(line * padded).collect();
            let lines = Lines { stride: 3 * line, start: line };
            let (mut plain, mut turned) = (vec![T::default(); 3 * line * padded], vec![T::default(); 3 * line * padded]);
            by_quads(&tile, padded, &mut plain, lines, 0);
            let done = by_vectors(&tile, padded, &mut turned, lines);
            assert_eq!(done, padded / line * line);
            by_quads(&tile, padded, &mut turned, lines, done);
            assert_eq!(turned, plain);
            for (place, value) in tile.iter().enumerate() {
                assert_eq!(plain.get(place % padded * 3 * line + line + place / padded), Some(value));
            }
        }
    }

    #[test]
    fn squares_are_turned_alike_by_vectors_and_by_quads() {
        agrees(f32::from);
        agrees(|i| bf16::from_bits(i % 0x7f00));
    }
}
