//! The architectures of language models that GGUF files may have.

use crate::checkpoint::gguf::header::Gguf;
use crate::error::{Error, Result};

/// The architecture of a language model, as llama.cpp's converter names and stores it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// The value of `general.architecture`.
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    pub(crate) model_type: &'static str,
    /// Whether the rows of queries and keys are stored in llama.cpp's rotation order.
    pub(crate) permuted: bool,
    /// Whether the model is a Gemma: norms are stored with 1 added, each layer has four norms, and most layers use a
    /// sliding window.
    pub(crate) gemma: bool,
}

const ARCHITECTURES: [Architecture; 3] = [
    Architecture { name: "llama", class: "LlamaForCausalLM", model_type: "llama", permuted: true, gemma: false },
    Architecture { name: "qwen2", class: "Qwen2ForCausalLM", model_type: "qwen2", permuted: false, gemma: false },
    Architecture { name: "gemma3", class: "Gemma3ForCausalLM", model_type: "gemma3_text", permuted: false, gemma: true },
];
const NAMES: &[&str] = &["llama", "qwen2", "gemma3"];

impl Architecture {
    pub(crate) fn of(text: &Gguf) -> Result<&'static Self> {
        let metadata = text.metadata();
        let name = metadata.string("general.architecture")?.ok_or_else(|| metadata.error("general.architecture", "expected a string"))?;
        if name == "clip" {
            return Err(text.error("it is a vision tower (mmproj); open the language model's file, beside which it is found"));
        }
        let unsupported = |got: String| Error::Unsupported { what: "GGUF architecture", got, supported: NAMES };
        let architecture = ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| unsupported(name.to_owned()))?;
        if metadata.usize(&format!("{name}.expert_count"))?.unwrap_or(0) > 0 {
            return Err(unsupported(format!("{name} with a mixture of experts")));
        }
        if metadata.usize("split.count")?.unwrap_or(1) > 1 {
            return Err(text.error("it is one part of a model; join the parts with `llama-gguf-split --merge`"));
        }
        Ok(architecture)
    }
}
