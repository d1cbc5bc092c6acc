//! Activation stores: the first two bytes split the input into manifest, sidecar and shard; opened, or refused, and verified.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_capture::{ActivationStore, Manifest, StoreWriter, verify};

fuzz_target!(|bytes: &[u8]| {
    let [at, what, rest @ ..] = bytes else { return };
    let (json, shard) = rest.split_at(usize::from(*at).min(rest.len()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    // A valid store gets the fuzzer past the hashes: each bit of `what` selects a file that the bytes replace.
    let site = "lm.layers.0.mlp.up_proj".parse().unwrap();
    let mut writer = StoreWriter::create(&path, Manifest::new("m", "", "max/all", [(site, 2)])).unwrap();
    writer.push("a", true, &[(site, vec![1.0, 2.0])].into()).unwrap();
    writer.finish().unwrap();
    for (bit, name, bytes) in [(1, "manifest.json", json), (2, "shard-00000.json", json), (4, "shard-00000.safetensors", shard)] {
        if what & bit != 0 {
            std::fs::write(path.join(name), bytes).unwrap();
        }
    }
    if what & 8 != 0 {
        std::fs::rename(path.join("manifest.json"), path.join("unfinished.json")).unwrap();
    }
    if let Ok(store) = ActivationStore::open(&path) {
        for site in store.sites().keys() {
            let _ = store.read(*site);
        }
    }
    let _ = verify(&path);
});
