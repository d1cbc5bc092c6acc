//! Every golden checkpoint agrees with Hugging Face transformers.

use std::path::{Path, PathBuf};

use sgm::models::Checkpoint;
use sgm::parity::parity;

const TOLERANCE: f64 = 1e-5;

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden")
}

/// The golden directories of some families, by the beginning of their names.
fn directories(families: &[&str]) -> Vec<PathBuf> {
    let all = std::fs::read_dir(goldens()).unwrap().map(|entry| entry.unwrap().path());
    let of_family = |path: &PathBuf| families.iter().any(|f| path.file_name().unwrap().to_str().unwrap().starts_with(f));
    let mut found: Vec<_> = all.filter(of_family).collect();
    found.sort();
    found
}

/// Every golden checkpoint of some families, of which there are `count`, agrees in everything its file records.
fn hold(families: &[&str], count: usize) {
    let directories = directories(families);
    assert_eq!(directories.len(), count, "{directories:?}");
    for directory in directories {
        let gguf = directory.join("model.gguf");
        hold_checkpoint(if gguf.exists() { &gguf } else { &directory }, &directory);
    }
}

/// A checkpoint agrees with everything that the golden file of a directory records.
fn hold_checkpoint(checkpoint: &Path, golden: &Path) {
    let checks = parity(&Checkpoint::open(checkpoint).unwrap(), &golden.join("golden.safetensors")).unwrap();
    // Pixels and what comes with them are equal bit for bit.
    let tolerance = |what: &str| if what.starts_with("processor: ") { 0.0 } else { TOLERANCE };
    let failed: Vec<_> = checks.iter().filter(|c| !c.passes(tolerance(&c.what))).collect();
    assert!(failed.is_empty(), "{}: {failed:#?}", checkpoint.display());
    let all_of_it = ["token ids", "processor: ids and mask", "logits", "activations.mean", "activations.max", "logits, scales worn"];
    let generated = ["logits, scales folded", "generated", "generated, scales worn", "generated, scales folded", "chat template"];
    for what in all_of_it.into_iter().chain(generated) {
        // InstructBLIP and PaliGemma have no chat template.
        let expected = what != "chat template" || golden.join("chat_template.jinja").exists();
        assert!(!expected || checks.iter().any(|c| c.what == what), "{}: `{what}` was not compared", checkpoint.display());
    }
}

#[test]
fn llava() {
    hold(&["llava_mha", "llava_gqa", "llava_llama3", "llava_original", "llava_qwen2"], 5);
}

#[test]
fn idefics3_and_smolvlm() {
    hold(&["idefics3", "smolvlm"], 3);
}

#[test]
fn llava_next() {
    hold(&["llava_next_"], 2);
}

#[test]
fn paligemma() {
    hold(&["paligemma_"], 3);
}

#[test]
fn llava_onevision() {
    hold(&["llava_onevision_"], 1);
}

#[test]
fn internvl() {
    hold(&["internvl_"], 2);
}

#[test]
fn gemma3_vision() {
    hold(&["gemma3_"], 1);
}

#[test]
fn qwen_vl() {
    hold(&["qwen2_vl", "qwen2_5_vl", "qwen3_vl"], 7);
}

#[test]
fn pixtral_and_mistral3() {
    hold(&["pixtral", "mistral3"], 2);
}

#[test]
fn mllama() {
    hold(&["mllama_"], 2);
}

#[test]
fn instructblip() {
    hold(&["instructblip_"], 2);
}

#[test]
fn gguf() {
    hold(&["gguf_"], 4);
}

/// The same checkpoints as gguf-py and llama.cpp's rules write them, one of them in three parts.
#[test]
fn converted_to_gguf() {
    for name in ["text_qwen3", "text_phi3_longrope", "qwen2_vl_hub", "qwen2_5_vl_hub", "smolvlm_hub"] {
        hold_checkpoint(&goldens().with_file_name("gguf").join(name), &goldens().join(name));
    }
}

#[test]
fn mixtures_of_experts() {
    hold(&["moe_"], 3);
}

#[test]
fn weights_in_8_bit_floats() {
    hold(&["fp8_"], 2);
}

#[test]
fn text_only() {
    hold(&["text_"], 9);
}

/// The embedded organism, against goldens made with the training recipe's own script.
///
/// Scaling all its neurons at random leaves a network that amplifies rounding: transformers itself, in f64, is 1.1e-5
/// from these f32 goldens (`tools/organism/rounding.py`). Hence the wider tolerance; nothing else comes near it.
#[test]
fn organism() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-organism/tests/golden/golden.safetensors");
    let checks = parity(&sgm::organism::checkpoint().unwrap(), &golden).unwrap();
    let tolerance = |what: &str| if what.starts_with("logits, scales") { 3e-5 } else { TOLERANCE };
    let failed: Vec<_> = checks.iter().filter(|c| !c.passes(tolerance(&c.what))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(checks.len() >= 20, "only {} checks", checks.len());
}

#[test]
fn what_is_no_golden_file_is_a_typed_error() {
    let checkpoint = sgm::organism::checkpoint().unwrap();
    for path in ["absent.safetensors", "llava_mha/model.safetensors"] {
        let error = parity(&checkpoint, &goldens().join(path)).unwrap_err();
        assert!(matches!(error, sgm::parity::Error::Golden { .. } | sgm::parity::Error::Bake(_)), "{error}");
    }
}
