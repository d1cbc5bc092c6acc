//! The trained checkpoint, embedded.

use sgm_models::{AutoMllm, Checkpoint, Result};

/// The files of the checkpoint, in the Hugging Face layout.
const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../assets/checkpoint/config.json")),
    ("generation_config.json", include_bytes!("../assets/checkpoint/generation_config.json")),
    ("model.safetensors", include_bytes!("../assets/checkpoint/model.safetensors")),
    ("processor_config.json", include_bytes!("../assets/checkpoint/processor_config.json")),
    ("tokenizer.json", include_bytes!("../assets/checkpoint/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../assets/checkpoint/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../assets/checkpoint/chat_template.jinja")),
];

/// The checkpoint's files by name, in the Hugging Face layout: written to a directory they are a LLaVA that transformers loads.
pub fn checkpoint_files() -> &'static [(&'static str, &'static [u8])] {
    FILES
}

/// The organism's checkpoint: 1.63 M parameters in f16, read from the program itself.
///
/// # Errors
///
/// Never in practice; the files are those the crate was built with.
pub fn checkpoint() -> Result<Checkpoint> {
    Checkpoint::embedded("organism", FILES)
}

/// The organism: a LLaVA-1.5 with a 64-wide CLIP tower for 56x56 images and a 6-layer, 128-wide decoder.
///
/// # Errors
///
/// As [`checkpoint`].
pub fn load() -> Result<AutoMllm> {
    AutoMllm::load(&checkpoint()?)
}
