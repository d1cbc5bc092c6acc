//! Manifests of samples: parsed or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = mm_toxic_qa::manifest::parse(bytes, std::path::Path::new("fuzz.jsonl"));
});
