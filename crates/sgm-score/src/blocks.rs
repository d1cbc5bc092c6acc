use rayon::prelude::*;

use crate::order::Scratch;
use crate::{Error, Response, Responses, Result};

/// Rows that are turned into columns at a time: their part of a column fills whole cache lines.
const TILE: usize = 32;
/// More columns at a time than this gain nothing.
const MAX_COLUMNS: usize = 256;

/// The number of neurons that each thread works on at a time, so that all threads together stay within
/// `memory` bytes; `per_sample` bytes of each neuron's results come with every sample.
pub(crate) fn columns_within<R: Responses>(responses: &R, memory: usize, per_sample: usize) -> Result<usize> {
    let samples = responses.samples();
    let fixed = Scratch::bytes(samples) + samples * size_of::<usize>();
    let column = samples * (size_of::<R::Value>() + per_sample) + TILE * size_of::<R::Value>();
    let each = memory / rayon::current_num_threads();
    match each.saturating_sub(fixed) / column.max(1) {
        0 => Err(Error::Memory { budget: memory, needed: (fixed + column) * rayon::current_num_threads() }),
        columns => Ok(columns.min(MAX_COLUMNS)),
    }
}

/// A block of neurons, column by column, the samples in the order that was asked for.
pub(crate) struct Block<'a, T> {
    pub(crate) first: usize,
    samples: usize,
    values: &'a [T],
}

impl<T> Block<'_, T> {
    /// The neurons with their responses.
    pub(crate) fn columns(&self) -> impl Iterator<Item = (usize, &[T])> {
        (self.first..).zip(self.values.chunks_exact(self.samples.max(1)))
    }
}

/// Computes something for each neuron, in parallel over blocks of at most `width` neurons. `order` gives the rows to
/// read. The results are in the order of the neurons; the error is the first neuron's for any number of threads.
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
        turn(responses, order, first, width.min(neurons - first), values, tile);
        block(Block { first, samples: order.len(), values }, scratch)
    });
    let mut all = Vec::with_capacity(neurons);
    for results in blocks.collect::<Vec<_>>() {
        all.extend(results?);
    }
    Ok(all)
}

/// Reads a block of columns row by row and writes them one after the other.
fn turn<R: Responses>(responses: &R, order: &[usize], first: usize, columns: usize, values: &mut Vec<R::Value>, tile: &mut Vec<R::Value>) {
    let samples = order.len();
    values.resize(samples * columns, R::Value::default());
    tile.resize(TILE * columns, R::Value::default());
    for (index, rows) in order.chunks(TILE).enumerate() {
        for (row, part) in rows.iter().zip(tile.chunks_exact_mut(columns)) {
            responses.read(*row, first, part);
        }
        let start = index * TILE;
        for (column, values) in values.chunks_exact_mut(samples).enumerate() {
            let part = values.get_mut(start..start + rows.len()).unwrap_or_default();
            let from = tile.get(column..).unwrap_or_default();
            for (to, from) in part.iter_mut().zip(from.iter().step_by(columns)) {
                *to = *from;
            }
        }
    }
}

/// The error for a NaN among a neuron's responses.
pub(crate) fn refuse_nan<T: Response>(neuron: usize, column: &[T], order: &[usize]) -> Result<()> {
    let nan = T::first_nan(column).and_then(|place| order.get(place));
    nan.map_or(Ok(()), |sample| Err(Error::NotANumber { site: None, neuron, sample: *sample }))
}
