//! Activation stores: the first byte splits the input into manifest, sidecar and shard; opened or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_capture::ActivationStore;

fuzz_target!(|bytes: &[u8]| {
    let Some((at, rest)) = bytes.split_first() else { return };
    let (json, shard) = rest.split_at(usize::from(*at).min(rest.len()));
    let dir = tempfile::tempdir().unwrap();
    let manifest = br#"{"format_version":1,"model":"m","config_sha256":"","pooling":"max/all","created_by":"","sites":{"lm.layers.0.mlp.up_proj":2}}"#;
    // A valid manifest gets the fuzzer to the shards; the bytes themselves are tried as one too.
    for manifest in [&manifest[..], json] {
        std::fs::write(dir.path().join("manifest.json"), manifest).unwrap();
        std::fs::write(dir.path().join("shard-00000.json"), json).unwrap();
        std::fs::write(dir.path().join("shard-00000.safetensors"), shard).unwrap();
        if let Ok(store) = ActivationStore::open(dir.path()) {
            for site in store.sites().keys() {
                let _ = store.read(*site);
            }
        }
    }
});
