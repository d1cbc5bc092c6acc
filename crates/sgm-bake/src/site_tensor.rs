//! One tensor that holds neurons of sites.

use sgm_core::{Projection, Site};

use crate::block::BlockFormat;

/// A tensor of sites.
#[derive(Debug)]
pub(crate) struct SiteTensor {
    pub(crate) name: String,
    /// The groups of neurons in the order of their rows, with `width` rows each; a neuron belongs to all sites of its group. The
    /// sequence repeats in GGUF tensors of several experts.
    pub(crate) groups: Vec<Vec<Site>>,
    pub(crate) width: u64,
    pub(crate) part: Part,
    pub(crate) format: BlockFormat,
    /// The position of the tensor's first byte in the file.
    pub(crate) start: u64,
    pub(crate) rows: u64,
    /// Values per row.
    pub(crate) inputs: u64,
    /// Set where neurons are columns; each value then counts as a row.
    pub(crate) columns: Option<Columns>,
}

/// The matrices `[inputs, neurons]` of which a tensor consists, one for each expert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) inputs: u64,
    pub(crate) neurons: u64,
}

/// The role of a tensor in its linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Weight,
    Bias,
}

impl Part {
    /// A tensor's name without its ending, and the part that the ending denotes.
    pub(crate) fn of(name: &str) -> Option<(&str, Self)> {
        let weight = name.strip_suffix(".weight").map(|module| (module, Self::Weight));
        weight.or_else(|| name.strip_suffix(".bias").map(|module| (module, Self::Bias)))
    }
}

impl SiteTensor {
    /// Whether the tensor has rows of a projection.
    pub(crate) fn holds(&self, projection: Projection) -> bool {
        self.sites().any(|site| site.projection == projection)
    }

    /// The sites of all groups.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.groups.iter().flatten()
    }
}
