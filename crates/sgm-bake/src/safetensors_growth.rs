//! The growth of tensors in a safetensors file: a new header.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::replacement::{Growth, Replacement};

/// The replacement of the header and its size by those of grown tensors; none if the header is malformed.
///
/// `names` are the tensors in the order of the file.
pub(crate) fn enlarge(header: &[u8], names: &[String], growths: &BTreeMap<&str, Growth>) -> Option<Replacement> {
    let mut entries: BTreeMap<String, Value> = serde_json::from_slice(header).ok()?;
    let mut shift = 0u64;
    for name in names {
        let tensor = entries.get_mut(name)?;
        let growth = growths.get(name.as_str()).copied().unwrap_or_default();
        let mut add = |key: &str, more: &[u64]| {
            let numbers = tensor.get_mut(key)?.as_array_mut()?;
            for (number, more) in numbers.iter_mut().zip(more) {
                *number = number.as_u64()?.checked_add(*more)?.into();
            }
            Some(())
        };
        add("shape", &[growth.rows, growth.columns])?;
        let before = shift;
        shift = shift.checked_add(growth.bytes)?;
        add("data_offsets", &[before, shift])?;
    }
    let mut json = serde_json::to_vec(&entries).ok()?;
    // Padded like the safetensors library does, so that tensors start at a multiple of 8.
    json.resize(json.len().next_multiple_of(8), b' ');
    let bytes = [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat();
    Some(Replacement { start: 0, length: 8 + header.len() as u64, bytes, zeros: 0 })
}
