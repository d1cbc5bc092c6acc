//! Sources of pooled responses: arrays, and shards of raw bytes.

use ndarray::ArrayView2;

use crate::{Error, Response, Result};

/// Pooled responses of samples (rows) and neurons (columns), of which parts of rows are read.
///
/// Scoring reads all rows for each block of columns, so that a source need not be in memory.
pub trait Responses: Sync {
    /// The dtype.
    type Value: Response;

    /// The number of rows.
    fn samples(&self) -> usize;

    /// The number of columns.
    fn neurons(&self) -> usize;

    /// Copies `responses.len()` columns of a row, from column `first` on. Both are in range.
    fn read(&self, sample: usize, first: usize, responses: &mut [Self::Value]);
}

impl<T: Response> Responses for ArrayView2<'_, T> {
    type Value = T;

    fn samples(&self) -> usize {
        self.nrows()
    }

    fn neurons(&self) -> usize {
        self.ncols()
    }

    fn read(&self, sample: usize, first: usize, responses: &mut [T]) {
        let row = self.row(sample);
        match row.as_slice().and_then(|row| row.get(first..first + responses.len())) {
            Some(values) => responses.copy_from_slice(values),
            None => responses.iter_mut().zip(row.iter().skip(first)).for_each(|(to, from)| *to = *from),
        }
    }
}

/// Row-major `[samples, neurons]` responses in little-endian bytes, as in memory-mapped safetensors files: one piece, or several pieces
/// (shards) that follow each other along the samples.
#[derive(Debug, Clone)]
pub struct Shards<'a, T: Response> {
    pieces: Vec<&'a [T::Bytes]>,
    /// The piece of each sample, and the row within the piece.
    rows: Vec<(u32, u32)>,
    neurons: usize,
}

impl<'a, T: Response> Shards<'a, T> {
    /// Responses in pieces of `neurons` columns.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a piece is not a whole number of rows.
    pub fn new(pieces: impl IntoIterator<Item = &'a [u8]>, neurons: usize) -> Result<Self> {
        let (mut shards, row) = (Self { pieces: Vec::new(), rows: Vec::new(), neurons }, neurons * size_of::<T>());
        for bytes in pieces {
            let rows = bytes.len().checked_div(row).unwrap_or(0);
            if rows * row != bytes.len() {
                let reason = format!("{} bytes are not a whole number of rows of {neurons} neurons", bytes.len());
                return Err(Error::Shape { name: format!("shard {}", shards.pieces.len()), reason });
            }
            let too_many = |_| Error::TooManySamples(rows);
            let piece = u32::try_from(shards.pieces.len()).map_err(too_many)?;
            shards.rows.extend((0..u32::try_from(rows).map_err(too_many)?).map(|row| (piece, row)));
            shards.pieces.push(T::split(bytes));
        }
        Ok(shards)
    }
}

impl<T: Response> Responses for Shards<'_, T> {
    type Value = T;

    fn samples(&self) -> usize {
        self.rows.len()
    }

    fn neurons(&self) -> usize {
        self.neurons
    }

    fn read(&self, sample: usize, first: usize, responses: &mut [T]) {
        let values = self.rows.get(sample).and_then(|(piece, row)| {
            let first = *row as usize * self.neurons + first;
            self.pieces.get(*piece as usize)?.get(first..first + responses.len())
        });
        responses.iter_mut().zip(values.unwrap_or_default()).for_each(|(to, bytes)| *to = T::from_bytes(*bytes));
    }
}

/// A selection of another source's rows, in any order and possibly with repetitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a, R> {
    pub(crate) responses: &'a R,
    pub(crate) rows: &'a [usize],
}

impl<R: Responses> Responses for Rows<'_, R> {
    type Value = R::Value;

    fn samples(&self) -> usize {
        self.rows.len()
    }

    fn neurons(&self) -> usize {
        self.responses.neurons()
    }

    fn read(&self, sample: usize, first: usize, responses: &mut [R::Value]) {
        if let Some(row) = self.rows.get(sample) {
            self.responses.read(*row, first, responses);
        }
    }
}
