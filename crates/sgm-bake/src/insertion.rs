//! Weights of added neurons, inserted into a tensor.

use sgm_core::{PatchNeuron, Projection};

use crate::block::{BlockFormat, Tally};
use crate::encode::encode;
use crate::replacement::Growth;

/// Weights inserted into a tensor: a piece after every `every` blocks.
#[derive(Debug)]
pub(crate) struct Insertion<'a> {
    pub(crate) every: u64,
    pub(crate) pieces: u64,
    pub(crate) bytes_per_piece: u64,
    pub(crate) format: BlockFormat,
    pub(crate) neurons: &'a [PatchNeuron],
    pub(crate) added: u64,
    pub(crate) what: What,
}

/// The content of an insertion's pieces.
#[derive(Debug)]
pub(crate) enum What {
    /// A piece is the rows of all added neurons at one of these projections.
    Rows(Vec<Projection>),
    /// A piece is the extension of one row of `down_proj`.
    Columns,
    /// A piece is the biases of all added neurons, which are 0.
    Zeros,
}

impl Insertion<'_> {
    pub(crate) fn growth(&self) -> Growth {
        let bytes = self.pieces.saturating_mul(self.bytes_per_piece);
        match &self.what {
            What::Columns => Growth { bytes, rows: 0, columns: self.added },
            What::Rows(_) | What::Zeros => Growth { bytes, rows: self.added.saturating_mul(self.pieces), columns: 0 },
        }
    }

    /// The bytes of one piece; rounding errors are counted in the tally.
    pub(crate) fn piece(&self, number: u64, tally: &mut Tally) -> Vec<u8> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let mut bytes = vec![0; usize::try_from(self.bytes_per_piece).unwrap_or(0)];
        match &self.what {
            What::Columns => {
                let mut row = vec![0.0; usize::try_from(self.added).unwrap_or(0)];
                for (neuron, at) in self.neurons.iter().zip(self.places()) {
                    if let (Some(to), Some(value)) = (row.get_mut(at), neuron.down.get(number)) {
                        *to = *value;
                    }
                }
                // The piece is initialised with zero bits, which decode to zeros in every type.
                if row.iter().any(|value| *value != 0.0) {
                    self.store(&row, &mut bytes, tally);
                }
            }
            What::Rows(projections) => {
                let size = bytes.len() / usize::try_from(self.added).unwrap_or(usize::MAX).max(1);
                for (neuron, at) in self.neurons.iter().zip(self.places()) {
                    let weights = neuron.weights().into_iter().find(|(p, _)| Some(p) == projections.get(number));
                    if let (Some((_, values)), Some(to)) = (weights, bytes.get_mut(at * size..(at + 1) * size)) {
                        self.store(values, to, tally);
                    }
                }
            }
            What::Zeros => {}
        }
        bytes
    }

    /// The indices of the patch neurons among the added ones: spread evenly, so that few share a block.
    fn places(&self) -> impl Iterator<Item = usize> {
        (0..).step_by((usize::try_from(self.added).unwrap_or(usize::MAX) / self.neurons.len().max(1)).max(1))
    }

    fn store(&self, values: &[f32], to: &mut [u8], tally: &mut Tally) {
        let Some((bytes, stored)) = encode(&self.format, values).filter(|(bytes, _)| bytes.len() == to.len()) else { return };
        to.copy_from_slice(&bytes);
        values.iter().zip(stored).for_each(|(exact, stored)| tally.count_added(*exact, stored));
    }
}
