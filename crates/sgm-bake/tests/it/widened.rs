//! Widened MLPs: the added weights, and checkpoints that cannot be widened.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use sgm_bake::{Amplify, Error, GgufProblem, Options, Record, Result, SiteTensors, bake_with, content_sha256};
use sgm_core::{Intervention, PatchNeuron, Projection, Site};

use crate::weight_files::{F32, Gguf, baked, floats, gguf, glasses, safetensors};

const HIDDEN: usize = 2;
const WIDTH: usize = 3;

fn neuron(values: [f32; 6]) -> PatchNeuron {
    let [a, b, c, d, e, f] = values;
    PatchNeuron { gate: vec![a, b], up: vec![c, d], down: vec![e, f] }
}

/// Two neurons for layer 1, none for layer 0; and a scale for one that was there.
fn patched() -> Intervention {
    let mut patched = glasses([(Site::new(1, Projection::Gate), vec![1.0, 0.5, 1.0]), (Site::new(1, Projection::Down), vec![0.5, 1.0])]);
    patched.insert_patches(1, vec![neuron([10.0, 11.0, 12.0, 13.0, 14.0, 15.0]), neuron([20.0, 21.0, 22.0, 23.0, 24.0, 25.0])]).unwrap();
    patched
}

/// A file of tensors by name and shape, with values 1, 2, 3, ...
fn file(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut at, mut entries, mut data) = (0, Vec::new(), Vec::new());
    for (name, shape) in tensors {
        let n: usize = shape.iter().product();
        entries.push(format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{at},{}]}}"#, at + 4 * n));
        data.extend(floats((1..=n).map(|i| i as f32)));
        at += 4 * n;
    }
    safetensors(&format!(r#"{{"__metadata__":{{"format":"pt","b":"x","a":"y"}},{}}}"#, entries.join(",")), &data)
}

fn values(file: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = SafeTensors::deserialize(file).unwrap();
    let tensor = file.tensor(name).unwrap();
    (tensor.shape().to_vec(), tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
}

/// A language model of two layers in two shards, with gate and up of layer 1 in one matrix, and a vision tower.
fn model(directory: &Path, config: &str) {
    fs::create_dir_all(directory).unwrap();
    let first = file(&[
        ("model.layers.0.mlp.down_proj.weight", &[HIDDEN, WIDTH]),
        ("model.layers.0.mlp.gate_proj.bias", &[WIDTH]),
        ("model.layers.0.mlp.gate_proj.weight", &[WIDTH, HIDDEN]),
        ("model.layers.0.mlp.up_proj.weight", &[WIDTH, HIDDEN]),
        ("visual.blocks.0.mlp.down_proj.weight", &[HIDDEN, WIDTH]),
    ]);
    let second = file(&[
        ("model.embed_tokens.weight", &[5, HIDDEN]),
        ("model.layers.1.mlp.down_proj.bias", &[HIDDEN]),
        ("model.layers.1.mlp.down_proj.weight", &[HIDDEN, WIDTH]),
        ("model.layers.1.mlp.gate_up_proj.weight", &[2 * WIDTH, HIDDEN]),
    ]);
    let map = |bytes: &[u8], file: &str| {
        let names: Vec<String> = SafeTensors::deserialize(bytes).unwrap().names().iter().map(|n| format!(r#""{n}": "{file}""#)).collect();
        names.join(", ")
    };
    let index = format!(
        "{{\"metadata\": {{\"total_size\": 224,\n \"total_parameters\": 56}}, \"weight_map\": {{{}, {}}}}}",
        map(&first, "a.safetensors"),
        map(&second, "b.safetensors")
    );
    for (name, bytes) in [
        ("a.safetensors", first.as_slice()),
        ("b.safetensors", &second),
        ("model.safetensors.index.json", index.as_bytes()),
        ("config.json", config.as_bytes()),
    ] {
        fs::write(directory.join(name), bytes).unwrap();
    }
}

fn bake_model(config: &str, intervention: &Intervention, alignment: u64) -> Result<(tempfile::TempDir, Record)> {
    let dir = tempfile::tempdir().unwrap();
    model(&dir.path().join("model"), config);
    let options = Options { alignment, ..Options::default() };
    bake_with(&dir.path().join("model"), intervention, options, &dir.path().join("out")).map(|record| (dir, record))
}

#[test]
fn every_layer_of_a_directory_gets_as_wide() {
    let config = "{\"vision_config\": {\"intermediate_size\": 3},\n\t\"text_config\": {\"intermediate_size\" : 3, \"eps\": 1e-06}}";
    let (dir, record) = bake_model(config, &patched(), 1).unwrap();
    let read = |file: &str| fs::read(dir.path().join("out").join(file)).unwrap();
    assert_eq!(String::from_utf8(read("config.json")).unwrap(), config.replace("\"intermediate_size\" : 3", "\"intermediate_size\" : 5"));
    let index = String::from_utf8(read("model.safetensors.index.json")).unwrap();
    // Six vectors of two for each layer, and two values of a bias.
    assert!(index.contains("\"total_size\": 328,\n \"total_parameters\": 82}"), "{index}");

    let (a, b) = (read("a.safetensors"), read("b.safetensors"));
    assert_eq!(SafeTensors::read_metadata(&a).unwrap().1.metadata().as_ref().unwrap()["b"], "x");
    assert_eq!(values(&a, "model.layers.0.mlp.down_proj.weight"), (vec![2, 5], vec![1.0, 2.0, 3.0, 0.0, 0.0, 4.0, 5.0, 6.0, 0.0, 0.0]));
    assert_eq!(values(&a, "model.layers.0.mlp.gate_proj.bias"), (vec![5], vec![1.0, 2.0, 3.0, 0.0, 0.0]));
    for projection in ["gate", "up"] {
        let (shape, rows) = values(&a, &format!("model.layers.0.mlp.{projection}_proj.weight"));
        assert_eq!((shape, rows), (vec![5, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0]));
    }
    assert_eq!(values(&a, "visual.blocks.0.mlp.down_proj.weight").1, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(values(&b, "model.embed_tokens.weight").0, [5, 2]);
    // Old rows are scaled, new ones are not.
    assert_eq!(values(&b, "model.layers.1.mlp.down_proj.weight"), (vec![2, 5], vec![0.5, 1.0, 1.5, 14.0, 24.0, 4.0, 5.0, 6.0, 15.0, 25.0]));
    assert_eq!(values(&b, "model.layers.1.mlp.down_proj.bias"), (vec![2], vec![0.5, 2.0]));
    let gate = [1.0, 2.0, 1.5, 2.0, 5.0, 6.0, 10.0, 11.0, 20.0, 21.0];
    let up = [7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 12.0, 13.0, 22.0, 23.0];
    assert_eq!(values(&b, "model.layers.1.mlp.gate_up_proj.weight"), (vec![10, 2], [gate, up].concat()));

    let widened = record.widened.as_ref().unwrap();
    assert_eq!((widened.added, widened.patch_neurons.clone()), (2, BTreeMap::from([(1, 2)])));
    let fused = record.tensors.iter().find(|t| t.tensor.ends_with("gate_up_proj.weight")).unwrap();
    assert_eq!((fused.rows, fused.changed_rows, fused.added_rows, fused.added_relative_error), (6, 1, 4, 0.0));
    assert_eq!(record.tensors.iter().map(|t| t.added_columns).max(), Some(2));
    assert_eq!(record.intervention.added_neurons, 2);
    let mut scaled = patched();
    scaled.insert_patches(1, Vec::new()).unwrap();
    assert_ne!(record.intervention.content_sha256, content_sha256(&scaled));
}

#[test]
fn widths_stay_as_divisible_as_they_were() {
    // A width of 3 stays divisible by 3.
    for (alignment, added) in [(1, 2), (2, 2), (3, 3), (64, 2), (96, 3)] {
        let (dir, record) = bake_model("{\"intermediate_size\":3}", &patched(), alignment).unwrap();
        assert_eq!(record.widened.unwrap().added, added, "{alignment}");
        assert_eq!(fs::read_to_string(dir.path().join("out/config.json")).unwrap(), format!("{{\"intermediate_size\":{}}}", 3 + added));
    }
}

#[test]
fn a_configuration_has_to_fit() {
    let out = |config: &str| match bake_model(config, &patched(), 1) {
        Ok((dir, _)) => fs::read_to_string(dir.path().join("out/config.json")).unwrap(),
        Err(Error::Config { key, reason, .. }) => format!("{key}: {reason}"),
        Err(other) => panic!("{other}"),
    };
    // A width that the file leaves to its default is added.
    assert_eq!(out("{}"), "{\"intermediate_size\": 5}");
    assert_eq!(
        out("{\"text_config\": {\"a\": 1}, \"vision_config\": {}}"),
        "{\"text_config\": {\"intermediate_size\": 5,\"a\": 1}, \"vision_config\": {}}"
    );
    let root = "{\"vision_config\": {\"intermediate_size\": 7}, \"intermediate_size\": 3}";
    assert_eq!(out(root), root.replace("size\": 3", "size\": 5"));
    for (config, word) in [
        ("{\"intermediate_size\": 4}", "it is 4, and the weights have 3"),
        ("{\"intermediate_size\": [3, 3]}", "found [3, 3]"),
        ("{\"intermediate_size\": -3}", "found -3"),
        ("{\"vision_config\": {}}", "language model's part"),
    ] {
        let got = out(config);
        assert!(got.starts_with("intermediate_size: ") && got.contains(word), "{config}: {got}");
    }
    for config in ["[]", "{"] {
        let got = out(config);
        assert!(got.starts_with("(file): no JSON object"), "{config}: {got}");
    }
}

#[test]
fn what_is_no_gated_mlp_gets_no_neurons() {
    let refused = |tensors: &[(&str, &[usize])]| {
        let bytes = file(tensors);
        let read = SiteTensors::read_safetensors(Path::new("test"), bytes.as_slice(), bytes.len() as u64).unwrap();
        let mut wider = Intervention::default();
        wider.insert_patches(0, vec![neuron([1.0; 6])]).unwrap();
        baked(&read, &bytes, &wider).unwrap_err()
    };
    let [gate, up, down] = ["gate", "up", "down"].map(|p| format!("model.layers.0.mlp.{p}_proj.weight"));
    let reason = |error: Error| match error {
        Error::Widen { reason, .. } => reason,
        other => panic!("{other}"),
    };
    let got = reason(refused(&[(&up, &[3, 2]), (&down, &[2, 3])]));
    assert!(got.contains("layer 0 have shapes none, [3, 2] and [2, 3]"), "{got}");
    let got = reason(refused(&[(&gate, &[4, 2]), (&up, &[3, 2]), (&down, &[2, 3])]));
    assert!(got.contains("[4, 2], [3, 2] and [2, 3]"), "{got}");
    assert!(reason(refused(&[(&gate, &[3, 2]), (&up, &[3, 2]), (&down, &[2, 4])])).contains("[2, 4]"));
    assert!(reason(refused(&[(&gate, &[3, 4]), (&up, &[3, 4]), (&down, &[2, 3])])).contains("[3, 4] and [2, 3]"));
    // A layer without patch neurons must have a gated MLP too.
    let other = "model.layers.1.mlp.up_proj.weight";
    assert!(reason(refused(&[(&gate, &[3, 2]), (&up, &[3, 2]), (&down, &[2, 3]), (other, &[3, 2])])).contains("layer 1"));
    let bias = "model.layers.0.mlp.up_proj.bias";
    assert!(matches!(refused(&[(&gate, &[3, 2]), (&up, &[3, 2]), (&down, &[2, 3]), (bias, &[4])]), Error::Shape { .. }));
    let expert = "model.layers.1.mlp.experts.0.up_proj.weight";
    assert!(reason(refused(&[(&gate, &[3, 2]), (&up, &[3, 2]), (&down, &[2, 3]), (expert, &[3, 2])])).contains("mixture of experts"));
}

/// A GGUF file of one layer with the given width, and a tensor after the MLP's.
fn one_layer(width: u64, hidden: u64, kind: u32, bytes: impl Fn(u64) -> Vec<u8>) -> Gguf {
    Gguf::new("llama")
        .with("llama.feed_forward_length", 4, u32::try_from(width).unwrap().to_le_bytes().to_vec())
        .tensor("blk.0.ffn_down.weight", &[width, hidden], kind, bytes(width * hidden))
        .tensor("blk.0.ffn_gate.weight", &[hidden, width], kind, bytes(width * hidden))
        .counting("output_norm.weight", &[3])
        .tensor("blk.0.ffn_up.weight", &[hidden, width], kind, bytes(width * hidden))
}

fn counting(count: u64) -> Vec<u8> {
    floats((0..count).map(|i| i as f32 + 1.0))
}

#[test]
fn a_gguf_file_is_what_it_would_have_been_had_it_been_wider() {
    for version in [2, 3] {
        let mut file = one_layer(3, 2, F32, counting);
        (file.version, file.trailing) = (version, vec![0xCC; 5]);
        let bytes = file.bytes();
        let mut patched = glasses([(Site::new(0, Projection::Down), vec![0.5, 1.0])]);
        patched.insert_patches(0, vec![neuron([10.0, 11.0, 12.0, 13.0, 14.0, 15.0])]).unwrap();
        let (out, records) = baked(&gguf(&bytes).unwrap(), &bytes, &patched).unwrap();
        let mut wanted = one_layer(4, 2, F32, counting);
        wanted.tensors[0].bytes = floats([0.5, 1.0, 1.5, 14.0, 4.0, 5.0, 6.0, 15.0]);
        wanted.tensors[1].bytes = floats([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 10.0, 11.0]);
        wanted.tensors[3].bytes = floats([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 12.0, 13.0]);
        (wanted.version, wanted.trailing) = (version, vec![0xCC; 5]);
        // Padding that moved is zeros.
        let plain = |bytes: Vec<u8>| bytes.into_iter().map(|b| if b == 0xEE { 0 } else { b }).collect::<Vec<_>>();
        assert!(plain(out) == plain(wanted.bytes()), "version {version}");
        assert_eq!(records.iter().map(|r| (r.added_rows, r.added_columns)).collect::<Vec<_>>(), [(0, 1), (1, 0), (1, 0)]);
    }
}

#[test]
fn gate_and_up_in_one_matrix_both_get_rows() {
    let fused = |width: u8, up: Vec<f32>, down: Vec<f32>| {
        Gguf::new("phi3")
            .with("phi3.feed_forward_length", 4, vec![width, 0, 0, 0])
            .tensor("blk.0.ffn_up.weight", &[2, 2 * u64::from(width)], F32, floats(up))
            .tensor("blk.0.ffn_down.weight", &[width.into(), 2], F32, floats(down))
            .bytes()
    };
    let bytes = fused(2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], vec![1.0, 2.0, 3.0, 4.0]);
    let mut wider = Intervention::default();
    wider.insert_patches(0, vec![neuron([10.0, 11.0, 12.0, 13.0, 14.0, 15.0])]).unwrap();
    let (out, _) = baked(&gguf(&bytes).unwrap(), &bytes, &wider).unwrap();
    // The width stays a multiple of 2.
    let up = [1.0, 2.0, 3.0, 4.0, 10.0, 11.0, 0.0, 0.0, 5.0, 6.0, 7.0, 8.0, 12.0, 13.0, 0.0, 0.0];
    assert!(out == fused(4, up.to_vec(), vec![1.0, 2.0, 14.0, 0.0, 3.0, 4.0, 15.0, 0.0]));
    // A matrix of rank 1 in the header cannot get a second row.
    let vectors = Gguf::new("llama")
        .with("llama.feed_forward_length", 4, vec![1, 0, 0, 0])
        .counting("blk.0.ffn_up.weight", &[2])
        .counting("blk.0.ffn_gate.weight", &[2])
        .counting("blk.0.ffn_down.weight", &[1, 2])
        .bytes();
    let error = baked(&gguf(&vectors).unwrap(), &vectors, &wider).unwrap_err();
    assert!(matches!(error, Error::Gguf { problem: GgufProblem::Dimensions { rank: 1, .. }, .. }), "{error}");
}

#[test]
fn widths_in_the_metadata_have_to_fit() {
    let mut wider = Intervention::default();
    wider.insert_patches(0, vec![neuron([1.0; 6])]).unwrap();
    let with = |change: &dyn Fn(&mut Gguf)| {
        let mut file = one_layer(3, 2, F32, counting);
        change(&mut file);
        let bytes = file.bytes();
        gguf(&bytes).and_then(|read| baked(&read, &bytes, &wider)).map(|(out, _)| (bytes, out))
    };
    let key = || "llama.feed_forward_length".to_owned();
    let problem = |change: &dyn Fn(&mut Gguf)| match with(change) {
        Err(Error::Gguf { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    let value = |kind: u32, bytes: &'static [u8]| move |f: &mut Gguf| (f.metadata[1].1, f.metadata[1].2) = (kind, bytes.to_vec());
    assert_eq!(problem(&|f| drop(f.metadata.remove(1))), GgufProblem::MissingKey { key: key() });
    assert_eq!(problem(&|f| drop(f.metadata.remove(0))), GgufProblem::MissingKey { key: "general.architecture".to_owned() });
    assert_eq!(problem(&|f| f.metadata.push(f.metadata[1].clone())), GgufProblem::DuplicateKey { key: key() });
    assert_eq!(problem(&value(6, &[0; 4])), GgufProblem::KeyType { key: key(), expected: "a whole number" });
    assert_eq!(problem(&value(4, &[7, 0, 0, 0])), GgufProblem::Width { key: key(), value: 7, expected: 3 });
    let list = |kind: u8, count: u8, values: &[u8]| [&[kind, 0, 0, 0, count, 0, 0, 0, 0, 0, 0, 0][..], values].concat();
    let mismatch = GgufProblem::KeyType { key: key(), expected: "a list of a whole number for each layer" };
    for values in [list(4, 0, &[]), list(6, 1, &[0; 4]), list(8, 1, &[0; 8])] {
        assert_eq!(problem(&|f| (f.metadata[1].1, f.metadata[1].2) = (9, values.clone())), mismatch);
    }
    // A list with a width for each layer, of which the second is not in the file; other integer types.
    for (kind, old, new) in [
        (9, list(2, 2, &[3, 0, 9, 0]), list(2, 2, &[4, 0, 9, 0])),
        (0, vec![3], vec![4]),
        (5, vec![3, 0, 0, 0], vec![4, 0, 0, 0]),
        (10, vec![3, 0, 0, 0, 0, 0, 0, 0], vec![4, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let (bytes, out) = with(&|f| (f.metadata[1].1, f.metadata[1].2) = (kind, old.clone())).unwrap();
        let at = bytes.windows(key().len()).position(|w| w == key().as_bytes()).unwrap() + key().len() + 4;
        assert_eq!(out[at..at + new.len()], new, "{kind}");
    }
    // 256 does not fit into a byte.
    let mut file = one_layer(255, 2, F32, counting);
    (file.metadata[1].1, file.metadata[1].2) = (0, vec![255]);
    let bytes = file.bytes();
    let error = baked(&gguf(&bytes).unwrap(), &bytes, &wider).unwrap_err();
    assert!(
        matches!(error, Error::Gguf { problem: GgufProblem::KeyType { expected: "of a type that holds the new width", .. }, .. }),
        "{error}"
    );
}

/// Q8_0: old blocks are preserved, new ones are nearly exact, and the width fills whole blocks.
#[cfg(feature = "candle")]
#[test]
fn blocks_are_added_in_the_type_of_the_tensor() {
    let block = |seed: u64| [&[0u8, 0x3c][..], &(0..32).map(|i| u8::try_from((seed + i) % 100).unwrap()).collect::<Vec<_>>()].concat();
    let bytes = one_layer(64, 32, 8, |count| (0..count / 32).flat_map(block).collect()).bytes();
    let mut wider = Intervention::default();
    let wave = |shift: f32| (0..32u8).map(|i| (f32::from(i) + shift).sin()).collect::<Vec<f32>>();
    let neurons = [0.0, 7.0].map(|s| PatchNeuron { gate: wave(s), up: wave(s + 1.0), down: wave(s + 2.0) });
    wider.insert_patches(0, neurons.to_vec()).unwrap();
    let (out, records) = baked(&gguf(&bytes).unwrap(), &bytes, &wider).unwrap();
    let read = gguf(&out).unwrap();
    // The width stays a multiple of 64.
    assert_eq!(read.sites()[&Site::new(0, Projection::Up)], 128);
    for record in &records {
        assert!(record.added_relative_error > 0.0 && record.added_relative_error < 0.01, "{}", record.added_relative_error);
    }
    let decoded = |block: &[u8]| {
        let scale = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        block[2..34].iter().map(|q| scale * f32::from(q.cast_signed())).collect::<Vec<f32>>()
    };
    let close = |a: f32, b: f32| assert!((a - b).abs() < 0.005, "{a} {b}");
    // `down_proj` comes first: rows of four blocks, of which two are new, with one neuron each.
    let data = out.len() - 34 * 32 * 4 - 2 * 34 * 128 - 32;
    for (row, blocks) in out[data..data + 34 * 128].chunks_exact(34 * 4).enumerate() {
        let old = u64::try_from(2 * row).unwrap();
        assert_eq!(blocks[..68], [block(old), block(old + 1)].concat());
        for (neuron, new) in neurons.iter().zip(blocks[68..].chunks_exact(34)) {
            let values = decoded(new);
            close(values[0], neuron.down[row]);
            assert!(values[1..].iter().all(|value| *value == 0.0));
        }
    }
    // `gate_proj` follows; its rows 64 and 96 are the patch neurons.
    let gate = data + 34 * 128;
    for (row, neuron) in [(64, &neurons[0]), (96, &neurons[1])] {
        decoded(&out[gate + 34 * row..]).into_iter().zip(&neuron.gate).for_each(|(a, b)| close(a, *b));
        assert!(out[gate + 34 * (row + 1)..gate + 34 * (row + 2)].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_type_that_nobody_encodes_gets_zeros_only() {
    let mut file = one_layer(32, 32, 20, |count| vec![1; usize::try_from(count / 32 * 18).unwrap()]);
    file.metadata[1].1 = 9;
    file.metadata[1].2 = [4u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), [32u32.to_le_bytes(); 2].concat()].concat();
    for projection in ["gate", "up", "down"] {
        file = file.tensor(&format!("blk.1.ffn_{projection}.weight"), &[32, 32], F32, counting(1024));
    }
    let bytes = file.bytes();
    let mut wider = Intervention::default();
    let neuron = PatchNeuron { gate: vec![1.0; 32], up: vec![1.0; 32], down: vec![1.0; 32] };
    wider.insert_patches(1, vec![neuron.clone()]).unwrap();
    let (out, _) = baked(&gguf(&bytes).unwrap(), &bytes, &wider).unwrap();
    assert_eq!(gguf(&out).unwrap().sites()[&Site::new(0, Projection::Gate)], 64);
    wider.insert_patches(0, vec![neuron]).unwrap();
    let error = baked(&gguf(&bytes).unwrap(), &bytes, &wider).unwrap_err();
    assert!(matches!(&error, Error::Encode { tensor, got, .. } if tensor == "blk.0.ffn_down.weight" && got == "IQ4_NL"), "{error}");
}

#[test]
fn a_weight_too_large_for_its_type_is_an_error() {
    let bytes = one_layer(4, 2, crate::weight_files::F16, |count| vec![0; usize::try_from(2 * count).unwrap()]).bytes();
    let mut wider = Intervention::default();
    wider.insert_patches(0, vec![neuron([1.0, 1.0, 1.0, 1.0, 1.0, 1e6])]).unwrap();
    assert!(
        matches!(baked(&gguf(&bytes).unwrap(), &bytes, &wider), Err(Error::Overflow { tensor, .. }) if tensor == "blk.0.ffn_down.weight")
    );
    assert!(bake_with(Path::new("."), &wider, Options { amplify: Amplify::Refuse, alignment: 0 }, Path::new("out")).is_err());
}
