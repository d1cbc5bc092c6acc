//! The JSON files of a Hugging Face directory, derived from the metadata of GGUF files.

use serde_json::{Map, Value, json};

use crate::checkpoint::gguf::architecture::Architecture;
use crate::checkpoint::gguf::header::Gguf;
use crate::checkpoint::gguf::tokenizer;
use crate::checkpoint::gguf::weights::dense;
use crate::checkpoint::section::Section;
use crate::error::{Error, Result};

/// Derives the JSON files of a checkpoint, with their names.
pub(crate) fn files(text: &Gguf, mmproj: Option<&Gguf>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let architecture = Architecture::of(text)?;
    let language = language_model(text, architecture)?;
    let mut files = vec![("tokenizer_config.json", tokenizer::config(text)?)];
    let eos = tokenizer::end_of_turn(text)?;
    if !eos.is_empty() {
        files.push(("generation_config.json", json!({ "eos_token_id": eos })));
    }
    match mmproj {
        None => files.push(("config.json", language)),
        Some(mmproj) => {
            let (config, preprocessor) = multimodal(text, language, mmproj)?;
            files.push(("config.json", config));
            files.push(("preprocessor_config.json", preprocessor));
        }
    }
    Ok(files.into_iter().map(|(name, file)| (name, file.to_string().into_bytes())).collect())
}

/// Metadata keys with a common prefix, some of which are required.
struct PrefixedKeys<'a> {
    metadata: &'a Section,
    prefix: &'a str,
}

impl PrefixedKeys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        self.metadata.usize(&self.key(key))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.f64(&self.key(key))
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.metadata.error(&self.key(key), "expected a number; is this a whole model?"))
    }

    fn size(&self, key: &str) -> Result<usize> {
        match self.required(key, self.count(key)?)? {
            0 => Err(self.metadata.error(&self.key(key), "must not be 0")),
            size => Ok(size),
        }
    }

    fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        self.metadata.error(&self.key(key), reason)
    }
}

/// Derives the configuration of the language model.
fn language_model(text: &Gguf, architecture: &Architecture) -> Result<Value> {
    let keys = PrefixedKeys { metadata: text.metadata(), prefix: architecture.name };
    let layers = keys.size("block_count")?;
    if text.tensor(&format!("blk.{}.attn_norm.weight", layers - 1)).is_none() {
        return Err(keys.error("block_count", format!("the file has fewer than {layers} layers")));
    }
    let (hidden, heads) = (keys.size("embedding_length")?, keys.size("attention.head_count")?);
    let kv_heads = keys.count("attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = match keys.count("attention.key_length")? {
        Some(length) => length,
        None if architecture.permuted => keys.count("rope.dimension_count")?.unwrap_or(hidden / heads),
        None => hidden / heads,
    };
    let rotated = keys.count("rope.dimension_count")?.unwrap_or(head_dim);
    if rotated > head_dim || rotated != head_dim && architecture.permuted {
        return Err(keys.error("rope.dimension_count", format!("{rotated} of {head_dim} dimensions are not supported")));
    }
    if keys.count("attention.value_length")?.unwrap_or(head_dim) != head_dim {
        return Err(keys.error("attention.value_length", "values as long as keys are supported"));
    }
    let embeddings = text.tensor("token_embd.weight").map(|t| t.shape.as_slice());
    let Some([vocabulary, _]) = embeddings else { return Err(text.error("it has no matrix token_embd.weight")) };
    let has = |tensor: &str| text.tensor(tensor).is_some();
    let biased = ["attn_q", "attn_k", "attn_v", "attn_output"].map(|m| has(&format!("blk.0.{m}.bias")));
    if architecture.name != "qwen2" && biased.contains(&true) && biased.contains(&false) {
        return Err(text.error("some of blk.0.attn_{q,k,v,output} have a bias and some have none, which is not supported"));
    }
    let mut config = json!({
        "architectures": [architecture.class],
        "model_type": architecture.model_type,
        "vocab_size": vocabulary,
        "max_position_embeddings": keys.count("context_length")?,
        "hidden_size": hidden,
        "intermediate_size": keys.size("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "partial_rotary_factor": rotated as f64 / head_dim.max(1) as f64,
        "rms_norm_eps": keys.required("attention.layer_norm_rms_epsilon", keys.number("attention.layer_norm_rms_epsilon")?)?,
        "rope_theta": keys.number("rope.freq_base")?.unwrap_or(10_000.0),
        "rope_scaling": rope_scaling(text, &keys, head_dim)?,
        "attention_bias": biased == [true; 4],
        "mlp_bias": has("blk.0.ffn_up.bias"),
        "tie_word_embeddings": !has("output.weight"),
    });
    if let (true, Value::Object(config)) = (architecture.gemma, &mut config) {
        config.extend(gemma3(text, &keys, [layers, hidden, heads, head_dim])?);
    }
    Ok(config)
}

/// Derives the settings that only Gemma 3 has.
fn gemma3(text: &Gguf, keys: &PrefixedKeys<'_>, [layers, hidden, heads, head_dim]: [usize; 4]) -> Result<Map<String, Value>> {
    let window = keys.count("attention.sliding_window")?.filter(|window| *window > 0);
    const PATTERN: &str = "attention.sliding_window_pattern";
    let every = |pattern: usize| (1..=layers).map(|layer| layer % pattern.max(1) != 0).collect::<Vec<_>>();
    let slides = match keys.count(PATTERN)? {
        Some(pattern) => every(pattern),
        // Some files have one value per layer; older files have no such key.
        None => {
            text.numbers(&keys.key(PATTERN))?.map_or_else(|| every(6), |layers| layers.into_iter().map(|slides| slides != 0.0).collect())
        }
    };
    let kind = |slides: bool| if slides && window.is_some() { "sliding_attention" } else { "full_attention" };
    // This scale is not in the file. llama.cpp, too, identifies the 27B model by its number of layers.
    let scalar = if layers == 62 { hidden / heads } else { head_dim };
    let config = json!({
        "sliding_window": window,
        "layer_types": slides.into_iter().map(kind).collect::<Vec<_>>(),
        "rope_local_base_freq": keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0),
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": keys.number("final_logit_softcapping")?,
    });
    Ok(if let Value::Object(config) = config { config } else { Map::new() })
}

