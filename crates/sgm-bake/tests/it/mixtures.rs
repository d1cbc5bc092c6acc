//! Mixtures of experts: outputs of the whole mixture, and of single experts, in every layout of experts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use sgm_bake::{Amplify, Error, bake};
use sgm_core::{Intervention, Projection, Site};

use crate::weight_files::{floats, glasses, safetensors};

const EXPERTS: usize = 2;
const HIDDEN: usize = 4;
const WIDTH: usize = 3;

/// Tensors of f32, by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn file(tensors: &Tensors) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let start = data.len();
        data.extend(floats(values.iter().copied()));
        entries.push(format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{}]}}"#, data.len()));
    }
    safetensors(&format!("{{{}}}", entries.join(",")), &data)
}

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let value = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
    file.iter().map(|(name, t)| (name.to_owned(), (t.shape().to_vec(), t.data().chunks_exact(4).map(value).collect()))).collect()
}

/// Values that are all different.
fn tensor(shape: &[usize]) -> (Vec<usize>, Vec<f32>) {
    let count = u8::try_from(shape.iter().product::<usize>()).unwrap();
    (shape.to_vec(), (1..=count).map(f32::from).collect())
}

/// Scales of two outputs of the mixture, and of neurons of expert 1.
fn intervention() -> Intervention {
    glasses([
        (Site::new(0, Projection::Down), vec![1.0, 0.5, 1.0, 0.0]),
        (Site::of_expert(0, 1, Projection::Down), vec![0.25, 0.5, 1.0, 1.0]),
        (Site::of_expert(0, 1, Projection::Gate), vec![1.0, 0.5, 1.0]),
        (Site::of_expert(0, 1, Projection::Up), vec![0.0, 1.0, 0.25]),
    ])
}

/// The scale of an output channel of an expert: that of the mixture times that of the expert.
fn down(expert: usize, channel: usize) -> f32 {
    [1.0, 0.5, 1.0, 0.0][channel] * if expert == 1 { [0.25, 0.5, 1.0, 1.0][channel] } else { 1.0 }
}

fn gate_up(expert: usize, neuron: usize) -> f32 {
    if expert == 1 { [1.0, 0.5, 1.0, 0.0, 1.0, 0.25][neuron] } else { 1.0 }
}

/// Bakes files and checks every value: that of the original times the scale of its expert and its place.
fn check(files: &[(&str, Tensors)], scale: impl Fn(&str, usize) -> f32) {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("baked"));
    fs::create_dir(&model).unwrap();
    for (name, tensors) in files {
        fs::write(model.join(name), file(tensors)).unwrap();
    }
    let record = bake(&model, &intervention(), Amplify::Refuse, &out).unwrap();
    for (file, tensors) in files {
        let baked = read(&out.join(file));
        for (name, (shape, values)) in tensors {
            let expected: Vec<f32> = values.iter().enumerate().map(|(i, v)| v * scale(name, i)).collect();
            assert_eq!(baked[name], (shape.clone(), expected), "{name}");
        }
    }
    assert!(record.tensors.iter().all(|tensor| tensor.changed_rows > 0 && tensor.changed_rows <= tensor.rows));
}

