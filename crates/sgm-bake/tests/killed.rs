//! A killed bake leaves the original unchanged and no partial result.
//!
//! The killed processes are instances of this test program, which starts itself with the test `worker`; that test does nothing otherwise.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "test code")]

#[path = "it/weight_files.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
mod weight_files;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sgm_bake::{Amplify, bake};
use sgm_core::{Intervention, Projection, Site};
use weight_files::{Gguf, glasses, safetensors};

const KILLS: u32 = 40;
/// Those of them that depend on the number of bytes written.
const WRITING: u32 = 30;
/// Enough rows for kills in the middle of a bake.
const ROWS: usize = 2 << 20;

fn intervention() -> Intervention {
    glasses([(Site::new(0, Projection::Up), [0.5, 1.0].repeat(ROWS / 2))])
}

/// The body of a killed process.
#[test]
fn worker() {
    let Some(model) = std::env::var_os("SGM_BAKE_MODEL").map(PathBuf::from) else { return };
    bake(&model, &intervention(), Amplify::Refuse, Path::new(&std::env::var_os("SGM_BAKE_OUT").unwrap())).unwrap();
}

fn start(model: &Path, out: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "worker"]).env("SGM_BAKE_MODEL", model).env("SGM_BAKE_OUT", out);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The files in a directory, or one file.
fn files(place: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    if !place.is_dir() {
        return place.is_file().then(|| (PathBuf::new(), fs::read(place).unwrap())).into_iter().collect();
    }
    fs::read_dir(place).unwrap().map(|e| e.unwrap()).map(|e| (e.file_name().into(), fs::read(e.path()).unwrap())).collect()
}

/// The number of bytes in all files below a directory; a file that is being renamed counts or not.
fn written(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => written(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Whether something in a directory has its final name.
fn named(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().flatten().any(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
}

/// Kills bakes of a model when they have written some of the bytes of a whole bake, none to all of them in even steps, and others when the
/// first file gets its name.
fn kill(model: &Path) {
    let place = tempfile::tempdir().unwrap();
    let (original, whole) = (files(model), place.path().join("whole"));
    assert!(start(model, &whole).wait().unwrap().success());
    let total: u64 = files(&whole).values().map(|bytes| bytes.len() as u64).sum();
    let expected = files(&whole);
    assert!(!expected.is_empty() && expected != original);
    let (mut absent, mut halfway) = (0, 0);
    for kill in 0..KILLS {
        let directory = place.path().join(format!("kill-{kill}"));
        let out = directory.join("baked");
        fs::create_dir(&directory).unwrap();
        let mut victim = start(model, &out);
        let due =
            |kill| if kill < WRITING { written(&directory) >= total * u64::from(kill) / u64::from(WRITING) } else { named(&directory) };
        while !due(kill) && victim.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert!(files(model) == original, "kill {kill} has changed the original");
        let found = files(&out);
        assert!(found.is_empty() || found.keys().eq(expected.keys()), "kill {kill}: {:?}", found.keys());
        for (name, bytes) in found.iter().filter(|(name, _)| !name.to_string_lossy().ends_with(".json")) {
            assert!(expected[name] == *bytes, "kill {kill}: half of {name:?}");
        }
        // Remaining files have hidden temporary names, except for a record that was renamed before its model.
        let left: Vec<String> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let known = |name: &&String| name.starts_with(".sgm-bake-") || *name == "baked" || *name == "baked.sgm_bake.json";
        assert_eq!(left.iter().filter(known).count(), left.len(), "kill {kill}: {left:?}");
        assert!(
            found.is_empty() || model.is_dir() || left.iter().any(|name| name == "baked.sgm_bake.json"),
            "a baked model without record"
        );
        absent += u32::from(found.is_empty());
        halfway += u32::from(found.is_empty() && !left.is_empty());
        fs::remove_dir_all(&directory).unwrap();
    }
    println!("{KILLS} kills: {absent} before there was a result, {halfway} of them in the middle of writing");
    assert!(halfway >= KILLS / 4, "the kills came too early or too late: {halfway}");
}

#[test]
fn a_killed_bake_of_a_gguf_file_leaves_no_half_result() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.gguf");
    fs::write(&model, Gguf::new("llama").counting("blk.0.ffn_up.weight", &[2, ROWS as u64]).bytes()).unwrap();
    kill(&model);
}

#[test]
fn a_killed_bake_of_a_directory_leaves_no_half_result() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), "{}").unwrap();
    let (tensor, bytes) = ("model.layers.0.mlp.up_proj.weight", 8 * ROWS);
    let header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[{ROWS},2],"data_offsets":[0,{bytes}]}}}}"#);
    fs::write(model.join("model.safetensors"), safetensors(&header, &1f32.to_le_bytes().repeat(2 * ROWS))).unwrap();
    kill(&model);
}
