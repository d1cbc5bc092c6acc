//! Imports of the reference implementations' files, intact and damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sgm_core::Site;
use sgm_suppress::{Error, Imported, import};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/statedicts")
}

fn expected() -> BTreeMap<String, BTreeMap<String, Vec<f32>>> {
    serde_json::from_slice(&std::fs::read(golden().join("expected.json")).unwrap()).unwrap()
}

const GATE: &str = "model.language_model.layers.1.mlp.gate_proj.statedict";

#[test]
fn scales_of_every_dtype_and_layout_are_read() {
    let tree = import(golden().join("alpha")).unwrap();
    assert_eq!(tree.skipped, [Path::new("more/model.visual.blocks.0.mlp.gate_proj.statedict")]);
    let Imported::Intervention(glasses) = tree.contents else { panic!("no intervention") };
    let mut sites = 0;
    for (file, vectors) in expected().iter().filter(|(file, vectors)| file.starts_with("alpha") && !vectors.is_empty()) {
        let module = Path::new(file).file_stem().unwrap().to_str().unwrap();
        let s = &glasses.sites()[&Site::from_checkpoint_name(module).unwrap()];
        assert_eq!((&s.scale, &s.auroc), (&vectors["alpha"], &vectors.get("auroc").cloned()), "{file}");
        sites += 1;
    }
    assert_eq!((sites, glasses.sites().len()), (5, 5));
    assert_eq!(glasses.metadata.method, Some(serde_json::json!({"name": "imported"})));
}

#[test]
fn aurocs_alone_are_an_expertise() {
    let Imported::Expertise(expertise) = import(golden().join("auroc")).unwrap().contents else { panic!("no expertise") };
    for (file, vectors) in expected().iter().filter(|(file, _)| file.starts_with("auroc")) {
        let module = Path::new(file).file_stem().unwrap().to_str().unwrap();
        assert_eq!(expertise.sites()[&Site::from_checkpoint_name(module).unwrap()].auroc, vectors["auroc"]);
    }
    assert_eq!(expertise.neurons(), 6);
}

fn put(dir: &Path, name: &str, from: &str) {
    std::fs::write(dir.join(name), std::fs::read(golden().join(from)).unwrap()).unwrap();
}

fn fails(dir: &Path) -> String {
    match import(dir) {
        Err(error @ (Error::Import { .. } | Error::Core(_))) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn trees_that_make_no_sense_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert!(fails(dir.path()).contains("no *.statedict"));
    assert!(fails(&dir.path().join("elsewhere")).contains("cannot be listed"));
    std::fs::write(dir.path().join("model.layers.0.mlp.up_proj.pt"), "").unwrap();
    assert!(fails(dir.path()).contains("no *.statedict"));

    // The index of a module's output is not part of the site's name.
    let gate = format!("alpha/more/{GATE}");
    put(dir.path(), "model.layers.0.mlp.up_proj:0.statedict", &gate);
    let Imported::Intervention(glasses) = import(dir.path()).unwrap().contents else { panic!() };
    assert_eq!(glasses.sites().keys().next().unwrap().to_string(), "lm.layers.0.mlp.up_proj");
    // Two files of one site.
    put(dir.path(), "language_model.model.layers.0.mlp.up_proj.statedict", &gate);
    assert!(fails(dir.path()).contains("lm.layers.0.mlp.up_proj is in"));
    std::fs::remove_file(dir.path().join("language_model.model.layers.0.mlp.up_proj.statedict")).unwrap();
    // Scales in one file, AUROCs in another.
    put(dir.path(), "model.layers.1.mlp.up_proj.statedict", "auroc/language_model.model.layers.0.mlp.down_proj.statedict");
    assert!(fails(dir.path()).contains("it has no `alpha`, as other files"));
    // Neither vector.
    std::fs::remove_file(dir.path().join("model.layers.0.mlp.up_proj:0.statedict")).unwrap();
    let bytes = std::fs::read(dir.path().join("model.layers.1.mlp.up_proj.statedict")).unwrap();
    let renamed: Vec<u8> = replace(&bytes, b"auroc", b"aur0c");
    std::fs::write(dir.path().join("model.layers.1.mlp.up_proj.statedict"), renamed).unwrap();
    assert!(fails(dir.path()).contains("no tensor `alpha` or `auroc`"));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + from.len()].copy_from_slice(to);
    bytes
}

