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
    /// Whether 1 was added to the norms, as for every Gemma.
    pub(crate) norms_plus_one: bool,
    /// Whether each layer has norms before and after attention and MLP.
    pub(crate) output_norms: bool,
    /// Whether queries, keys and values have a bias, and the output of attention has none.
    pub(crate) qkv_bias: bool,
}

const PLAIN: Architecture = Architecture {
    name: "llama",
    class: "LlamaForCausalLM",
    model_type: "llama",
    permuted: false,
    norms_plus_one: false,
    output_norms: false,
    qkv_bias: false,
};

const ARCHITECTURES: [Architecture; 9] = [
    // Mistral, too, is converted to it.
    Architecture { permuted: true, ..PLAIN },
    Architecture { name: "mistral3", class: "MistralForCausalLM", model_type: "mistral", permuted: true, ..PLAIN },
    Architecture { name: "qwen2", class: "Qwen2ForCausalLM", model_type: "qwen2", qkv_bias: true, ..PLAIN },
    // The class is that of the language model alone, for which the three axes of positions are one.
    Architecture { name: "qwen2vl", class: "Qwen2ForCausalLM", model_type: "qwen2", qkv_bias: true, ..PLAIN },
    Architecture { name: "qwen3", class: "Qwen3ForCausalLM", model_type: "qwen3", ..PLAIN },
    Architecture { name: "phi3", class: "Phi3ForCausalLM", model_type: "phi3", ..PLAIN },
    Architecture { name: "gemma", class: "GemmaForCausalLM", model_type: "gemma", norms_plus_one: true, ..PLAIN },
    Architecture { name: "gemma2", class: "Gemma2ForCausalLM", model_type: "gemma2", norms_plus_one: true, output_norms: true, ..PLAIN },
    Architecture {
        name: "gemma3",
        class: "Gemma3ForCausalLM",
        model_type: "gemma3_text",
        norms_plus_one: true,
        output_norms: true,
        ..PLAIN
    },
];
const NAMES: &[&str] = &["llama", "mistral3", "qwen2", "qwen2vl", "qwen3", "phi3", "gemma", "gemma2", "gemma3"];

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
        // Ministral 3 scales queries with the position.
        if metadata.f64(&format!("{name}.attention.temperature_scale"))?.unwrap_or(0.0) != 0.0 {
            return Err(unsupported(format!("{name} with attention temperatures")));
        }
        Ok(architecture)
    }

    /// Whether this is the language model of Qwen2-VL or Qwen2.5-VL.
    pub(crate) fn is_qwen2_vl(&self) -> bool {
        self.name == "qwen2vl"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_list_all_architectures() {
        assert_eq!(ARCHITECTURES.map(|architecture| architecture.name), NAMES);
    }
}
