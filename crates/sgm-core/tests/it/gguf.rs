//! The reader of GGUF headers: values, lists, tensors, and errors for malformed files.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sgm_core::gguf::{
    FileProblem, GgufProblem, Header, ReadError, TensorType, Value, ValueType, check_parts, language_models_in, part_paths,
};

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn list(element: u32, len: u64, bytes: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes()[..], &len.to_le_bytes(), bytes].concat()
}

/// A file of metadata entries (key, number of the type, bytes of the value) and one F16 matrix of 2 rows and 3 columns.
fn file(entries: &[(&str, u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend([1u64.to_le_bytes(), (entries.len() as u64).to_le_bytes()].concat());
    for (key, kind, value) in entries {
        file.extend([text(key), kind.to_le_bytes().to_vec(), value.clone()].concat());
    }
    file.extend([text("matrix"), 2u32.to_le_bytes().to_vec()].concat());
    file.extend([3u64.to_le_bytes(), 2u64.to_le_bytes()].concat());
    file.extend([1u32.to_le_bytes().to_vec(), 0u64.to_le_bytes().to_vec()].concat());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend([7; 12]);
    file
}

fn read(bytes: &[u8]) -> Result<Header, ReadError> {
    Header::read(bytes, bytes.len() as u64)
}

fn problem(bytes: &[u8]) -> GgufProblem {
    match read(bytes) {
        Err(ReadError::Problem(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_of_every_type_are_read_with_their_places() {
    let entries = [
        ("u8", 0, vec![200]),
        ("i8", 1, vec![0xff]),
        ("u16", 2, vec![1, 2]),
        ("i16", 3, vec![0xfe, 0xff]),
        ("u32", 4, vec![0xff; 4]),
        ("i32", 5, vec![5, 0, 0, 0]),
        ("f32", 6, 0.5f32.to_le_bytes().to_vec()),
        ("bool", 7, vec![2]),
        ("text", 8, [&1u64.to_le_bytes()[..], &[0xff]].concat()),
        ("u64", 10, vec![0xff; 8]),
        ("i64", 11, (-3i64).to_le_bytes().to_vec()),
        ("f64", 12, 0.25f64.to_le_bytes().to_vec()),
    ];
    let bytes = file(&entries);
    let header = read(&bytes).unwrap();
    let expected = [
        Value::Unsigned(200),
        Value::Signed(-1),
        Value::Unsigned(0x201),
        Value::Signed(-2),
        Value::Unsigned(u32::MAX.into()),
        Value::Signed(5),
        Value::Float(0.5),
        Value::Bool(true),
        Value::Text("\u{fffd}".to_owned()),
        Value::Unsigned(u64::MAX),
        Value::Signed(-3),
        Value::Float(0.25),
    ];
    for ((key, _, value), expected) in entries.iter().zip(expected) {
        let entry = &header.metadata[*key];
        assert_eq!(entry.value, expected, "{key}");
        let start = usize::try_from(entry.start).unwrap();
        assert_eq!(bytes[start..start + value.len()], *value, "{key}");
        assert!(entry.value_type.size().is_none_or(|size| size == value.len() as u64));
    }
    assert_eq!((header.get("i32").unwrap().as_u64(), header.get("i8").unwrap().as_u64()), (Some(5), None));
    assert_eq!(header.get("bool").unwrap().as_u64(), None);
    assert_eq!((header.alignment, header.length), (32, bytes.len() as u64));
    let [matrix] = header.tensors.as_slice() else { panic!("{:?}", header.tensors) };
    assert_eq!((matrix.shape(), matrix.tensor_type.name), (&[3, 2][..], "F16"));
    assert_eq!((matrix.start, matrix.end), (header.data_start, header.length));
    let dimensions = usize::try_from(matrix.dimensions_start).unwrap();
    assert_eq!(bytes[dimensions..dimensions + 8], 3u64.to_le_bytes());
}

#[test]
fn lists_are_decoded_from_the_file_and_short_ones_without_it() {
    let texts = list(8, 2, &[text("one"), text("")].concat());
    let nested = list(9, 1, &list(0, 3, &[1, 2, 3]));
    let long = list(0, 1 << 20, &vec![9; 1 << 20]);
    let bytes =
        file(&[("numbers", 9, list(5, 2, &[1, 0, 0, 0, 2, 0, 0, 0])), ("texts", 9, texts), ("nested", 9, nested), ("long", 9, long)]);
    let header = read(&bytes).unwrap();
    let values = |key: &str| header.get(key).unwrap().as_list().unwrap().values(&bytes).collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(values("numbers"), [Value::Signed(1), Value::Signed(2)]);
    assert_eq!(values("texts"), ["one", ""].map(|text| Value::Text(text.to_owned())));
    let inner = values("nested");
    let inner = inner[0].as_list().unwrap();
    assert_eq!((inner.element, inner.len), (ValueType::U8, 3));
    assert_eq!(inner.values(&bytes).collect::<Result<Vec<_>, _>>().unwrap(), [1, 2, 3].map(Value::Unsigned));
    let held = |key: &str| header.get(key).unwrap().as_list().unwrap().held().map(|values| values.flatten().collect::<Vec<_>>());
    assert_eq!(held("numbers"), Some(values("numbers")));
    assert_eq!((held("texts"), held("long")), (None, None));
    assert_eq!(values("long").len(), 1 << 20);
    // A file that has become shorter gives errors, not values.
    assert!(header.get("texts").unwrap().as_list().unwrap().values(&bytes[..40]).all(|value| value.is_err()));
}

#[test]
fn malformed_files_have_their_problems() {
    let number = || vec![3, 0, 0, 0];
    assert_eq!(problem(&file(&[("a", 4, number()), ("a", 4, number())])), GgufProblem::DuplicateKey { key: "a".to_owned() });
    assert_eq!(problem(&file(&[("a", 13, number())])), GgufProblem::ValueType { key: "a".to_owned(), number: 13 });
    assert_eq!(problem(&file(&[("general.alignment", 4, number())])), GgufProblem::Alignment { value: 3 });
    let negative = problem(&file(&[("general.alignment", 5, vec![0xff; 4])]));
    assert!(matches!(&negative, GgufProblem::KeyType { key, .. } if key == "general.alignment"), "{negative}");
    let deep = (0..9).fold(vec![0], |inner, _| list(9, 1, &inner));
    assert_eq!(problem(&file(&[("deep", 9, deep)])), GgufProblem::Nesting { key: "deep".to_owned() });
    let split = read(&file(&[("split.count", 4, number())])).unwrap();
    assert_eq!(split.check_whole(), Err(GgufProblem::Split { count: 3 }));
    read(&file(&[("general.architecture", 8, text("llama"))])).unwrap().check_whole().unwrap();
    // A source that ends before the stated length.
    let (whole, header) = (file(&[]), 70);
    let cut = |length: usize| Header::read(&whole[..length], whole.len() as u64);
    assert!((0..header).all(|length| matches!(cut(length), Err(ReadError::Problem(GgufProblem::Truncated)))));
    cut(header).unwrap();
    assert!((0..200).filter_map(TensorType::from_number).all(|kind| kind.block_values > 0 && kind.block_bytes > 0));
}

/// Writes the parts of a model, each with one matrix of its own; `change` changes the entries of a part.
fn parts(directory: &Path, change: impl Fn(u16, &mut Vec<(&str, u32, Vec<u8>)>)) -> Vec<PathBuf> {
    (0..3u16)
        .map(|part| {
            let mut entries = vec![
                ("split.no", 2, part.to_le_bytes().to_vec()),
                ("split.count", 2, vec![3, 0]),
                ("split.tensors.count", 5, vec![3, 0, 0, 0]),
            ];
            change(part, &mut entries);
            let path = directory.join(format!("a-{:05}-of-00003.gguf", part + 1));
            let mut bytes = file(&entries);
            // The matrices have different names.
            let at = bytes.windows(6).position(|window| window == b"matrix").unwrap();
            bytes[at] = b'a' + u8::try_from(part).unwrap();
            std::fs::write(&path, bytes).unwrap();
            path
        })
        .collect()
}

fn header_of(path: &Path) -> Header {
    read(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn parts_find_each_other_and_are_checked() {
    let check = |paths: &[PathBuf]| {
        let headers: Vec<Header> = paths.iter().map(|path| header_of(path)).collect();
        check_parts(&paths.iter().map(PathBuf::as_path).zip(&headers).collect::<Vec<_>>())
    };
    let dir = tempfile::tempdir().unwrap();
    let paths = parts(dir.path(), |_, _| ());
    for path in &paths {
        assert_eq!(part_paths(path, &header_of(path)).unwrap(), paths);
    }
    check(&paths).unwrap();
    assert_eq!(language_models_in(dir.path()).unwrap(), paths[..1]);
    let whole = dir.path().join("b.gguf");
    std::fs::write(&whole, file(&[("general.type", 8, text("model"))])).unwrap();
    assert_eq!(part_paths(&whole, &header_of(&whole)).unwrap(), std::slice::from_ref(&whole));
    for (other, entry) in [("c-mmproj.gguf", ("general.architecture", 8, text("clip"))), ("d.gguf", ("general.type", 8, text("imatrix")))] {
        std::fs::write(dir.path().join(other), file(&[entry])).unwrap();
    }
    std::fs::write(dir.path().join("e-mmproj.gguf"), "damaged").unwrap();
    assert_eq!(language_models_in(dir.path()).unwrap(), [paths[0].clone(), whole]);

    let renamed = dir.path().join("f-00002-of-00003.gguf");
    std::fs::copy(&paths[0], &renamed).unwrap();
    let problem = part_paths(&renamed, &header_of(&renamed)).unwrap_err();
    assert_eq!(problem, FileProblem { path: renamed, problem: GgufProblem::PartNumber { number: 2, of: 3, found: 1, found_of: 3 } });
    let odd = dir.path().join("odd.gguf");
    std::fs::copy(&paths[0], &odd).unwrap();
    assert_eq!(part_paths(&odd, &header_of(&odd)).unwrap_err().problem, GgufProblem::PartName { count: 3 });
    std::fs::remove_file(&paths[2]).unwrap();
    let missing = FileProblem { path: paths[2].clone(), problem: GgufProblem::MissingPart { number: 3, count: 3 } };
    assert_eq!(part_paths(&paths[0], &header_of(&paths[0])).unwrap_err(), missing);

    let unnumbered = parts(dir.path(), |part, entries| entries.retain(|(key, ..)| part != 1 || *key != "split.no"));
    let missing = GgufProblem::MissingKey { key: "split.no".to_owned() };
    assert_eq!(check(&unnumbered).unwrap_err(), FileProblem { path: unnumbered[1].clone(), problem: missing });
    let fewer = parts(dir.path(), |part, entries| entries[2].2[0] = if part == 2 { 4 } else { 3 });
    assert_eq!(check(&fewer).unwrap_err().problem, GgufProblem::PartTensors { expected: 4, found: 3 });
    let paths = parts(dir.path(), |_, _| ());
    std::fs::write(&paths[1], file(&[("split.no", 2, vec![1, 0]), ("split.count", 2, vec![3, 0])])).unwrap();
    std::fs::write(&paths[2], file(&[("split.no", 2, vec![2, 0]), ("split.count", 2, vec![3, 0])])).unwrap();
    let twice = FileProblem { path: paths[2].clone(), problem: GgufProblem::DuplicateTensor { tensor: "matrix".to_owned() } };
    assert_eq!(check(&paths).unwrap_err(), twice);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = file(&[("numbers", 9, list(5, 2, &[1; 8])), ("texts", 9, list(8, 1, &text("one"))), ("u8", 0, vec![1])]);
        let length = bytes.len();
        changes.iter().for_each(|(at, byte)| bytes[at.index(length)] = *byte);
        if let Ok(header) = read(&bytes) {
            header.metadata.values().filter_map(|entry| entry.value.as_list()).for_each(|list| drop(list.values(&bytes).last()));
        }
    }
}
