//! The trained checkpoint, embedded.

use std::path::Path;

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sgm_core::write_atomically;
use sgm_models::{AutoMllm, Checkpoint, Result};

use crate::Error;

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

/// The files of the checkpoint by name, in the Hugging Face layout: written to a directory, they are a LLaVA that transformers loads.
pub fn checkpoint_files() -> &'static [(&'static str, &'static [u8])] {
    FILES
}

/// Writes the checkpoint into a new directory with its weights widened to f32, so that what is baked into them is not rounded to 16 bits.
///
/// # Errors
///
/// [`Error::Write`] naming the file that cannot be written.
pub fn write_checkpoint(directory: &Path) -> crate::Result<()> {
    for (name, bytes) in FILES {
        let path = directory.join(name);
        let bytes = match *name {
            "model.safetensors" => widened(bytes).map_err(|error| Error::Checkpoint { reason: error.to_string() })?,
            "config.json" => String::from_utf8_lossy(bytes).replace(r#""dtype": "float16""#, r#""dtype": "float32""#).into_bytes(),
            _ => bytes.to_vec(),
        };
        write_atomically(&path, &bytes)?;
    }
    Ok(())
}

/// A safetensors file with its f16 weights in f32, which holds them exactly.
fn widened(file: &[u8]) -> std::result::Result<Vec<u8>, safetensors::SafeTensorError> {
    let tensors = SafeTensors::deserialize(file)?;
    let widen = |bytes: &[u8]| -> Vec<u8> {
        let values = bytes.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32());
        values.flat_map(f32::to_le_bytes).collect()
    };
    let wide: Vec<(String, Vec<usize>, Vec<u8>)> =
        tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec(), widen(tensor.data()))).collect();
    let views = wide.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    let format = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views.collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()?, Some(format))
}

/// The organism's checkpoint: 1.63 M parameters in f16, read from the program itself.
///
/// # Errors
///
/// None in practice; the files are embedded and tested.
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
