//! The tensors of GGUF files under their Hugging Face names and in Hugging Face's order of rows.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;

use crate::checkpoint::gguf::architecture::Architecture;
use crate::checkpoint::gguf::header::{Gguf, StoredTensor};
use crate::checkpoint::gguf::projector::Projector;
use crate::checkpoint::mapped_weights::of_shape;
use crate::error::Result;
use crate::layers::linear::{StoredWeight, StoredWeights};

/// The tensors of a language model and, if present, of its vision tower.
#[derive(Debug, Clone)]
pub(crate) struct GgufWeights {
    text: Arc<Gguf>,
    mmproj: Option<(Arc<Gguf>, Projector)>,
    architecture: &'static Architecture,
    heads: usize,
    kv_heads: usize,
    /// Whether the vision tower's `ffn_down` is its first layer, as named by the converter of LLaVA-1.5.
    ffn_swapped: bool,
    read: ReadNames,
}

/// The names in the files of the tensors that were read. They are shared by all weights of a model.
pub(crate) type ReadNames = Arc<Mutex<BTreeSet<String>>>;

/// Tensors that are no weights: factors of rotary frequencies, which go into the configuration.
const NO_WEIGHTS: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// The change that llama.cpp's converter made to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conversion {
    None,
    /// The two halves of each head were interleaved.
    Interleaved {
        heads: usize,
    },
    PlusOne,
    /// The rows were divided among several tensors.
    Divided,
    /// The frames of a convolution over time became tensors of their own.
    Frames,
}

/// The tensors of a file that one tensor of a Hugging Face checkpoint became.
struct Origin<'a> {
    file: &'a Gguf,
    names: Vec<String>,
    conversion: Conversion,
}

impl<'a> Origin<'a> {
    fn new(file: &'a Gguf, name: String, conversion: Conversion) -> Self {
        Self { file, names: vec![name], conversion }
    }

    fn tensors(&self) -> Option<Vec<&'a StoredTensor>> {
        self.names.iter().map(|name| self.file.tensor(name)).collect()
    }
}