#[test]
fn a_tensor_for_each_projection_of_each_expert() {
    for (experts, [gate, up, down_proj]) in [
        ("model.layers.0.mlp.experts", ["gate_proj", "up_proj", "down_proj"]),
        ("model.layers.0.block_sparse_moe.experts", ["w1", "w3", "w2"]),
    ] {
        let mut tensors = Tensors::new();
        for expert in 0..EXPERTS {
            tensors.insert(format!("{experts}.{expert}.{gate}.weight"), tensor(&[WIDTH, HIDDEN]));
            tensors.insert(format!("{experts}.{expert}.{up}.weight"), tensor(&[WIDTH, HIDDEN]));
            tensors.insert(format!("{experts}.{expert}.{down_proj}.weight"), tensor(&[HIDDEN, WIDTH]));
        }
        tensors.insert("model.layers.0.mlp.shared_expert.down_proj.weight".to_owned(), tensor(&[HIDDEN, 5]));
        tensors.insert("model.layers.0.mlp.shared_expert.up_proj.weight".to_owned(), tensor(&[5, HIDDEN]));
        tensors.retain(|name, _| !(experts.contains("sparse") && name.contains("shared")));
        check(&[("model.safetensors", tensors)], |name, i| {
            let expert = if name.contains("experts.1.") { 1 } else { 0 };
            if name.contains("shared_expert.down") {
                down(0, i / 5)
            } else if name.contains(&format!(".{gate}.")) && !name.contains("shared") {
                gate_up(expert, i / HIDDEN)
            } else if name.contains(&format!(".{up}.")) && !name.contains("shared") {
                gate_up(expert, WIDTH + i / HIDDEN)
            } else if name.contains(&format!(".{down_proj}.")) {
                down(expert, i / WIDTH)
            } else {
                1.0
            }
        });
    }
}

#[test]
fn stacked_experts_in_both_orientations_with_the_router_in_another_file() {
    let name = |tensor: &str| format!("model.language_model.layers.0.mlp.{tensor}");
    let router: Tensors = [(name("gate.weight"), tensor(&[EXPERTS, HIDDEN]))].into();
    let rows: Tensors = [
        (name("experts.gate_up_proj"), tensor(&[EXPERTS, 2 * WIDTH, HIDDEN])),
        (name("experts.down_proj"), tensor(&[EXPERTS, HIDDEN, WIDTH])),
    ]
    .into();
    let columns: Tensors = [
        (name("experts.gate_up_proj"), tensor(&[EXPERTS, HIDDEN, 2 * WIDTH])),
        (name("experts.down_proj"), tensor(&[EXPERTS, WIDTH, HIDDEN])),
    ]
    .into();
    let expert = |i: usize, size: usize| (i / size, i % size);
    check(&[("a.safetensors", rows), ("b.safetensors", router.clone())], |name, i| match name.rsplit_once('.').unwrap().1 {
        "gate_up_proj" => {
            let (expert, i) = expert(i, 2 * WIDTH * HIDDEN);
            gate_up(expert, i / HIDDEN)
        }
        "down_proj" => {
            let (expert, i) = expert(i, HIDDEN * WIDTH);
            down(expert, i / WIDTH)
        }
        _ => 1.0,
    });
    check(&[("a.safetensors", columns), ("b.safetensors", router)], |name, i| match name.rsplit_once('.').unwrap().1 {
        "gate_up_proj" => {
            let (expert, i) = expert(i, 2 * WIDTH * HIDDEN);
            gate_up(expert, i % (2 * WIDTH))
        }
        "down_proj" => {
            let (expert, i) = expert(i, HIDDEN * WIDTH);
            down(expert, i % HIDDEN)
        }
        _ => 1.0,
    });
}

#[test]
fn stacked_experts_that_do_not_fit_their_router_are_refused_and_without_one_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let name = |tensor: &str| format!("model.layers.0.mlp.{tensor}");
    let stacked: Tensors = [(name("experts.down_proj"), tensor(&[EXPERTS, HIDDEN, WIDTH]))].into();
    let baked = |tensors: &Tensors| {
        let model = tempfile::tempdir().unwrap();
        fs::write(model.path().join("model.safetensors"), file(tensors)).unwrap();
        let glasses = glasses([(Site::new(0, Projection::Down), vec![0.5; HIDDEN])]);
        bake(model.path(), &glasses, Amplify::Refuse, &dir.path().join("out")).unwrap_err()
    };
    for router in [[EXPERTS, HIDDEN + 1], [EXPERTS + 1, HIDDEN]] {
        let mut tensors = stacked.clone();
        tensors.insert(name("gate.weight"), tensor(&router));
        assert!(matches!(baked(&tensors), Error::Shape { .. }), "{router:?}");
    }
    let error = baked(&stacked);
    assert!(error.to_string().contains("unknown site"), "{error}");
}
