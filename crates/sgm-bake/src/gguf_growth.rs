//! The growth of tensors in a GGUF file: changes of its header, and of the padding between tensors.
//!
//! The header keeps its size: numbers in it are replaced by others of the same size.

use std::collections::BTreeMap;

use sgm_core::gguf::{GgufProblem, Header, TensorInfo, Value};

use crate::replacement::{Growth, Replacement};
use crate::site_tensor::Part;

type Result<T> = std::result::Result<T, GgufProblem>;

/// The changes by which some tensors grow, in the order of the file: dimensions, offsets, and the padding between tensors.
pub(crate) fn enlarge(header: &Header, growths: &BTreeMap<&str, Growth>) -> Result<Vec<Replacement>> {
    let mut changes = Vec::new();
    let mut order: Vec<&TensorInfo> = header.tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.start);
    // The end of the preceding tensor in the original and in the result.
    let (mut old, mut new) = (header.data_start, header.data_start);
    for tensor in order {
        let overflow = || GgufProblem::Overflow { tensor: tensor.name.clone() };
        let start = new.checked_next_multiple_of(header.alignment).ok_or_else(overflow)?;
        changes.extend(padding(old, tensor.start, start - new));
        if start != tensor.start {
            changes.push(Replacement::of_u64(tensor.offset_start, start - header.data_start));
        }
        let growth = growths.get(tensor.name.as_str()).copied().unwrap_or_default();
        // Innermost first.
        let more = if matches!(Part::of(&tensor.name), Some((_, Part::Bias))) { [growth.rows, 0] } else { [growth.columns, growth.rows] };
        for ((index, more), place) in more.into_iter().enumerate().zip((tensor.dimensions_start..).step_by(8)).filter(|((_, n), _)| *n > 0)
        {
            let Some(dimension) = tensor.shape().get(index) else {
                let (rank, dimensions) = (u32::try_from(tensor.rank).unwrap_or(u32::MAX), tensor.shape().to_vec());
                return Err(GgufProblem::Dimensions { tensor: tensor.name.clone(), rank, dimensions });
            };
            changes.push(Replacement::of_u64(place, dimension.checked_add(more).ok_or_else(overflow)?));
        }
        let size = (tensor.end - tensor.start).checked_add(growth.bytes);
        (old, new) = (tensor.end, size.and_then(|size| start.checked_add(size)).ok_or_else(overflow)?);
    }
    let end = old.checked_next_multiple_of(header.alignment).map_or(header.length, |end| end.min(header.length));
    changes.extend(padding(old, end, new.checked_next_multiple_of(header.alignment).map_or(0, |end| end - new)));
    Ok(changes)
}

/// The changes of the metadata by which layers of these widths become wider by `added` neurons.
pub(crate) fn widen(header: &Header, widths: &BTreeMap<usize, u64>, added: u64) -> Result<Vec<Replacement>> {
    let missing = |key: &str| GgufProblem::MissingKey { key: key.to_owned() };
    let architecture = header.architecture().ok_or_else(|| missing("general.architecture"))?;
    let key = format!("{architecture}.feed_forward_length");
    let entry = header.metadata.get(&key).ok_or_else(|| missing(&key))?;
    // One width for all layers, or one for each.
    let list = entry.value.as_list();
    let numbers: Vec<Option<u64>> = match list {
        None => vec![entry.value.as_u64()],
        Some(list) => list.held().into_iter().flatten().map(|number| number.ok().as_ref().and_then(Value::as_u64)).collect(),
    };
    let (value_type, start) = list.map_or((entry.value_type, entry.start), |list| (list.element, list.start));
    let mut changes: BTreeMap<u64, Replacement> = BTreeMap::new();
    for (layer, expected) in widths {
        let index = if list.is_some() { *layer } else { 0 };
        let (Some(Some(value)), Some(size)) = (numbers.get(index).copied(), value_type.size()) else {
            let expected = if list.is_some() { "a list of a whole number for each layer" } else { "a whole number" };
            return Err(GgufProblem::KeyType { key, expected });
        };
        if value != *expected {
            return Err(GgufProblem::Width { key, value, expected: *expected });
        }
        let wider = expected.checked_add(added).filter(|wider| value_type.largest_integer().is_some_and(|largest| *wider <= largest));
        let Some(wider) = wider else {
            return Err(GgufProblem::KeyType { key, expected: "of a type that holds the new width" });
        };
        let bytes = wider.to_le_bytes().into_iter().take(usize::try_from(size).unwrap_or(8)).collect();
        let place = start + index as u64 * size;
        changes.insert(place, Replacement { start: place, length: size, bytes, zeros: 0 });
    }
    Ok(changes.into_values().collect())
}

/// The change of the padding from one position to another to a number of zeros; none if its length stays the same.
fn padding(from: u64, to: u64, zeros: u64) -> Option<Replacement> {
    let length = to.saturating_sub(from);
    (length != zeros).then(|| Replacement { start: from, length, bytes: Vec::new(), zeros })
}
