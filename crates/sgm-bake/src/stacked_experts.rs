//! Tensors that stack all experts of a layer, in either orientation.

use std::collections::BTreeMap;

use sgm_core::{Projection, TensorNeurons};

use crate::block::BlockFormat;
use crate::site_tensor::{Columns, Part, SiteTensor};

/// The largest number of experts of a layer, to limit memory.
const MAX_EXPERTS: usize = 1 << 16;

/// A tensor that stacks all experts of a layer.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) name: String,
    pub(crate) neurons: TensorNeurons,
    pub(crate) format: BlockFormat,
    /// The position of the tensor's first byte in the file.
    pub(crate) start: u64,
}

/// The shapes of routers and of stacked experts, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mixtures(BTreeMap<String, Vec<u64>>);

impl Mixtures {
    /// Notes the shape of a tensor that belongs to a mixture of experts.
    pub(crate) fn note(&mut self, name: &str, shape: &[u64]) {
        if name.ends_with(".gate.weight") || name.rsplit_once('.').is_some_and(|(module, _)| module.ends_with(".experts")) {
            self.0.insert(name.to_owned(), shape.to_vec());
        }
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(name, shape)| (name.clone(), shape.clone())));
    }

    fn shape(&self, name: &str) -> Option<&[u64]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

impl Stack {
    /// The tensor with its neurons in place; `None` if the mixture has no router in `mixtures`. The error is the shape of a tensor that
    /// does not fit.
    pub(crate) fn place(&self, mixtures: &Mixtures) -> Result<Option<SiteTensor>, Vec<u64>> {
        let TensorNeurons::Stacked { projections, .. } = &self.neurons else { return Ok(None) };
        let Some(&[experts, hidden]) = TensorNeurons::router(&self.name).as_deref().and_then(|name| mixtures.shape(name)) else {
            return Ok(None);
        };
        let own = mixtures.shape(&self.name).unwrap_or_default();
        let misfit = || own.to_vec();
        let &[count, a, b] = own else { return Err(misfit()) };
        let Some(groups) = usize::try_from(experts).ok().filter(|experts| *experts <= MAX_EXPERTS) else { return Err(misfit()) };
        let turned = neurons_are_columns(projections, [a, b], hidden, || match mixtures.shape(&sibling(&self.name)?) {
            Some(&[_, a, b]) => Some([a, b]),
            _ => None,
        });
        let turned = turned.ok_or_else(misfit)?;
        let (neurons, inputs) = if turned { (b, a) } else { (a, b) };
        let parts = projections.len() as u64;
        let rows = count.checked_mul(neurons).filter(|rows| *rows > 0 && inputs > 0 && count == experts && neurons.is_multiple_of(parts));
        let (rows, width) = (rows.ok_or_else(misfit)?, neurons / parts);
        let groups = self.neurons.groups(groups);
        let columns = turned.then_some(Columns { inputs, neurons });
        let (rows, inputs) = if turned { (rows.checked_mul(inputs).ok_or_else(misfit)?, 1) } else { (rows, inputs) };
        let (name, format, start) = (self.name.clone(), self.format, self.start);
        Ok(Some(SiteTensor { name, groups, width, part: Part::Weight, format, start, rows, inputs, columns }))
    }
}

/// The name of the other stacked tensor of a mixture.
pub(crate) fn sibling(name: &str) -> Option<String> {
    let (experts, own) = name.rsplit_once('.')?;
    Some(format!("{experts}.{}", if own == Projection::Down.name() { "gate_up_proj" } else { Projection::Down.name() }))
}

/// Whether stacked matrices `shape` have a neuron in each column rather than in each row, where the mixture's input and output have
/// `hidden` channels; `None` if the shape fits neither. Square matrices are oriented as those of the sibling.
pub(crate) fn neurons_are_columns(
    projections: &[Projection],
    shape: [u64; 2],
    hidden: u64,
    sibling: impl FnOnce() -> Option<[u64; 2]>,
) -> Option<bool> {
    let oriented = |down: bool, [a, b]: [u64; 2]| {
        let (outer, inner) = (a == hidden, b == hidden);
        // The outputs of down, and the inputs of gate and up, are hidden channels.
        if down { (outer, inner) } else { (inner, outer) }
    };
    let down = projections.contains(&Projection::Down);
    match oriented(down, shape) {
        (false, false) => None,
        (true, true) => match sibling().map(|shape| oriented(!down, shape)) {
            Some((false, true)) => Some(true),
            _ => Some(false),
        },
        (_, columns) => Some(columns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Projection::{Down, Gate, Up};

    #[test]
    fn the_orientation_follows_from_the_hidden_size_and_of_squares_from_the_sibling() {
        let none = || None;
        for (rows, columns) in [([8, 4], [4, 8]), ([6, 4], [4, 6])] {
            assert_eq!(neurons_are_columns(&[Gate, Up], rows, 4, none), Some(false));
            assert_eq!(neurons_are_columns(&[Gate, Up], columns, 4, none), Some(true));
        }
        assert_eq!(neurons_are_columns(&[Down], [4, 3], 4, none), Some(false));
        assert_eq!(neurons_are_columns(&[Down], [3, 4], 4, none), Some(true));
        assert_eq!(neurons_are_columns(&[Down], [3, 5], 4, none), None);
        // Two intermediate channels make one hidden size.
        assert_eq!(neurons_are_columns(&[Gate, Up], [4, 4], 4, || Some([4, 2])), Some(false));
        assert_eq!(neurons_are_columns(&[Gate, Up], [4, 4], 4, || Some([2, 4])), Some(true));
        assert_eq!(neurons_are_columns(&[Down], [4, 4], 4, || Some([4, 8])), Some(true));
    }
}
