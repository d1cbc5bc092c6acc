//! GGUF files: opened and loaded, or refused. Good seeds are the `gguf_*` fixtures of crates/sgm-models/tests/golden.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_models::{AutoMllm, Checkpoint};

const START: &[u8] = b"GGUF\x03\0\0\0";

fuzz_target!(|bytes: &[u8]| {
    // The fuzzer need not find the first bytes of the format.
    let bytes = [START, bytes.strip_prefix(START).unwrap_or(bytes)].concat();
    sgm_fuzz::with_file("model.gguf", &bytes, |_, file| {
        if let Ok(checkpoint) = Checkpoint::open(file) {
            let _ = AutoMllm::load(&checkpoint);
        }
    });
});
