//! Imports of captures of the AurA reference implementation, intact and damaged.

use std::path::{Path, PathBuf};

use sgm_capture::{ActivationStore, Error, Import, StoreDtype};
use sgm_core::{Site, TokenSelection};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/aura_capture")
}

fn import() -> Import {
    let name = |s: &str| s.to_owned();
    Import { toxic: name("toxic"), non_toxic: name("non-toxic"), model: name("m"), tokens: TokenSelection::All, dtype: StoreDtype::F32 }
}

/// A copy that may be damaged.
fn copy() -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let to = to.join(path.file_name().unwrap());
            if path.is_dir() {
                copy(&path, &to)
            } else {
                assert!(std::fs::copy(&path, &to).unwrap() > 0);
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    copy(&golden(), dir.path());
    dir
}

#[test]
fn a_capture_of_the_reference_is_read_number_for_number() {
    let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(golden().join("expected.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let imported = import().run(&golden(), &dir.path().join("store")).unwrap();
    assert_eq!((imported.samples, imported.skipped), (6, vec!["model.visual.blocks.0.mlp.gate_proj".to_owned()]));
    let store = ActivationStore::open(dir.path().join("store")).unwrap();
    assert_eq!(store.manifest().poolings, ["mean/all", "max/all"]);
    assert_eq!(store.sites().len(), 3);
    // Toxic samples first, by id.
    let samples = expected["samples"].as_array().unwrap();
    assert_eq!(store.ids(), samples.iter().map(|s| s["id"].as_str().unwrap()).collect::<Vec<_>>());
    assert_eq!(store.labels(), samples.iter().map(|s| s["toxic"].as_bool().unwrap()).collect::<Vec<_>>());
    for pool in ["mean", "max"] {
        let store = store.clone().with_pooling(&format!("{pool}/all")).unwrap();
        for module in expected["modules"].as_array().unwrap() {
            let module = module.as_str().unwrap();
            let read = store.read(Site::from_checkpoint_name(module).unwrap()).unwrap();
            for (row, sample) in samples.iter().enumerate() {
                let values: Vec<f32> = serde_json::from_value(sample[pool][module].clone()).unwrap();
                assert_eq!(read.row(row).to_vec(), values, "{module} {pool} {row}");
            }
        }
    }
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let file = "toxic/model.language_model.layers.1.mlp.up_proj/max/plain-10.pt";
    let bytes = std::fs::read(golden().join(file)).unwrap();
    let fails = |dir: &Path| {
        let store = tempfile::tempdir().unwrap();
        let error = import().run(dir, &store.path().join("store")).unwrap_err();
        assert!(matches!(error, Error::Import { .. } | Error::Io { .. } | Error::Sample { .. } | Error::NotFinite { .. }), "{error}");
        error.to_string()
    };
    let dir = copy();
    std::fs::remove_file(dir.path().join(file)).unwrap();
    assert!(fails(dir.path()).contains("plain-10.pt"));
    for cut in (0..bytes.len()).step_by(41) {
        std::fs::write(dir.path().join(file), &bytes[..cut]).unwrap();
        assert!(fails(dir.path()).contains("plain-10.pt"), "cut at {cut}");
    }
    // A changed byte changes a number or is an error; it never panics.
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for at in (0..bytes.len()).step_by(17) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x15;
        std::fs::write(dir.path().join(file), changed).unwrap();
        let store = tempfile::tempdir().unwrap();
        drop(import().run(dir.path(), &store.path().join("store")));
    }
    std::panic::set_hook(quiet);
    std::fs::write(dir.path().join(file), &bytes).unwrap();
    std::fs::remove_dir_all(dir.path().join("non-toxic/model.language_model.layers.0.mlp.down_proj")).unwrap();
    assert!(fails(dir.path()).contains("lm.layers.0.mlp.down_proj"));
    std::fs::remove_dir_all(dir.path().join("non-toxic")).unwrap();
    assert!(fails(dir.path()).contains("non-toxic"));
    let empty = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(empty.path().join("toxic/elsewhere")).unwrap();
    assert!(fails(empty.path()).contains("toxic"));
}
