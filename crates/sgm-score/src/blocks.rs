//! Blocks of neurons, read from rows and turned into columns.

use rayon::prelude::*;

use crate::order::Scratch;
use crate::{Error, Response, Responses, Result};

/// The bytes of a cache line: the unit in which rows are turned into columns.
const LINE: usize = 64;
/// The largest number of columns of a block; larger blocks are not faster.
const MAX_COLUMNS: usize = 256;

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
        turn(responses, order, first, columns, values, tile);
        block(Block { first, samples: order.len(), neurons: columns, values }, scratch)
    });
    let mut all = Vec::with_capacity(neurons);
    for results in blocks.collect::<Vec<_>>() {
        all.extend(results?);
    }
    Ok(all)
}

/// Reads a block of columns row by row and writes it column by column.
fn turn<R: Responses>(responses: &R, order: &[usize], first: usize, columns: usize, values: &mut Vec<R::Value>, tile: &mut Vec<R::Value>) {
    const QUAD: usize = 4;
    let (line, stride, padded) = (LINE / size_of::<R::Value>(), stride::<R::Value>(order.len()), columns.next_multiple_of(QUAD));
    values.resize(stride * padded, R::Value::default());
    tile.resize(line * padded, R::Value::default());
    for (index, rows) in order.chunks(line).enumerate() {
        for (row, part) in rows.iter().zip(tile.chunks_exact_mut(padded)) {
            responses.read(*row, first, part.get_mut(..columns).unwrap_or_default());
        }
        // Squares of four rows and four columns, which the compiler transposes in registers.
        let (quads, across, start) = (tile.as_chunks::<QUAD>().0, padded / QUAD, index * line);
        for (quad, four) in values.chunks_exact_mut(QUAD * stride).enumerate() {
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
}

/// The error for a NaN among a neuron's responses.
pub(crate) fn refuse_nan<T: Response>(neuron: usize, column: &[T], order: &[usize]) -> Result<()> {
    let nan = T::first_nan(column).and_then(|place| order.get(place));
    nan.map_or(Ok(()), |sample| Err(Error::NotANumber { site: None, neuron, sample: *sample }))
}
