//! Vision towers beside language models of every kind that has one: loaded, or refused. Good seeds are the `mmproj.gguf` of
//! crates/sgm-models/tests/gguf.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_models::{AutoMllm, Checkpoint};

const MODELS: [&[u8]; 3] = [
    include_bytes!("../../crates/sgm-models/tests/golden/gguf_llava/model.gguf"),
    include_bytes!("../../crates/sgm-models/tests/gguf/qwen2_5_vl_hub/model.gguf"),
    include_bytes!("../../crates/sgm-models/tests/gguf/smolvlm_hub/model.gguf"),
];

fuzz_target!(|bytes: &[u8]| {
    for model in MODELS {
        sgm_fuzz::with_file("model.gguf", model, |directory, file| {
            let mmproj = directory.join("tower.gguf");
            std::fs::write(&mmproj, bytes).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(file).and_then(|checkpoint| checkpoint.with_mmproj(&mmproj)) {
                let _ = AutoMllm::load(&checkpoint);
            }
        });
    }
});
