//! Edits of a file while it is copied.

use sgm_core::Site;

use crate::block::{BlockFormat, Change, Tally};
use crate::insertion::Insertion;
use crate::replacement::Replacement;
use crate::site_tensor::Columns;

/// An edit at a position of the original file.
#[derive(Debug)]
pub(crate) enum Edit<'a> {
    Replace(Replacement),
    Tensor(Box<TensorEdit<'a>>),
}

/// Rows of a tensor that are scaled, and weights that are added to it.
#[derive(Debug)]
pub(crate) struct TensorEdit<'a> {
    pub(crate) tensor: String,
    /// The sites whose neurons change or are added to.
    pub(crate) sites: Vec<Site>,
    pub(crate) format: BlockFormat,
    /// The position of the tensor's first byte in the original.
    pub(crate) start: u64,
    pub(crate) rows: u64,
    pub(crate) blocks_per_row: u64,
    /// The changes of the rows; the sequence repeats until the last row. Empty if no row changes.
    pub(crate) changes: Vec<Change>,
    /// Set where neurons are columns: the changes are then those of the columns of each matrix.
    pub(crate) columns: Option<Columns>,
    pub(crate) insertion: Option<Insertion<'a>>,
}

impl<'a> Edit<'a> {
    /// The range of the edit in the original: start and end.
    pub(crate) fn place(&self) -> (u64, u64) {
        match self {
            Self::Replace(r) => (r.start, r.start.saturating_add(r.length)),
            Self::Tensor(t) => (t.start, t.start.saturating_add(t.blocks() * t.format.bytes)),
        }
    }

    pub(crate) fn tensor(&self) -> Option<&TensorEdit<'a>> {
        match self {
            Self::Replace(_) => None,
            Self::Tensor(tensor) => Some(tensor),
        }
    }
}

impl TensorEdit<'_> {
    /// The number of blocks of all rows.
    pub(crate) fn blocks(&self) -> u64 {
        self.rows * self.blocks_per_row
    }

    /// The numbers of bytes and of values by which the tensor grows, if it does.
    pub(crate) fn more(&self) -> Option<(u64, u64)> {
        let bytes = self.insertion.as_ref()?.growth().bytes;
        Some((bytes, bytes / self.format.bytes * self.format.values))
    }

    /// The number of neurons, each a row or a column.
    pub(crate) fn neurons(&self) -> u64 {
        self.rows / self.columns.map_or(1, |columns| columns.inputs.max(1))
    }

    /// The number of neurons that change.
    pub(crate) fn changed_neurons(&self) -> u64 {
        let changed = self.changes.iter().filter(|change| **change != Change::NONE).count() as u64;
        changed * (self.neurons() / (self.changes.len() as u64).max(1))
    }

    /// The index of the neuron that a row belongs to.
    fn neuron(&self, row: u64) -> u64 {
        match self.columns {
            None => row,
            Some(Columns { inputs, neurons }) => row / (inputs * neurons).max(1) * neurons + row % neurons.max(1),
        }
    }

    /// Scales consecutive blocks of the tensor; `first` is the index of the first one.
    pub(crate) fn scale(&self, first: u64, mut blocks: &mut [u8], tally: &mut Tally) {
        if self.changes.is_empty() {
            return;
        }
        let mut block = first;
        while !blocks.is_empty() {
            let left = self.blocks_per_row - block % self.blocks_per_row;
            let bytes = usize::try_from(left * self.format.bytes).unwrap_or(usize::MAX).min(blocks.len());
            let (row, rest) = blocks.split_at_mut(bytes);
            let turn = self.neuron(block / self.blocks_per_row) % self.changes.len() as u64;
            let change = usize::try_from(turn).ok().and_then(|turn| self.changes.get(turn)).copied().unwrap_or(Change::NONE);
            if change != Change::NONE {
                self.format.scale(row, change, tally);
            }
            (block, blocks) = (block + left, rest);
        }
    }
}
