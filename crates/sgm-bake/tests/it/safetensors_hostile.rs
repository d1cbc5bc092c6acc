//! Damaged and hostile safetensors files: typed errors, no panics, no large allocations.

use std::path::Path;

use proptest::prelude::*;
use sgm_bake::{Error, Result, SiteTensors};
use sgm_core::{Projection, Site};

use crate::weight_files::{floats, glasses, read_and_bake, safetensors};

const HEADER: &str = concat!(
    r#"{"model.layers.0.mlp.up_proj.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"#,
    r#""model.layers.0.mlp.up_proj.bias":{"dtype":"F16","shape":[2],"data_offsets":[16,20]},"#,
    r#""other":{"dtype":"U8","shape":[3],"data_offsets":[20,23]}}"#,
);

fn tiny() -> Vec<u8> {
    safetensors(HEADER, &[floats([1.0, 2.0, 3.0, 4.0]), vec![0; 7]].concat())
}

fn read(bytes: &[u8]) -> Result<SiteTensors> {
    SiteTensors::read_safetensors(Path::new("test.safetensors"), bytes, bytes.len() as u64)
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = tiny();
    let whole = read(&bytes).unwrap();
    let scales = glasses([(Site::new(0, Projection::Up), vec![0.5, 0.5])]);
    for length in 0..bytes.len() {
        assert!(matches!(read(&bytes[..length]), Err(Error::Safetensors { .. })), "{length}");
        assert!(matches!(crate::weight_files::baked(&whole, &bytes[..length], &scales), Err(Error::Changed { .. })), "{length}");
    }
    assert!(matches!(read(&[bytes, vec![0]].concat()), Err(Error::Safetensors { .. })), "trailing bytes");
}

#[test]
fn headers_that_lie_are_refused() {
    for (from, to) in [
        ("[0,16]", "[0,15]"),
        ("[0,16]", "[16,0]"),
        ("[16,20]", "[12,20]"),
        ("[20,23]", "[20,18446744073709551615]"),
        ("[2,2]", "[4294967296,4294967296]"),
        ("[2,2]", "[18446744073709551615,2]"),
        ("F32", "F33"),
        ("{\"dtype\":\"F32\"", "{\"dtype\":\"F32\",\"dtype\":\"F32\""),
        ("other", "\\ud800"),
    ] {
        let bytes = safetensors(&HEADER.replacen(from, to, 1), &[0; 23]);
        assert!(matches!(read(&bytes), Err(Error::Safetensors { .. })), "{from} {to}");
    }
    for size in [u64::MAX, u64::MAX - 7, 1 << 40, 100_000_001] {
        let mut bytes = tiny();
        bytes[..8].copy_from_slice(&size.to_le_bytes());
        assert!(matches!(read(&bytes), Err(Error::Safetensors { .. })), "{size}");
    }
}

#[test]
fn only_float_matrices_are_sites() {
    for (shape, dtype, size) in [("[8]", "F32", 32), ("[2,2,2]", "F32", 32), ("[0,2]", "F32", 0)] {
        let header = format!(r#"{{"model.layers.0.mlp.up_proj.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{size}]}}}}"#);
        assert!(matches!(read(&safetensors(&header, &vec![0; size])), Err(Error::Shape { .. })), "{shape}");
    }
    for (dtype, size) in [("F8_E4M3", 4), ("U8", 4), ("F8_E5M2", 4), ("I8", 4)] {
        let header = format!(r#"{{"model.layers.0.mlp.up_proj.weight":{{"dtype":"{dtype}","shape":[2,2],"data_offsets":[0,{size}]}}}}"#);
        let text = read(&safetensors(&header, &vec![0; size])).unwrap_err().to_string();
        assert!(text.contains("quantised") && text.contains(dtype) && text.contains("model.dequantize()"), "{text}");
    }
    let header = r#"{"model.layers.0.mlp.up_proj.weight":{"dtype":"F64","shape":[2,2],"data_offsets":[0,32]}}"#;
    let bytes = safetensors(header, &[0; 32]);
    let error = crate::weight_files::baked(&read(&bytes).unwrap(), &bytes, &glasses([(Site::new(0, Projection::Up), vec![0.5, 0.5])]));
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::TensorType { got, .. } if got == "F64"), "{error}");
}

/// One layer with a complete MLP, which can be widened.
const WIDE: &str = concat!(
    r#"{"model.layers.0.mlp.up_proj.weight":{"dtype":"F16","shape":[3,2],"data_offsets":[0,12]},"#,
    r#""model.layers.0.mlp.gate_proj.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[12,36]},"#,
    r#""model.layers.0.mlp.down_proj.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[36,48]},"#,
    r#""other":{"dtype":"U8","shape":[3],"data_offsets":[48,51]}}"#,
);

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = tiny();
        let length = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[at.index(length)] = *byte);
        read_and_bake(read, &bytes);
    }

    #[test]
    fn other_numbers_never_panic(
        which in 0usize..9,
        number in prop::sample::select(vec![0, 1, 3, 16, 20, u64::from(u32::MAX), 1 << 63, u64::MAX])
    ) {
        // Replaces one number of the header.
        let mut pieces: Vec<String> = Vec::new();
        let mut digits = false;
        for c in HEADER.chars() {
            if pieces.is_empty() || c.is_ascii_digit() != digits { pieces.push(String::new()); }
            digits = c.is_ascii_digit();
            pieces.last_mut().unwrap().push(c);
        }
        let numbers: Vec<usize> = (0..pieces.len()).filter(|i| pieces[*i].starts_with(|c: char| c.is_ascii_digit())).collect();
        pieces[numbers[which % numbers.len()]] = number.to_string();
        let bytes = safetensors(&pieces.concat(), &[0; 23]);
        read_and_bake(read, &bytes);
    }

    #[test]
    fn changed_bytes_of_wider_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut bytes = safetensors(WIDE, &[0; 51]);
        let length = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[at.index(length)] = *byte);
        read_and_bake(read, &bytes);
    }
}
