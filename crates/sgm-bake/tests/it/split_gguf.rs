//! Models split over several GGUF files: all parts are baked, whichever is named, or none.

use std::fs;
use std::path::{Path, PathBuf};

use sgm_bake::{Amplify, Error, GgufProblem, bake};
use sgm_core::{Intervention, PatchNeuron, Projection, Site};

use crate::weight_files::{F32, Gguf, floats, glasses, string};

const NAMES: [&str; 3] = ["ffn_gate", "ffn_up", "ffn_down"];

fn layer(file: Gguf, layer: usize) -> Gguf {
    NAMES.iter().fold(file, |file, name| file.counting(&format!("blk.{layer}.{name}.weight"), &[4, 4]))
}

fn metadata(architecture: &str) -> Gguf {
    Gguf::new(architecture).with(&format!("{architecture}.feed_forward_length"), 4, vec![4, 0, 0, 0])
}

/// The parts of a model of three layers, the first part without tensors.
fn parts() -> Vec<Gguf> {
    let part = |file: Gguf, number: u16| {
        let file = file.with("split.no", 2, number.to_le_bytes().to_vec()).with("split.count", 2, vec![3, 0]);
        file.with("split.tensors.count", 5, 9i32.to_le_bytes().to_vec())
    };
    let mut empty = Gguf::new("");
    empty.metadata.clear();
    vec![part(metadata("llama"), 0), part(layer(layer(empty.clone(), 0), 1), 1), part(layer(empty, 2), 2)]
}

fn write(directory: &Path, prefix: &str, parts: &[Gguf]) -> Vec<PathBuf> {
    let name = |number: usize| directory.join(format!("{prefix}-{number:05}-of-{:05}.gguf", parts.len()));
    parts.iter().zip(1..).for_each(|(part, number)| fs::write(name(number), part.bytes()).unwrap());
    (1..=parts.len()).map(name).collect()
}

fn half() -> Intervention {
    glasses((0..3).map(|layer| (Site::new(layer, Projection::Up), vec![0.5, 1.0, 0.0, 1.0])))
}

/// The data of a matrix in the bytes of a file.
fn holds(file: &Path, values: &[f32]) -> bool {
    let wanted = floats(values.iter().copied());
    fs::read(file).unwrap().windows(wanted.len()).any(|window| window == wanted)
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const OUTS: [&str; 4] =
    ["out-00001-of-00003.gguf", "out-00001-of-00003.gguf.sgm_bake.json", "out-00002-of-00003.gguf", "out-00003-of-00003.gguf"];
const SCALED: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 4.0, 5.0, 6.0, 7.0, 0.0, 0.0, 0.0, 0.0, 12.0, 13.0, 14.0, 15.0];

#[test]
fn all_parts_are_baked_whichever_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), "model", &parts());
    for (i, path) in paths.iter().enumerate() {
        let place = dir.path().join(format!("place{i}"));
        // The name of the result may be that of one of its parts.
        let record = bake(path, &half(), Amplify::Refuse, &place.join(["out.gguf", "out", "out-00002-of-00002.gguf"][i])).unwrap();
        assert_eq!(files(&place), OUTS);
        assert_eq!(record.files.iter().map(|f| f.file.as_str()).collect::<Vec<_>>(), [OUTS[0], OUTS[2], OUTS[3]]);
        assert_eq!(record.tensors.len(), 3);
        assert_eq!(fs::read(place.join(OUTS[0])).unwrap(), fs::read(&paths[0]).unwrap());
        assert!(holds(&place.join(OUTS[2]), &SCALED) && holds(&place.join(OUTS[3]), &SCALED));
        // Tensors of other projections are unchanged.
        let down: Vec<f32> = (0..16u8).map(f32::from).collect();
        assert!(holds(&place.join(OUTS[3]), &down));
        let again = bake(path, &half(), Amplify::Refuse, &place.join("out.gguf")).unwrap_err();
        assert!(matches!(&again, Error::Exists { path } if *path == place.join(OUTS[0])), "{again}");
        let twice = bake(&place.join(OUTS[3]), &half(), Amplify::Refuse, &place.join("twice.gguf")).unwrap_err();
        assert!(matches!(twice, Error::AlreadyBaked { .. }), "{twice}");
    }
}

#[test]
fn a_directory_of_parts_is_baked_as_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("out"));
    fs::create_dir(&model).unwrap();
    write(&model, "model", &parts());
    fs::write(model.join("mmproj.gguf"), Gguf::new("clip").counting("mm.2.weight", &[2, 2]).bytes()).unwrap();
    let record = bake(&model, &half(), Amplify::Refuse, &out).unwrap();
    assert!(holds(&out.join("model-00002-of-00003.gguf"), &SCALED) && holds(&out.join("model-00003-of-00003.gguf"), &SCALED));
    assert_eq!(fs::read(out.join("mmproj.gguf")).unwrap(), fs::read(model.join("mmproj.gguf")).unwrap());
    assert_eq!((record.files.len(), record.unbaked_weights), (4, Vec::new()));
    // Of several models one must be named.
    fs::write(model.join("other.gguf"), layer(metadata("llama"), 0).bytes()).unwrap();
    let error = bake(&model, &half(), Amplify::Refuse, &dir.path().join("again")).unwrap_err();
    assert!(matches!(error, Error::NoWeights { .. }), "{error}");
}

