//! Model directories: baked files, copied files, and errors.

use std::fs;
use std::path::{Path, PathBuf};

use sgm_bake::{Amplify, Error, Record, Result, bake};
use sgm_core::{Intervention, Projection, Site};

use crate::weight_files::{floats, glasses, safetensors};

/// A sharded checkpoint of two layers with a tokenizer, an image in a folder, and weights in another format.
struct Model {
    dir: tempfile::TempDir,
}

fn shard(layer: usize) -> Vec<u8> {
    shard_of("model.language_model", layer)
}

fn shard_of(model: &str, layer: usize) -> Vec<u8> {
    let tensor = format!("{model}.layers.{layer}.mlp.down_proj.weight");
    // Spaces at the end of a header are allowed and must be preserved.
    let header = format!(r#"{{"__metadata__":{{"format":"pt"}},"{tensor}":{{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}}}   "#);
    safetensors(&header, &floats([1.0, 2.0, 3.0, 4.0]))
}

impl Model {
    fn new() -> Self {
        let model = Self { dir: tempfile::tempdir().unwrap() };
        for file in ["assets", ".git"] {
            fs::create_dir_all(model.path(file)).unwrap();
        }
        for (file, bytes) in [
            ("config.json", b"{}".to_vec()),
            ("assets/cat.png", vec![1, 2, 3]),
            (".git/HEAD", b"ref".to_vec()),
            (".gitattributes", b"*".to_vec()),
            ("pytorch_model.bin", vec![0; 9]),
            (
                "consolidated.safetensors",
                safetensors(r#"{"layers.0.feed_forward.mask":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}}"#, &[7]),
            ),
            ("model-00001-of-00002.safetensors", shard(0)),
            ("model-00002-of-00002.safetensors", shard(1)),
        ] {
            fs::write(model.path(file), bytes).unwrap();
        }
        model.index(&[(0, "model-00001-of-00002.safetensors"), (1, "model-00002-of-00002.safetensors")]);
        model
    }

    fn index(&self, layers: &[(usize, &str)]) {
        let map = layers.iter().map(|(layer, file)| format!(r#""model.language_model.layers.{layer}.mlp.down_proj.weight":"{file}""#));
        let json = format!(r#"{{"weight_map":{{{}}}}}"#, map.collect::<Vec<_>>().join(","));
        fs::write(self.path("model.safetensors.index.json"), json).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join("model").join(file)
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("new/baked")
    }

    fn bake(&self, intervention: &Intervention) -> Result<Record> {
        bake(&self.path(""), intervention, Amplify::Refuse, &self.out())
    }
}

fn second_layer() -> Intervention {
    glasses([(Site::new(1, Projection::Down), vec![0.5, 1.0])])
}

fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).iter().map(|file| format!("{name}/{file}")));
        } else {
            found.push(name);
        }
    }
    found.sort();
    found
}

#[test]
fn shards_are_patched_and_the_rest_is_copied() {
    let model = Model::new();
    let before: Vec<Vec<u8>> = files(&model.path("")).iter().map(|file| fs::read(model.path(file)).unwrap()).collect();
    let record = model.bake(&second_layer()).unwrap();
    let out = model.out();
    let expected = [
        ".gitattributes",
        "assets/cat.png",
        "config.json",
        "consolidated.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "sgm_bake.json",
    ];
    assert_eq!(files(&out), expected);
    for file in expected.iter().filter(|file| !["sgm_bake.json", "model-00002-of-00002.safetensors"].contains(file)) {
        assert_eq!(fs::read(out.join(file)).unwrap(), fs::read(model.path(file)).unwrap(), "{file}");
    }
    let header = shard(1).len() - 16;
    let wanted = [&shard(1)[..header], &floats([0.5, 1.0, 3.0, 4.0])].concat();
    assert_eq!(fs::read(out.join("model-00002-of-00002.safetensors")).unwrap(), wanted);
    let after: Vec<Vec<u8>> = files(&model.path("")).iter().map(|file| fs::read(model.path(file)).unwrap()).collect();
    assert_eq!(before, after);

    assert_eq!(record.unbaked_weights, ["consolidated.safetensors", "pytorch_model.bin"]);
    let touched: Vec<&str> = record.files.iter().filter(|f| f.sha256_original != f.sha256_baked).map(|f| f.file.as_str()).collect();
    assert_eq!(touched, ["model-00002-of-00002.safetensors"]);
    assert_eq!(record.tensors.len(), 1);
    assert_eq!(record.tensors[0].sites, ["lm.layers.1.mlp.down_proj"]);
    let json: serde_json::Value = serde_json::from_slice(&fs::read(out.join("sgm_bake.json")).unwrap()).unwrap();
    assert_eq!(json, serde_json::to_value(&record).unwrap());
    assert_eq!(json["intervention"]["changed_neurons"], 1);
    // sha256sum of the three bytes 1, 2, 3.
    let image = record.files.iter().find(|f| f.file == "assets/cat.png").unwrap();
    assert_eq!(image.sha256_original, "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81");
}

