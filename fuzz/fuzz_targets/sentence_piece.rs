//! SentencePiece models: a tokenizer that encodes and decodes, or refused. Good seeds are the files `tokenizer.model` below
//! crates/sgm-models/tests/golden/sentence_piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_models::{AutoMllm, Checkpoint, Mllm};

const CONFIG: &[u8] = include_bytes!("../../crates/sgm-models/tests/golden/fp8_block/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../crates/sgm-models/tests/golden/fp8_block/model.safetensors");

fuzz_target!(|bytes: &[u8]| {
    sgm_fuzz::with_file("tokenizer.model", bytes, |directory, _| {
        std::fs::write(directory.join("config.json"), CONFIG).unwrap();
        std::fs::write(directory.join("model.safetensors"), WEIGHTS).unwrap();
        let Ok(model) = AutoMllm::load(&Checkpoint::open(directory).unwrap()) else { return };
        if let Ok(ids) = model.processor().token_ids("What is <s>this?\n \u{e9}") {
            let _ = model.processor().decode(&ids);
        }
    });
});
