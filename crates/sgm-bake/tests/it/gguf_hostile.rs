//! Damaged and hostile GGUF files: typed errors, no panics, no large allocations.

use proptest::prelude::*;
use sgm_bake::{Error, GgufProblem as P};

use crate::weight_files::{F32, Gguf, floats, gguf, read_and_bake, string};

fn tiny() -> Gguf {
    Gguf::new("llama")
        .with("general.alignment", 4, 32u32.to_le_bytes().to_vec())
        .with("list", 9, [4u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), vec![0; 8]].concat())
        .counting("blk.0.ffn_up.weight", &[2, 3])
        .counting("blk.0.ffn_up.bias", &[3])
        .tensor("blk.0.ffn_down.weight", &[32, 2], 2, vec![3; 36])
}

fn problem(bytes: &[u8]) -> P {
    match gguf(bytes) {
        Err(Error::Gguf { problem, path }) => {
            let message = Error::Gguf { path, problem: problem.clone() }.to_string();
            assert!(message.starts_with("test.gguf: "), "{message}");
            problem
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = tiny().bytes();
    gguf(&bytes).unwrap();
    // The padding after the last tensor is not needed.
    let end = bytes.len() - (64 - 36);
    for length in 0..end {
        assert!(matches!(gguf(&bytes[..length]), Err(Error::Gguf { .. })), "{length}");
    }
    gguf(&bytes[..end]).unwrap();
}

#[test]
fn a_file_shorter_than_it_was_is_an_error() {
    let bytes = tiny().bytes();
    let read = gguf(&bytes).unwrap();
    let scales = crate::weight_files::glasses(read.sites().into_iter().map(|(site, width)| (site, vec![0.5; width])));
    for length in 0..bytes.len() {
        assert!(matches!(crate::weight_files::baked(&read, &bytes[..length], &scales), Err(Error::Changed { .. })), "{length}");
    }
}

#[test]
fn what_is_wrong_has_a_name() {
    let changed = |change: fn(&mut Gguf)| {
        let mut file = tiny();
        change(&mut file);
        problem(&file.bytes())
    };
    assert_eq!(problem(b"GGML"), P::Magic);
    assert_eq!(changed(|f| f.version = 1), P::Version { version: 1 });
    assert_eq!(changed(|f| f.version = 4), P::Version { version: 4 });
    assert_eq!(changed(|f| f.version = 3u32.swap_bytes()), P::BigEndian);
    assert_eq!(changed(|f| f.tensor_count = Some(u64::MAX)), P::TooMany { what: "tensors", count: u64::MAX });
    assert_eq!(changed(|f| f.value_count = Some(1 << 40)), P::TooMany { what: "metadata entries", count: 1 << 40 });
    assert_eq!(
        changed(|f| f.metadata[2].2 = [4u32.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat()),
        P::TooMany { what: "values in a list", count: u64::MAX }
    );
    assert_eq!(
        changed(|f| f.metadata[2].2 = [8u32.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat()),
        P::TooMany { what: "strings in a list", count: u64::MAX }
    );
    assert_eq!(
        changed(|f| f.metadata[2].2 = [9u32.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat()),
        P::TooMany { what: "lists in a list", count: u64::MAX }
    );
    // Lists nested nine deep.
    let deep =
        |f: &mut Gguf| f.metadata[2].2 = (0..9).flat_map(|_| [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat()).collect();
    assert_eq!(changed(deep), P::Nesting { key: "list".to_owned() });
    assert_eq!(changed(|f| f.metadata[2].1 = 13), P::ValueType { key: "list".to_owned(), number: 13 });
    assert_eq!(
        changed(|f| f.metadata[0] = ("general.architecture".to_owned(), 4, vec![0; 4])),
        P::KeyType { key: "general.architecture".to_owned(), expected: "a string" }
    );
    assert_eq!(changed(|f| f.metadata[0].2 = (1u64 << 62).to_le_bytes().to_vec()), P::TooLong { what: "architecture", length: 1 << 62 });
    assert_eq!(changed(|f| f.metadata[0].2 = [string("a")[..8].to_vec(), vec![0xff]].concat()), P::NotUtf8 { what: "architecture" });
    assert_eq!(changed(|f| f.metadata[0].0 = "x".repeat(70_000)), P::TooLong { what: "metadata entry", length: 70_000 });
    for value in [0u32, 1, 12, 33] {
        let mut file = tiny();
        file.metadata[1].2 = value.to_le_bytes().to_vec();
        assert_eq!(problem(&file.bytes()), P::Alignment { value: value.into() });
    }
    assert_eq!(changed(|f| f.metadata[1].1 = 6), P::KeyType { key: "general.alignment".to_owned(), expected: "a whole number" });
    assert_eq!(changed(|f| f.metadata[2] = f.metadata[1].clone()), P::DuplicateKey { key: "general.alignment".to_owned() });
    assert_eq!(changed(|f| f.metadata.push(f.metadata[2].clone())), P::DuplicateKey { key: "list".to_owned() });
    assert_eq!(changed(|f| f.metadata[2] = ("split.count".to_owned(), 2, vec![3, 0])), P::Split { count: 3 });
    assert_eq!(changed(|f| f.tensors[1].name = f.tensors[0].name.clone()), P::DuplicateTensor { tensor: "blk.0.ffn_up.weight".to_owned() });

    let first = || "blk.0.ffn_up.weight".to_owned();
    assert_eq!(changed(|f| f.tensors[0].dimensions = vec![1; 5]), P::Dimensions { tensor: first(), rank: 5, dimensions: vec![] });
    assert_eq!(changed(|f| f.tensors[0].dimensions = vec![2, 0]), P::Dimensions { tensor: first(), rank: 2, dimensions: vec![2, 0] });
    assert_eq!(
        changed(|f| f.tensors[2].dimensions = vec![2, 32]),
        P::Dimensions { tensor: "blk.0.ffn_down.weight".to_owned(), rank: 2, dimensions: vec![2, 32] }
    );
    assert_eq!(changed(|f| f.tensors[0].dimensions = vec![1 << 32, 1 << 32]), P::Overflow { tensor: first() });
    assert_eq!(changed(|f| f.tensors[0].dimensions = vec![1 << 62]), P::Overflow { tensor: first() });
    assert_eq!(changed(|f| f.tensors[0].kind = 4), P::TensorType { tensor: first(), number: 4 });
    assert_eq!(changed(|f| f.tensors[0].offset = Some(16)), P::Misaligned { tensor: first(), offset: 16, alignment: 32 });
    assert_eq!(changed(|f| f.tensors[0].offset = Some(u64::MAX - 31)), P::Overflow { tensor: first() });
    assert_eq!(changed(|f| f.tensors[0].offset = Some(1 << 63)), {
        let length = tiny().bytes().len() as u64;
        P::OutOfRange { tensor: first(), end: (1 << 63) + length - 128 + 24, length }
    });
    assert_eq!(changed(|f| f.tensors[0].offset = Some(64)), P::Overlap { first: first(), second: "blk.0.ffn_down.weight".to_owned() });
}

#[test]
fn a_site_of_a_strange_shape_is_an_error() {
    for dimensions in [&[2u64, 3, 1, 2][..], &[2, 3, 2], &[1, 1, 1, 2]] {
        let n: u64 = dimensions.iter().product();
        let bytes = Gguf::new("llama").tensor("blk.0.ffn_up.weight", dimensions, F32, floats((0..n).map(|_| 0.0))).bytes();
        assert!(matches!(gguf(&bytes), Err(Error::Shape { .. })), "{dimensions:?}");
    }
    let bytes = Gguf::new("llama").counting("blk.0.ffn_up.weight", &[2, 3]).counting("blk.0.ffn_up.bias", &[4]).bytes();
    let scales = crate::weight_files::glasses([(sgm_core::Site::new(0, sgm_core::Projection::Up), vec![0.5; 3])]);
    assert!(matches!(crate::weight_files::baked(&gguf(&bytes).unwrap(), &bytes, &scales), Err(Error::Shape { .. })));
}

/// One layer with a complete MLP, which can be widened.
fn wide() -> Gguf {
    let width = || 32u32.to_le_bytes().to_vec();
    Gguf::new("llama")
        .with("llama.feed_forward_length", 4, width())
        .with("other.feed_forward_length", 9, [4u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec(), width()].concat())
        .counting("blk.0.ffn_up.weight", &[2, 32])
        .counting("blk.0.ffn_gate.weight", &[2, 32])
        .counting("output.weight", &[3])
        .tensor("blk.0.ffn_down.weight", &[32, 2], 1, vec![3; 128])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = tiny().bytes();
        let length = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[at.index(length)] = *byte);
        read_and_bake(gguf, &bytes);
    }

    #[test]
    fn any_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec(), tail].concat();
        read_and_bake(gguf, &bytes);
    }

    #[test]
    fn large_numbers_never_panic(
        at in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![0, 1, u64::from(u32::MAX), 1 << 32, 1 << 60, 1 << 63, u64::MAX, u64::MAX - 31])
    ) {
        let mut bytes = tiny().bytes();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        read_and_bake(gguf, &bytes);
    }

    #[test]
    fn changed_bytes_of_wider_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let mut bytes = wide().bytes();
        let length = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[at.index(length)] = *byte);
        read_and_bake(gguf, &bytes);
    }
}
