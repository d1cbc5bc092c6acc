//! The JSON files of a Hugging Face directory, derived from the metadata of GGUF files.

use serde_json::{Value, json};

use crate::checkpoint::gguf::architecture::Architecture;
use crate::checkpoint::gguf::header::Gguf;
use crate::checkpoint::gguf::projector::Projector;
use crate::checkpoint::gguf::tokenizer;
use crate::checkpoint::gguf::weights::dense;
use crate::checkpoint::section::Section;
use crate::error::{Error, Result};

/// Derives the JSON files of a checkpoint, with their names.
pub(crate) fn files(text: &Gguf, mmproj: Option<(&Gguf, Projector)>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let architecture = Architecture::of(text)?;
    let language = language_model(text, architecture)?;
    let mut files = vec![("tokenizer_config.json", tokenizer::config(text)?)];
    let eos = tokenizer::end_of_turn(text)?;
    if !eos.is_empty() {
        files.push(("generation_config.json", json!({ "eos_token_id": eos })));
    }
    match mmproj {
        None => files.push(("config.json", language)),
        Some((mmproj, projector)) => {
            let (config, preprocessor) = projector.configure(text, language, mmproj)?;
            files.push(("config.json", config));
            files.push(("preprocessor_config.json", preprocessor));
        }
    }
    Ok(files.into_iter().map(|(name, file)| (name, file.to_string().into_bytes())).collect())
}

/// Metadata keys with a common prefix, some of which are required.
pub(crate) struct PrefixedKeys<'a> {
    pub(crate) metadata: &'a Section,
    pub(crate) prefix: &'a str,
}

impl PrefixedKeys<'_> {
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.metadata.usize(&self.key(key))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.f64(&self.key(key))
    }

    pub(crate) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.metadata.error(&self.key(key), "expected a number; is this a whole model?"))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        match self.required(key, self.count(key)?)? {
            0 => Err(self.metadata.error(&self.key(key), "must not be 0")),
            size => Ok(size),
        }
    }

    pub(super) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
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
    if !architecture.qkv_bias && biased.contains(&true) && biased.contains(&false) {
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
        "rope_scaling": rope_scaling(text, &keys, architecture, rotated)?,
        "attention_bias": biased == [true; 4],
        "mlp_bias": has("blk.0.ffn_up.bias"),
        "tie_word_embeddings": !has("output.weight"),
    });
    let sizes = [layers, hidden, heads, head_dim];
    let more = match architecture.name {
        "gemma2" => gemma2(&keys, sizes)?,
        "gemma3" => gemma3(text, &keys, sizes)?,
        // llama.cpp reads the window of Phi-3, 0 for none, and attends to all tokens; transformers applies it.
        _ => json!({ "sliding_window": keys.count("attention.sliding_window")?.filter(|window| *window > 0) }),
    };
    if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
        config.extend(more);
    }
    Ok(config)
}

/// Derives the settings that only Gemma 2 has. Every other layer slides, the first one too.
fn gemma2(keys: &PrefixedKeys<'_>, [layers, hidden, heads, head_dim]: [usize; 4]) -> Result<Value> {
    Ok(json!({
        "sliding_window": keys.count("attention.sliding_window")?.unwrap_or(4096),
        // This scale is not in the file. llama.cpp, too, identifies the 27B model by its number of layers.
        "query_pre_attn_scalar": if layers == 46 { hidden / heads } else { head_dim },
        "attn_logit_softcapping": keys.number("attn_logit_softcapping")?.unwrap_or(50.0),
        "final_logit_softcapping": keys.number("final_logit_softcapping")?.unwrap_or(30.0),
    }))
}

/// Derives the settings that only Gemma 3 has.
fn gemma3(text: &Gguf, keys: &PrefixedKeys<'_>, [layers, hidden, heads, head_dim]: [usize; 4]) -> Result<Value> {
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
    Ok(json!({
        "sliding_window": window,
        "layer_types": slides.into_iter().map(kind).collect::<Vec<_>>(),
        "rope_local_base_freq": keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0),
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": keys.number("final_logit_softcapping")?,
    }))
}

/// The first of two tensors, if the file has the second one alone.
fn lone<'a>(text: &Gguf, missing: &'a str, there: &str) -> Option<&'a str> {
    (text.tensor(missing).is_none() && text.tensor(there).is_some()).then_some(missing)
}

/// Derives the scaling of the rotary frequencies of `rotated` dimensions.
fn rope_scaling(text: &Gguf, keys: &PrefixedKeys<'_>, architecture: &Architecture, rotated: usize) -> Result<Value> {
    let factors = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some(factors) = text.tensor(name) else { return Ok(None) };
        if factors.shape != [rotated / 2] {
            return Err(text.error(format!("{name} is {:?}, expected [{}]", factors.shape, rotated / 2)));
        }
        Ok(Some(dense(text, factors, &candle_core::Device::Cpu)?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?))
    };
    if let Some(factors) = factors("rope_freqs.weight")? {
        return Ok(json!({ "rope_type": "factors", "factors": factors }));
    }
    let [long, short] = ["rope_factors_long.weight", "rope_factors_short.weight"];
    if let (Some(missing), _) | (_, Some(missing)) = (lone(text, long, short), lone(text, short, long)) {
        return Err(text.error(format!("it has no {missing}, only the other factors")));
    }
    if let (Some(long), Some(short)) = (factors(long)?, factors(short)?) {
        return Ok(json!({
            "rope_type": "longrope",
            "long_factor": long,
            "short_factor": short,
            "original_max_position_embeddings":
                keys.required("rope.scaling.original_context_length", keys.number("rope.scaling.original_context_length")?)?,
            "attention_factor": keys.number("rope.scaling.attn_factor")?,
        }));
    }
    if architecture.is_qwen2_vl() {
        // One section for each axis of positions; llama.cpp writes a fourth, which is 0.
        const SECTIONS: &str = "rope.dimension_sections";
        let sections = text.numbers(&keys.key(SECTIONS))?;
        let mut sections = sections.ok_or_else(|| keys.error(SECTIONS, "expected a list of numbers; is this a whole model?"))?;
        if sections.len() > 3 && sections.iter().skip(3).all(|section| *section == 0.0) {
            sections.truncate(3);
        }
        #[allow(clippy::cast_possible_truncation, reason = "an integer in the file; the reader of the configuration checks it")]
        let sections: Vec<i64> = sections.into_iter().map(|section| section as i64).collect();
        return Ok(json!({ "rope_type": "default", "mrope_section": sections }));
    }
    if keys.number("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0) != 0.0 {
        return Err(keys.error("rope.scaling.yarn_log_multiplier", "is not supported"));
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