#[test]
fn added_neurons_widen_the_tensors_of_every_part_and_the_metadata_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), "model", &parts());
    let mut wider = Intervention::default();
    let weights = || vec![0.5; 4];
    wider.insert_patches(2, vec![PatchNeuron { gate: weights(), up: weights(), down: weights() }]).unwrap();
    let record = bake(&paths[1], &wider, Amplify::Refuse, &dir.path().join("out.gguf")).unwrap();
    assert_eq!(record.widened.unwrap().added, 4);
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    let first = sgm_core::gguf::Header::read(read(OUTS[0]).as_slice(), read(OUTS[0]).len() as u64).unwrap();
    assert_eq!(first.get("llama.feed_forward_length").and_then(sgm_core::gguf::Value::as_u64), Some(8));
    for (part, tensors) in [(OUTS[2], 6), (OUTS[3], 3)] {
        let header = sgm_core::gguf::Header::read(read(part).as_slice(), read(part).len() as u64).unwrap();
        assert_eq!(header.tensors.len(), tensors);
        assert!(header.tensors.iter().all(|t| t.shape() == if t.name.contains("down") { [8, 4] } else { [4, 8] }));
    }
}

#[test]
fn gate_and_up_in_one_matrix_are_known_by_the_architecture_in_another_part() {
    let dir = tempfile::tempdir().unwrap();
    let mut parts = parts();
    parts[0].metadata[0] = ("general.architecture".to_owned(), 8, string("phi3"));
    for part in &mut parts[1..] {
        part.tensors.retain(|t| !t.name.contains("gate"));
        for t in part.tensors.iter_mut().filter(|t| t.name.contains("up")) {
            (t.dimensions, t.kind, t.bytes) = (vec![4, 8], F32, floats((0..32u8).map(f32::from)));
        }
    }
    parts.iter_mut().for_each(|part| part.metadata.iter_mut().filter(|m| m.0 == "split.tensors.count").for_each(|m| m.2[0] = 6));
    let paths = write(dir.path(), "model", &parts);
    let record = bake(&paths[0], &half(), Amplify::Refuse, &dir.path().join("out.gguf")).unwrap();
    assert_eq!((record.tensors.len(), record.tensors[0].rows, record.tensors[0].changed_rows), (3, 8, 2));
    let expected = [0.0, 1.0, 2.0, 3.0].into_iter().chain((4..16u8).map(f32::from)).chain([8.0, 8.5, 9.0, 9.5]).collect::<Vec<_>>();
    assert!(holds(&dir.path().join(OUTS[3]), &expected));
}

#[test]
fn a_model_with_parts_missing_or_amiss_is_refused_and_nothing_is_written() {
    let refused = |change: &dyn Fn(&mut Vec<Gguf>), remove: Option<usize>| {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = parts();
        change(&mut parts);
        let paths = write(dir.path(), "model", &parts);
        remove.into_iter().for_each(|part| fs::remove_file(&paths[part]).unwrap());
        let out = dir.path().join("new");
        let error = bake(&paths[1], &half(), Amplify::Refuse, &out.join("out.gguf")).unwrap_err();
        assert!(!out.exists(), "{error}");
        match error {
            Error::Gguf { path, problem } => (path.file_name().unwrap().to_str().unwrap().to_owned(), problem),
            other => panic!("{other}"),
        }
    };
    let missing = |number| GgufProblem::MissingPart { number, count: 3 };
    assert_eq!(refused(&|_| (), Some(0)), ("model-00001-of-00003.gguf".to_owned(), missing(1)));
    assert_eq!(refused(&|_| (), Some(2)), ("model-00003-of-00003.gguf".to_owned(), missing(3)));
    let (file, problem) = refused(&|parts| parts[2] = layer(parts[2].clone(), 0), None);
    assert_eq!(
        (file.as_str(), problem),
        ("model-00003-of-00003.gguf", GgufProblem::DuplicateTensor { tensor: "blk.0.ffn_gate.weight".to_owned() })
    );
    let (_, problem) = refused(&|parts| drop(parts[2].tensors.pop()), None);
    assert_eq!(problem, GgufProblem::PartTensors { expected: 9, found: 8 });
}

#[test]
fn what_stands_in_the_way_of_a_later_part_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write(dir.path(), "model", &parts());
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    fs::write(place.join(OUTS[3]), "mine").unwrap();
    let error = bake(&paths[0], &half(), Amplify::Refuse, &place.join("out.gguf")).unwrap_err();
    assert!(matches!(&error, Error::Exists { path } if *path == place.join(OUTS[3])), "{error}");
    assert_eq!(files(&place), [OUTS[3]]);
}
