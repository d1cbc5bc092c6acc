//! The tensors of GGUF files under their Hugging Face names and in Hugging Face's order of rows.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use crate::checkpoint::gguf::architecture::Architecture;
use crate::checkpoint::gguf::header::{Gguf, StoredTensor};
use crate::checkpoint::mapped_safetensors::of_shape;
use crate::error::Result;
use crate::layers::linear::{StoredWeight, StoredWeights};

/// The tensors of a language model and, if present, of its vision tower.
#[derive(Debug, Clone)]
pub(crate) struct GgufWeights {
    text: Arc<Gguf>,
    mmproj: Option<Arc<Gguf>>,
    architecture: &'static Architecture,
    heads: usize,
    kv_heads: usize,
    /// Whether the vision tower's `ffn_down` is its first layer, as named by the converter of LLaVA-1.5.
    ffn_swapped: bool,
}

/// The change that llama.cpp's converter made to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversion {
    None,
    /// The two halves of each head were interleaved.
    Interleaved {
        heads: usize,
    },
    PlusOne,
}

/// Names of a language model's modules in Hugging Face checkpoints and in GGUF files.
const MODULES: [(&str, &str); 10] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Names of the norm between attention and MLP, and of Gemma's norms around both.
const NORM: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];
const GEMMA_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const VISION: &str = "vision_tower.vision_model.";
const PROJECTOR: &str = "multi_modal_projector.";