#[test]
fn damaged_files_are_errors_whatever_the_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.layers.1.mlp.gate_proj.statedict");
    let bytes = std::fs::read(golden().join("alpha/more").join(GATE)).unwrap();
    // The file is removed first, because some file systems flush an overwritten file.
    let write = |bytes: &[u8]| {
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).unwrap();
    };
    for cut in 0..bytes.len() {
        write(&bytes[..cut]);
        assert!(fails(dir.path()).contains("gate_proj.statedict"), "cut at {cut}");
    }
    // A changed byte changes a number or is an error.
    let (mut read, mut refused) = (0, 0);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            write(&changed);
            match import(dir.path()) {
                Ok(_) => read += 1,
                Err(Error::Import { .. } | Error::Core(_)) => refused += 1,
                Err(other) => panic!("{at}: {other:?}"),
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}

/// A torch file with this pickle and one storage, `data/0`.
fn torch_file(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", storage)] {
        let (offset, size) = (u32::try_from(file.len()).unwrap(), u32::try_from(bytes.len()).unwrap().to_le_bytes());
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        file.extend([&b"PK\x03\x04"[..], &[0; 14], &size, &size, &length, &[0; 2], name.as_bytes(), bytes].concat());
        directory.extend([&b"PK\x01\x02"[..], &[0; 16], &size, &size, &length, &[0; 12], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let sizes = [directory.len(), file.len()].map(|n| u32::try_from(n).unwrap().to_le_bytes());
    [&file[..], &directory, b"PK\x05\x06", &[0; 4], &[2, 0, 2, 0], &sizes[0], &sizes[1], &[0; 2]].concat()
}

/// `{"alpha": tensor}` of one dimension.
fn tensor(size: &[u8], stride: &[u8], dtype: &str) -> Vec<u8> {
    let text = |s: &str| [&b"X"[..], &u32::try_from(s.len()).unwrap().to_le_bytes(), s.as_bytes()].concat();
    let storage = [&b"("[..], &text("storage"), format!("ctorch\n{dtype}\n").as_bytes(), &text("0"), &text("cpu"), b"K\x02tQ"].concat();
    let call = [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &storage, b"K\x00", size, b"\x85", stride, b"\x85\x89)tR"].concat();
    [&b"\x80\x02}"[..], &text("alpha"), &call, b"s."].concat()
}

#[test]
fn hostile_pickles_cost_no_more_than_their_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.layers.0.mlp.up_proj.statedict");
    let write = |pickle: &[u8]| std::fs::write(&path, torch_file(pickle, &[0, 0, 0, 63, 0, 0, 128, 62])).unwrap();
    write(&tensor(b"K\x02", b"K\x01", "FloatStorage"));
    let Imported::Intervention(glasses) = import(dir.path()).unwrap().contents else { panic!() };
    assert_eq!(glasses.sites().values().next().unwrap().scale, [0.5, 0.25]);

    let deep = [&b"\x80\x02)"[..], &vec![0x85; 1 << 20], b"."].concat();
    let doubling = [&b"\x80\x02)"[..], &b"q\x00h\x00\x86".repeat(10_000), b"."].concat();
    let itself = [&b"\x80\x02}q\x00X\x05\x00\x00\x00alphah\x00s."[..]].concat();
    for (what, pickle) in [
        ("nothing", Vec::new()),
        ("no dictionary", b"\x80\x02N.".to_vec()),
        ("a module that runs", b"cos\nsystem\n(X\x04\x00\x00\x00truetR.".to_vec()),
        ("a million nested tuples", deep),
        ("two to the ten thousandth tuples", doubling),
        ("a dictionary within itself", itself),
        ("a long text", b"\x80\x02X\xff\xff\xff\xffa.".to_vec()),
        ("a mark that nobody made", b"\x80\x02t.".to_vec()),
        ("four billion repetitions", tensor(b"\x8a\x05\xff\xff\xff\xff\x00", b"K\x00", "FloatStorage")),
        (
            "a size that overflows",
            tensor(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "FloatStorage"),
        ),
        ("a negative size", tensor(b"J\xff\xff\xff\xff", b"K\x01", "FloatStorage")),
        ("more numbers than there are", tensor(b"K\x03", b"K\x01", "FloatStorage")),
        ("a stride past the end", tensor(b"K\x02", b"K\x02", "FloatStorage")),
        ("whole numbers", tensor(b"K\x01", b"K\x01", "LongStorage")),
        ("an operation for objects", b"\x80\x02N\x81.".to_vec()),
    ] {
        write(&pickle);
        match import(dir.path()) {
            Err(Error::Import { .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}
