//! What is done to a file on the way to its copy.

use sgm_core::Site;

use crate::block::{BlockFormat, Change, Tally};
use crate::widening::Insertion;

/// A change to a file, at a place of the original.
#[derive(Debug)]
pub(crate) enum Edit<'a> {
    Replace(Replacement),
    Tensor(Box<TensorEdit<'a>>),
}

/// Bytes of a file that give way to others: a number in a header, say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Replacement {
    /// Bytes from the beginning of the original.
    pub(crate) start: u64,
    /// The number of bytes that go.
    pub(crate) length: u64,
    /// Those that come instead.
    pub(crate) bytes: Vec<u8>,
    /// The number of zeros after them.
    pub(crate) zeros: u64,
}

/// Rows of a tensor that are scaled, and weights that are added to it.
#[derive(Debug)]
pub(crate) struct TensorEdit<'a> {
    pub(crate) tensor: String,
    /// The sites whose neurons change, or that get more of them.
    pub(crate) sites: Vec<Site>,
    pub(crate) format: BlockFormat,
    /// Bytes from the beginning of the original.
    pub(crate) start: u64,
    pub(crate) rows: u64,
    pub(crate) blocks_per_row: u64,
    /// What happens to the rows, again and again until all have had their turn; nothing where it is empty.
    pub(crate) changes: Vec<Change>,
    pub(crate) insertion: Option<Insertion<'a>>,
}

impl<'a> Edit<'a> {
    /// The place, from and to, in the original.
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
    /// The blocks of all rows.
    pub(crate) fn blocks(&self) -> u64 {
        self.rows * self.blocks_per_row
    }

    /// The bytes and the values that it gets, if it grows.
    pub(crate) fn more(&self) -> Option<(u64, u64)> {
        let bytes = self.insertion.as_ref()?.growth().bytes;
        Some((bytes, bytes / self.format.bytes * self.format.values))
    }

    /// The number of rows that change.
    pub(crate) fn changed_rows(&self) -> u64 {
        let changed = self.changes.iter().filter(|change| **change != Change::NONE).count() as u64;
        changed * (self.rows / (self.changes.len() as u64).max(1))
    }

    /// Scales consecutive blocks of the tensor, the first of which is its `first`.
    pub(crate) fn scale(&self, first: u64, mut blocks: &mut [u8], tally: &mut Tally) {
        if self.changes.is_empty() {
            return;
        }
        let mut block = first;
        while !blocks.is_empty() {
            let left = self.blocks_per_row - block % self.blocks_per_row;
            let bytes = usize::try_from(left * self.format.bytes).unwrap_or(usize::MAX).min(blocks.len());
            let (row, rest) = blocks.split_at_mut(bytes);
            let turn = (block / self.blocks_per_row) % self.changes.len() as u64;
            let change = usize::try_from(turn).ok().and_then(|turn| self.changes.get(turn)).copied().unwrap_or(Change::NONE);
            if change != Change::NONE {
                self.format.scale(row, change, tally);
            }
            (block, blocks) = (block + left, rest);
        }
    }
}

/// By how much a tensor grows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Growth {
    pub(crate) bytes: u64,
    /// Rows of a matrix, values of a vector.
    pub(crate) rows: u64,
    pub(crate) columns: u64,
}