/// Derives the scaling of rotary frequencies.
fn rope_scaling(text: &Gguf, keys: &PrefixedKeys<'_>, head_dim: usize) -> Result<Value> {
    if let Some(factors) = text.tensor("rope_freqs.weight") {
        if factors.shape != [head_dim / 2] {
            return Err(text.error(format!("rope_freqs.weight is {:?}, expected [{}]", factors.shape, head_dim / 2)));
        }
        let factors = dense(text, factors, &candle_core::Device::Cpu)?.to_dtype(candle_core::DType::F32)?;
        return Ok(json!({ "rope_type": "factors", "factors": factors.to_vec1::<f32>()? }));
    }
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    let key = keys.key("rope.scaling.type");
    match (keys.metadata.string(&key)?, factor) {
        (Some("none"), _) | (None, None) => Ok(Value::Null),
        (Some("linear") | None, factor) => Ok(json!({ "rope_type": "linear", "factor": keys.required("rope.scaling.factor", factor)? })),
        (Some("yarn"), factor) => {
            let factor = keys.required("rope.scaling.factor", factor)?;
            // llama.cpp multiplies the usual magnitude by the factor in the file; transformers expects the product.
            let magnitude = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            Ok(json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": keys.number("rope.scaling.original_context_length")?,
                "attention_factor": keys.number("rope.scaling.attn_factor")?.map(|factor| factor * magnitude),
                "beta_fast": keys.number("rope.scaling.yarn_beta_fast")?,
                "beta_slow": keys.number("rope.scaling.yarn_beta_slow")?,
            }))
        }
        (Some(other), _) => {
            let supported = &["none", "linear", "yarn"];
            Err(Error::Unsupported { what: "GGUF rope scaling", got: other.to_owned(), supported })
        }
    }
}

/// Derives the configurations of LLaVA and of its image processor, from the language model's configuration and the file
/// of the vision tower.
fn multimodal(text: &Gguf, language: Value, mmproj: &Gguf) -> Result<(Value, Value)> {
    let clip = mmproj.metadata();
    if clip.string("general.architecture")? != Some("clip") {
        return Err(mmproj.error("it is no vision tower; its general.architecture should be `clip`"));
    }
    let unsupported = |what, got: &str, supported| Err(Error::Unsupported { what, got: got.to_owned(), supported });
    match clip.string("clip.projector_type")?.unwrap_or("mlp") {
        "mlp" => {}
        other => return unsupported("GGUF projector", other, &["mlp"]),
    }
    // LLaVA-NeXT, which splits images into tiles, has another value here.
    match clip.string("clip.vision.mm_patch_merge_type")?.unwrap_or("flat") {
        "flat" => {}
        other => return unsupported("GGUF patch merging", other, &["flat"]),
    }
    let keys = PrefixedKeys { metadata: clip, prefix: "clip.vision" };
    let flag = |key: &str| clip.bool(key).map(|flag| flag.unwrap_or(false));
    let activation = if flag("clip.use_gelu")? {
        "gelu"
    } else if flag("clip.use_silu")? {
        "silu"
    } else {
        "quick_gelu"
    };
    // SigLIP's tower, unlike CLIP's, has no class token.
    let has_class_token = mmproj.tensor("v.class_embd").is_some();
    let layers = keys.size("block_count")?;
    let size = keys.size("image_size")?;
    // A file contains only layers whose output is used. (llama.cpp itself skips one more.)
    let features = mmproj.numbers("clip.vision.feature_layer")?.filter(|layers| !layers.is_empty());
    let feature_layer = match features {
        None => json!(layers),
        #[allow(clippy::cast_possible_truncation, reason = "an integer in the file; out of range it is refused as a layer")]
        Some(features) => json!(features.into_iter().map(|layer| layer as i64).collect::<Vec<_>>()),
    };
    let config = json!({
        "architectures": ["LlavaForConditionalGeneration"],
        "text_config": language,
        "vision_config": {
            "model_type": if has_class_token { "clip_vision_model" } else { "siglip_vision_model" },
            "hidden_size": keys.size("embedding_length")?,
            "intermediate_size": keys.size("feed_forward_length")?,
            "num_hidden_layers": layers,
            "num_attention_heads": keys.size("attention.head_count")?,
            "image_size": size,
            "patch_size": keys.size("patch_size")?,
            "layer_norm_eps": keys.required("attention.layer_norm_epsilon", keys.number("attention.layer_norm_epsilon")?)?,
            "hidden_act": activation,
        },
        "image_token_index": tokenizer::image_token(text)?,
        "vision_feature_layer": feature_layer,
        "vision_feature_select_strategy": if has_class_token { "default" } else { "full" },
        "projector_hidden_act": "gelu",
    });
    let square = json!({ "height": size, "width": size });
    let preprocessor = json!({
        "image_processor_type": if has_class_token { "CLIPImageProcessor" } else { "SiglipImageProcessor" },
        "size": if has_class_token { json!({ "shortest_edge": size }) } else { square.clone() },
        "crop_size": square,
        "image_mean": mmproj.numbers("clip.vision.image_mean")?,
        "image_std": mmproj.numbers("clip.vision.image_std")?,
    });
    Ok((config, preprocessor))
}