/// Names of a vision tower's tensors outside its layers, and of the modules of its layers.
const VISION_TENSORS: [(&str, &str); 8] = [
    ("embeddings.class_embedding", "v.class_embd"),
    ("embeddings.patch_embedding.weight", "v.patch_embd.weight"),
    ("embeddings.patch_embedding.bias", "v.patch_embd.bias"),
    ("embeddings.position_embedding.weight", "v.position_embd.weight"),
    ("pre_layrnorm.weight", "v.pre_ln.weight"),
    ("pre_layrnorm.bias", "v.pre_ln.bias"),
    ("post_layernorm.weight", "v.post_ln.weight"),
    ("post_layernorm.bias", "v.post_ln.bias"),
];
const VISION_MODULES: [(&str, &str); 8] = [
    ("layer_norm1", "ln1"),
    ("layer_norm2", "ln2"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.out_proj", "attn_out"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];

fn look_up(names: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    names.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}

impl GgufWeights {
    pub(crate) fn new(text: Arc<Gguf>, mmproj: Option<Arc<Gguf>>) -> Result<Self> {
        let architecture = Architecture::of(&text)?;
        let count = |key: &str| text.metadata().usize(&format!("{}.attention.{key}", architecture.name));
        let heads = count("head_count")?.unwrap_or(0);
        let kv_heads = count("head_count_kv")?.unwrap_or(heads);
        let width = mmproj.as_ref().map_or(Ok(None), |m| m.metadata().usize("clip.vision.embedding_length"))?;
        let down = mmproj.as_ref().and_then(|m| m.tensor("v.blk.0.ffn_down.weight")?.shape.last().copied());
        Ok(Self { ffn_swapped: down.is_some() && down == width, text, mmproj, architecture, heads, kv_heads })
    }

    /// The number of bytes that all tensors of fewer than 32 bits take in f32.
    pub(crate) fn widened_bytes(&self) -> usize {
        self.text.widened_bytes()
    }

    /// Finds the tensor of a Hugging Face name, with its file and the change to undo.
    fn find(&self, name: &str) -> Option<(&Gguf, &StoredTensor, Conversion)> {
        let vision = |name: String| {
            let mmproj = self.mmproj.as_deref()?;
            Some((mmproj, mmproj.tensor(&name)?, Conversion::None))
        };
        if let Some(rest) = name.strip_prefix(VISION) {
            return vision(self.vision_name(rest)?);
        }
        if let Some((module, leaf)) = name.strip_prefix(PROJECTOR).and_then(|rest| rest.split_once('.')) {
            return vision(format!("mm.{}.{leaf}", look_up(&[("linear_1", "0"), ("linear_2", "2")], module)?));
        }
        let (name, conversion) = self.text_name(name)?;
        Some((&*self.text, self.text.tensor(&name)?, conversion))
    }

    fn text_name(&self, name: &str) -> Option<(String, Conversion)> {
        let norm = if self.architecture.gemma { Conversion::PlusOne } else { Conversion::None };
        let plain = |name: &str, conversion| Some((name.to_owned(), conversion));
        match name {
            "model.embed_tokens.weight" => return plain("token_embd.weight", Conversion::None),
            "lm_head.weight" => return plain("output.weight", Conversion::None),
            "model.norm.weight" => return plain("output_norm.weight", norm),
            _ => {}
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, leaf) = rest.rsplit_once('.')?;
        let norms = if self.architecture.gemma { &GEMMA_NORMS[..] } else { &NORM };
        let ours = look_up(&MODULES, module).or_else(|| look_up(norms, module))?;
        let conversion = match ours {
            "attn_q" if self.architecture.permuted => Conversion::Interleaved { heads: self.heads },
            "attn_k" if self.architecture.permuted => Conversion::Interleaved { heads: self.kv_heads },
            _ if ours.ends_with("norm") => norm,
            _ => Conversion::None,
        };
        Some((format!("blk.{layer}.{ours}.{leaf}"), conversion))
    }

    fn vision_name(&self, name: &str) -> Option<String> {
        if let Some(ours) = look_up(&VISION_TENSORS, name) {
            return Some(ours.to_owned());
        }
        let (layer, rest) = name.strip_prefix("encoder.layers.")?.split_once('.')?;
        let (module, leaf) = rest.rsplit_once('.')?;
        let ours = match look_up(&VISION_MODULES, module)? {
            "ffn_up" if self.ffn_swapped => "ffn_down",
            "ffn_down" if self.ffn_swapped => "ffn_up",
            ours => ours,
        };
        Some(format!("v.blk.{layer}.{ours}.{leaf}"))
    }

    fn load(&self, name: &str, device: &Device) -> CandleResult<Tensor> {
        let missing = || candle_core::Error::CannotFindTensor { path: name.to_owned() }.bt();
        let (file, stored, conversion) = self.find(name).ok_or_else(missing)?;
        match conversion {
            Conversion::None => dense(file, stored, device),
            Conversion::Interleaved { heads } => {
                file.with_bytes(stored, |bytes| tensor(deinterleaved(bytes, stored.rows(), heads)?.as_slice(), stored, device))
            }
            Conversion::PlusOne => dense(file, stored, device)?.to_dtype(DType::F32)? - 1.0,
        }
    }
}

/// Loads a tensor in the file's order of rows, dequantised to f32 if it is quantised.
pub(crate) fn dense(file: &Gguf, stored: &StoredTensor, device: &Device) -> CandleResult<Tensor> {
    file.with_bytes(stored, |bytes| tensor(bytes, stored, device))
}

fn tensor(bytes: &[u8], stored: &StoredTensor, device: &Device) -> CandleResult<Tensor> {
    let dtype = match stored.dtype {
        GgmlDType::F32 => DType::F32,
        GgmlDType::F16 => DType::F16,
        GgmlDType::BF16 => DType::BF16,
        _ => return quantized(bytes, stored, &Device::Cpu)?.dequantize(device),
    };
    Tensor::from_raw_buffer(bytes, dtype, &stored.shape, device)
}

fn quantized(bytes: &[u8], stored: &StoredTensor, device: &Device) -> CandleResult<QTensor> {
    QTensor::new(QStorage::from_data(bytes.into(), device, stored.dtype)?, stored.shape.clone())
}

/// Bytes at an address that is aligned for every tensor type.
struct Aligned {
    buffer: Vec<u8>,
    start: usize,
}

const ALIGNMENT: usize = 16;

impl Aligned {
    fn as_slice(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }
}

/// Reorders the rows of a matrix, or the values of a bias, to the order of Hugging Face: for each head first the even
/// rows, then the odd ones. Blocks lie within rows, so nothing is requantised.
fn deinterleaved(bytes: &[u8], rows: usize, heads: usize) -> CandleResult<Aligned> {
    if rows == 0 || heads == 0 || !rows.is_multiple_of(2 * heads) || !bytes.len().is_multiple_of(rows) {
        candle_core::bail!("{rows} rows of queries or keys cannot be those of {heads} heads");
    }
    let row = bytes.len() / rows;
    let mut buffer: Vec<u8> = Vec::with_capacity(bytes.len() + ALIGNMENT);
    let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    buffer.resize(start, 0);
    for head in bytes.chunks(bytes.len() / heads) {
        for parity in [0, 1] {
            for row in head.chunks(row).skip(parity).step_by(2) {
                buffer.extend_from_slice(row);
            }
        }
    }
    Ok(Aligned { buffer, start })
}

impl SimpleBackend for GgufWeights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        of_shape(self.get_unchecked(name, dtype, device)?, shape, name)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.load(name, device)?.to_dtype(dtype)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

impl StoredWeights for GgufWeights {
    fn matrix(&self, name: &str, device: &Device) -> CandleResult<Option<StoredWeight>> {
        let Some((file, stored, conversion)) = self.find(name) else { return Ok(None) };
        match stored.dtype {
            GgmlDType::F16 | GgmlDType::BF16 => return Ok(Some(StoredWeight::Half(self.load(name, device)?))),
            GgmlDType::F32 => return Ok(None),
            _ => {}
        }
        let tensor = file.with_bytes(stored, |bytes| match conversion {
            Conversion::Interleaved { heads } => quantized(deinterleaved(bytes, stored.rows(), heads)?.as_slice(), stored, device),
            _ => quantized(bytes, stored, device),
        })?;
        Ok(Some(StoredWeight::Quantized(Arc::new(tensor))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_heads_are_restored() {
        // Two heads of four rows of one byte, interleaved as in llama.cpp.
        let file = [0, 2, 1, 3, 4, 6, 5, 7];
        let restored = deinterleaved(&file, 8, 2).unwrap();
        assert_eq!(restored.as_slice(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(restored.as_slice().as_ptr().align_offset(ALIGNMENT), 0);
        for (rows, heads) in [(8, 0), (8, 3), (8, 8), (0, 1), (6, 1)] {
            assert!(deinterleaved(&file, rows, heads).is_err(), "{rows} {heads}");
        }
    }
}
