//! GGUF files: opened and loaded, or refused. Good seeds are the `gguf_*` fixtures of crates/sgm-models/tests/golden.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_models::{AutoMllm, Checkpoint};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    // The fuzzer need not find out how a file begins.
    std::fs::write(&path, [b"GGUF\x03\0\0\0", bytes.strip_prefix(b"GGUF\x03\0\0\0").unwrap_or(bytes)].concat()).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        let _ = AutoMllm::load(&checkpoint);
    }
});