#[test]
fn nothing_is_written_over_or_left_behind() {
    let model = Model::new();
    let unknown = model.bake(&glasses([(Site::new(2, Projection::Down), vec![0.5, 1.0])])).unwrap_err().to_string();
    assert!(
        unknown.contains("did you mean `lm.layers.0.mlp.down_proj`") || unknown.contains("did you mean `lm.layers.1.mlp.down_proj`"),
        "{unknown}"
    );
    assert!(!model.out().exists());
    model.bake(&second_layer()).unwrap();
    assert_eq!(files(&model.dir.path().join("new")).iter().filter(|file| !file.starts_with("baked/")).count(), 0);
    let again = model.bake(&second_layer()).unwrap_err();
    assert!(matches!(again, Error::Exists { .. }), "{again}");
    let twice = bake(&model.out(), &second_layer(), Amplify::Refuse, &model.dir.path().join("twice")).unwrap_err();
    assert!(matches!(twice, Error::AlreadyBaked { .. }), "{twice}");
    let inside = bake(&model.path(""), &second_layer(), Amplify::Refuse, &model.path("baked")).unwrap_err();
    assert!(matches!(inside, Error::Inside { .. }), "{inside}");
    assert!(!model.path("baked").exists());
}

#[test]
fn what_fails_halfway_leaves_nothing() {
    let model = Model::new();
    // The second shard overflows after the first is written.
    let strong = glasses([(Site::new(1, Projection::Down), vec![3e38, 1.0])]);
    let error = bake(&model.path(""), &strong, Amplify::Allow, &model.out()).unwrap_err();
    assert!(matches!(error, Error::Overflow { .. }), "{error}");
    assert_eq!(fs::read_dir(model.out().parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn an_index_has_to_fit_its_files() {
    let model = Model::new();
    for (layers, word) in [
        (&[(0, "model-00003.safetensors")][..], "is missing"),
        (&[(0, "../model/model-00001-of-00002.safetensors")], "is missing"),
        (&[(0, "model-00002-of-00002.safetensors")], "has no tensor"),
    ] {
        model.index(layers);
        let error = model.bake(&second_layer()).unwrap_err();
        assert!(matches!(error, Error::Index { .. }) && error.to_string().contains(word), "{error}");
    }
    fs::write(model.path("model.safetensors.index.json"), "[]").unwrap();
    assert!(matches!(model.bake(&second_layer()), Err(Error::Index { .. })));
}

#[test]
fn directories_without_usable_weights_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(dir.path().join("model")).unwrap();
    let error = bake(&dir.path().join("model"), &second_layer(), Amplify::Refuse, &out).unwrap_err();
    assert!(matches!(error, Error::NoWeights { .. }), "{error}");
    let model = Model::new();
    fs::write(model.path("model-00002-of-00002.safetensors"), &shard(1)[..20]).unwrap();
    let error = model.bake(&second_layer()).unwrap_err();
    assert!(matches!(error, Error::Safetensors { .. }), "{error}");
}

#[test]
fn two_language_models_in_one_checkpoint_are_ambiguous() {
    let model = Model::new();
    fs::write(model.path("other.safetensors"), shard_of("model.text_model", 1)).unwrap();
    let error = model.bake(&second_layer()).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
    // A module in two files is the same weights: both are baked.
    fs::write(model.path("other.safetensors"), shard(1)).unwrap();
    assert_eq!(model.bake(&second_layer()).unwrap().tensors.len(), 2);
}

#[cfg(unix)]
#[test]
fn links_to_files_are_followed_and_others_refused() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let model = Model::new();
    let blob = model.dir.path().join("blob");
    fs::rename(model.path("config.json"), &blob).unwrap();
    symlink(&blob, model.path("config.json")).unwrap();
    model.bake(&second_layer()).unwrap();
    let copy = model.out().join("config.json");
    assert!(fs::symlink_metadata(&copy).unwrap().is_file() && fs::read(copy).unwrap() == b"{}");
    let plain = model.dir.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&model.out()), mode(&plain));
    symlink(model.dir.path(), model.path("loop")).unwrap();
    let error = bake(&model.path(""), &second_layer(), Amplify::Refuse, &model.dir.path().join("other")).unwrap_err();
    assert!(matches!(error, Error::NotAFile { .. }), "{error}");
    let dangling = model.dir.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    assert!(matches!(bake(&model.path(""), &second_layer(), Amplify::Refuse, &dangling), Err(Error::Exists { .. })));
}

#[test]
fn quantised_checkpoints_are_refused_by_name() {
    let glasses = glasses([(Site::new(0, Projection::Down), vec![0.5, 0.5])]);
    for (config, name) in [
        (r#"{"quantization_config":{"quant_method":"bitsandbytes","load_in_8bit":true}}"#, "bitsandbytes (8 bits)"),
        (r#"{"text_config":{"quantization_config":{"quant_method":"awq","bits":4}}}"#, "awq, 4 bits"),
        (r#"{"quantization":{"bits":4,"group_size":64}}"#, "MLX, 4 bits"),
        (r#"{"quantization_config":{"quant_method":"fp8"}}"#, "8-bit floats"),
    ] {
        let model = Model::new();
        fs::write(model.path("config.json"), config).unwrap();
        let text = model.bake(&glasses).unwrap_err().to_string();
        assert!(text.contains(name) && text.contains("model.dequantize()"), "{text}");
        assert!(!model.out().exists());
    }
}