/// Names of a language model's modules in Hugging Face checkpoints and in GGUF files.
const MODULES: [(&str, &str); 12] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Names of the norm between attention and MLP, and of Gemma's norms around both.
const NORM: [(&str, &str); 1] = [("post_attention_layernorm", "ffn_norm")];
const OUTPUT_NORMS: [(&str, &str); 3] = [
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

/// Names of a CLIP or SigLIP tower's tensors outside its layers, and of the modules of its layers.
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

/// Names of the modules of Qwen-VL's tower, outside its blocks and in them.
const QWEN_MODULES: [(&str, &str); 3] = [("merger.ln_q", "v.post_ln"), ("merger.mlp.0", "mm.0"), ("merger.mlp.2", "mm.2")];
const QWEN_BLOCK: [(&str, &str); 8] = [
    ("norm1", "ln1"),
    ("norm2", "ln2"),
    ("attn.proj", "attn_out"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

fn look_up(names: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    names.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours)
}

impl GgufWeights {
    pub(crate) fn new(text: Arc<Gguf>, mmproj: Option<(Arc<Gguf>, Projector)>, read: ReadNames) -> Result<Self> {
        let architecture = Architecture::of(&text)?;
        let count = |key: &str| text.metadata().usize(&format!("{}.attention.{key}", architecture.name));
        let heads = count("head_count")?.unwrap_or(0);
        let kv_heads = count("head_count_kv")?.unwrap_or(heads);
        let llava = mmproj.as_ref().filter(|(_, projector)| *projector == Projector::Llava);
        let width = llava.map_or(Ok(None), |(m, _)| m.metadata().usize("clip.vision.embedding_length"))?;
        let down = llava.and_then(|(m, _)| m.tensor("v.blk.0.ffn_down.weight")?.shape.last().copied());
        Ok(Self { ffn_swapped: down.is_some() && down == width, text, mmproj, architecture, heads, kv_heads, read })
    }

    /// The number of bytes that all tensors of fewer than 32 bits take in f32.
    pub(crate) fn widened_bytes(&self) -> usize {
        self.text.widened_bytes()
    }

    /// The names in the files of the tensors that have not been read, in order.
    ///
    /// Left out are tensors that are no weights, and what LLaVA does not use of its tower: the last norm, and layers
    /// after the feature layer.
    pub(crate) fn unread(&self) -> Vec<String> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let llava = matches!(&self.mmproj, Some((_, Projector::Llava)));
        let block =
            |name: &str| name.strip_prefix("v.blk.").and_then(|rest| rest.split_once('.')).map(|(block, _)| format!("v.blk.{block}."));
        let unused = |name: &str| {
            let unused_block = |block: String| !read.iter().any(|name| name.starts_with(&block));
            llava && (name.starts_with("v.post_ln.") || block(name).is_some_and(unused_block))
        };
        let names = self.text.names().chain(self.mmproj.iter().flat_map(|(mmproj, _)| mmproj.names()));
        names.filter(|name| !read.contains(*name) && !NO_WEIGHTS.contains(name) && !unused(name)).map(str::to_owned).collect()
    }

    fn record(&self, origin: &Origin<'_>) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).extend(origin.names.iter().cloned());
    }

    /// Finds what a tensor of a Hugging Face checkpoint became.
    fn find(&self, name: &str) -> Option<Origin<'_>> {
        let origin = match &self.mmproj {
            None => None,
            Some((mmproj, Projector::Llava)) => self.llava_name(name).map(|name| Origin::new(mmproj, name, Conversion::None)),
            Some((mmproj, Projector::Qwen2Vl | Projector::Qwen2_5Vl)) => qwen_origin(mmproj, name),
            Some((mmproj, Projector::Idefics3)) => self.idefics3_name(name).map(|name| Origin::new(mmproj, name, Conversion::None)),
        };
        if origin.is_some() {
            return origin;
        }
        let idefics3 = matches!(&self.mmproj, Some((_, Projector::Idefics3)));
        let (name, conversion) = match name.strip_prefix("model.text_model.").filter(|_| idefics3) {
            Some(rest) => self.text_name(&format!("model.{rest}"))?,
            None => self.text_name(name)?,
        };
        Some(Origin::new(&self.text, name, conversion))
    }

    fn text_name(&self, name: &str) -> Option<(String, Conversion)> {
        let norm = if self.architecture.norms_plus_one { Conversion::PlusOne } else { Conversion::None };
        let plain = |name: &str, conversion| Some((name.to_owned(), conversion));
        match name {
            "model.embed_tokens.weight" => return plain("token_embd.weight", Conversion::None),
            "lm_head.weight" => return plain("output.weight", Conversion::None),
            "model.norm.weight" => return plain("output_norm.weight", norm),
            _ => {}
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (module, leaf) = rest.rsplit_once('.')?;
        let norms = if self.architecture.output_norms { &OUTPUT_NORMS[..] } else { &NORM };
        let ours = look_up(&MODULES, module).or_else(|| look_up(norms, module))?;
        let conversion = match ours {
            "attn_q" if self.architecture.permuted => Conversion::Interleaved { heads: self.heads },
            "attn_k" if self.architecture.permuted => Conversion::Interleaved { heads: self.kv_heads },
            _ if ours.ends_with("norm") => norm,
            _ => Conversion::None,
        };
        Some((format!("blk.{layer}.{ours}.{leaf}"), conversion))
    }

    fn llava_name(&self, name: &str) -> Option<String> {
        if let Some(rest) = name.strip_prefix("vision_tower.vision_model.") {
            return self.vision_name(rest);
        }
        let (module, leaf) = name.strip_prefix("multi_modal_projector.")?.split_once('.')?;
        Some(format!("mm.{}.{leaf}", look_up(&[("linear_1", "0"), ("linear_2", "2")], module)?))
    }

    fn idefics3_name(&self, name: &str) -> Option<String> {
        match name.strip_prefix("model.vision_model.") {
            Some(rest) => self.vision_name(rest),
            None => Some(format!("mm.model.fc.{}", name.strip_prefix("model.connector.modality_projection.proj.")?)),
        }
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
        let origin = self.find(name).ok_or_else(missing)?;
        let (file, tensors) = (origin.file, origin.tensors().ok_or_else(missing)?);
        self.record(&origin);
        let all = || tensors.iter().map(|stored| dense(file, stored, device)).collect::<CandleResult<Vec<_>>>();
        let stored = tensors.first().ok_or_else(missing)?;
        match origin.conversion {
            Conversion::None => dense(file, stored, device),
            Conversion::Interleaved { heads } => {
                file.with_bytes(stored, |bytes| tensor(deinterleaved(bytes, stored.rows(), heads)?.as_slice(), stored, device))
            }
            Conversion::PlusOne => dense(file, stored, device)?.to_dtype(DType::F32)? - 1.0,
            Conversion::Divided => Tensor::cat(&all()?, 0),
            Conversion::Frames => Tensor::stack(&all()?, 2),
        }
    }
}

/// Finds what a tensor of Qwen-VL's tower became.
fn qwen_origin<'a>(mmproj: &'a Gguf, name: &str) -> Option<Origin<'a>> {
    let name = name.strip_prefix("visual.")?;
    if name == "patch_embed.proj.weight" {
        let frames = ["v.patch_embd.weight", "v.patch_embd.weight.1"].map(str::to_owned);
        let names = frames.into_iter().filter(|frame| frame == "v.patch_embd.weight" || mmproj.tensor(frame).is_some()).collect();
        return Some(Origin { file: mmproj, names, conversion: Conversion::Frames });
    }
    let (module, leaf) = name.rsplit_once('.')?;
    if let Some(ours) = look_up(&QWEN_MODULES, module) {
        return Some(Origin::new(mmproj, format!("{ours}.{leaf}"), Conversion::None));
    }
    let (block, module) = module.strip_prefix("blocks.")?.split_once('.')?;
    if module == "attn.qkv" {
        let names = ["q", "k", "v"].map(|part| format!("v.blk.{block}.attn_{part}.{leaf}")).into();
        return Some(Origin { file: mmproj, names, conversion: Conversion::Divided });
    }
    Some(Origin::new(mmproj, format!("v.blk.{block}.{}.{leaf}", look_up(&QWEN_BLOCK, module)?), Conversion::None))
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
        self.find(name).is_some_and(|origin| origin.tensors().is_some())
    }
}

impl StoredWeights for GgufWeights {
    fn matrix(&self, name: &str, device: &Device) -> CandleResult<Option<StoredWeight>> {
        let Some(origin) = self.find(name) else { return Ok(None) };
        let tensors = origin.tensors().unwrap_or_default();
        let [stored] = tensors.as_slice() else { return Ok(None) };
        let (file, conversion) = (origin.file, origin.conversion);
        self.record(&origin);
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
