//! The configuration of a language model, read from its section of `config.json`.

use sgm_core::{Projection, Site};

use crate::checkpoint::model_info::SiteInfo;
use crate::checkpoint::section::Section;
use crate::decoder::rope::Rope;
use crate::error::{Error, Result};
use crate::layers::activation::Activation;

/// The supported values of `model_type`.
const TEXT_MODELS: &[&str] = &[
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "mllama_text_model",
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_vl_moe_text",
];

/// The tokens or states that a layer attends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerAttention {
    /// All tokens before the current one.
    Full,
    /// The tokens of the sliding window.
    Window,
    /// The image, through cross-attention.
    Image,
}

/// The configuration of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DecoderConfig {
    pub(crate) vocabulary: usize,
    /// The number of embeddings beyond the vocabulary, of tokens that cannot be generated, such as Mllama's image
    /// token.
    pub(crate) extra_embeddings: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) rms_eps: f64,
    /// Whether norms multiply by `1 + weight`, as in Gemma.
    pub(crate) norm_offset: bool,
    pub(crate) activation: Activation,
    pub(crate) qkv_bias: bool,
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub(crate) qk_norm: bool,
    /// Whether the outputs of attention and MLP are normalised too, as in Gemma 2 and 3.
    pub(crate) output_norms: bool,
    /// Whether query, key and value share one matrix, and gate and up another, as in Phi-3.
    pub(crate) fused_projections: bool,
    /// A factor on the token embeddings.
    pub(crate) embedding_scale: Option<f64>,
    pub(crate) attention_scale: f64,
    pub(crate) attention_softcap: Option<f64>,
    pub(crate) logit_softcap: Option<f64>,
    /// The number of tokens that a sliding layer attends to, the current one included.
    pub(crate) window: Option<usize>,
    /// The attention of each layer.
    pub(crate) layers: Vec<LayerAttention>,
    pub(crate) rope: Rope,
    /// The rotation of sliding layers, if it differs.
    pub(crate) window_rope: Option<Rope>,
    /// Whether the embeddings also serve as the head.
    pub(crate) tied: bool,
    /// The mixtures of experts that stand for the MLPs of some layers.
    pub(crate) mixture: Option<MixtureConfig>,
}

/// The configuration of mixtures of experts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MixtureConfig {
    pub(crate) experts: usize,
    /// The number of experts that a token is routed to.
    pub(crate) per_token: usize,
    /// The width of an expert.
    pub(crate) intermediate: usize,
    /// The width of the expert that all tokens pass, if there is one.
    pub(crate) shared: Option<usize>,
    /// Whether the weights of a token's experts are divided by their sum.
    pub(crate) normalised: bool,
    /// Whether each layer has a mixture.
    pub(crate) layers: Vec<bool>,
}

/// The defaults of transformers' configuration classes.
struct Defaults {
    vocabulary: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    /// `None` for the number of query heads.
    kv_heads: Option<usize>,
    /// `None` for hidden size divided by heads.
    head_dim: Option<usize>,
    eps: f64,
    theta: f64,
}

impl Defaults {
    fn of(model_type: &str) -> Option<Self> {
        let llama = Self {
            vocabulary: 32_000,
            hidden: 4096,
            intermediate: 11_008,
            layers: 32,
            heads: 32,
            kv_heads: None,
            head_dim: None,
            eps: 1e-6,
            theta: 10_000.0,
        };
        let qwen = Self { vocabulary: 151_936, intermediate: 22_016, kv_heads: Some(32), ..llama };
        let qwen_vl = Self {
            vocabulary: 152_064,
            hidden: 8192,
            intermediate: 29_568,
            layers: 80,
            heads: 64,
            kv_heads: Some(8),
            eps: 1e-5,
            theta: 1e6,
            ..llama
        };
        let gemma = Self {
            vocabulary: 256_000,
            hidden: 2304,
            intermediate: 9216,
            layers: 26,
            heads: 8,
            kv_heads: Some(4),
            head_dim: Some(256),
            ..llama
        };
        Some(match model_type {
            "llama" => llama,
            "mistral" => Self { intermediate: 14_336, kv_heads: Some(8), ..llama },
            "qwen2" => qwen,
            "qwen3" => Self { head_dim: Some(128), ..qwen },
            "qwen3_vl_text" => Self { head_dim: Some(128), theta: 5e5, ..qwen },
            "qwen2_vl_text" | "qwen2_5_vl_text" => qwen_vl,
            "gemma" => Self { hidden: 3072, intermediate: 24_576, layers: 28, heads: 16, kv_heads: Some(16), ..gemma },
            "gemma2" => gemma,
            "gemma3_text" => Self { vocabulary: 262_208, theta: 1e6, ..gemma },
            "phi3" => Self { vocabulary: 32_064, hidden: 3072, intermediate: 8192, eps: 1e-5, ..llama },
            "mllama_text_model" => {
                Self { vocabulary: 128_256, intermediate: 14_336, layers: 40, kv_heads: Some(8), eps: 1e-5, theta: 5e5, ..llama }
            }
            "mixtral" => Self { intermediate: 14_336, kv_heads: Some(8), eps: 1e-5, theta: 1e6, ..llama },
            "qwen2_moe" | "qwen3_vl_moe_text" => Self {
                vocabulary: 151_936,
                hidden: 2048,
                intermediate: 5632,
                layers: 24,
                heads: 16,
                kv_heads: Some(16),
                theta: if model_type == "qwen2_moe" { 10_000.0 } else { 5e5 },
                ..llama
            },
            "qwen3_moe" => Self { vocabulary: 151_936, hidden: 2048, intermediate: 6144, layers: 24, kv_heads: Some(4), ..llama },
            _ => return None,
        })
    }
}

impl DecoderConfig {
    /// Reads a text configuration. `default_type` stands in for a missing `model_type`; other missing settings take the
    /// defaults of the type, as in transformers.
    pub(crate) fn from_section(text: &Section, default_type: &str) -> Result<Self> {
        let model_type = text.string("model_type")?.unwrap_or(default_type);
        // Published Qwen-VL configurations have the text model's keys at the root.
        let model_type = match model_type {
            "qwen2_vl" => "qwen2_vl_text",
            "qwen2_5_vl" => "qwen2_5_vl_text",
            // Idefics3 configurations use these names for Llama.
            "VLlama3" | "vllama3" => "llama",
            other => other,
        };
        let defaults = Defaults::of(model_type).ok_or_else(|| Error::Unsupported {
            what: "text model",
            got: model_type.to_owned(),
            supported: TEXT_MODELS,
        })?;
        let gemma = model_type.starts_with("gemma");
        let mllama = model_type == "mllama_text_model";
        let gemma_2_or_3 = matches!(model_type, "gemma2" | "gemma3_text");
        let qwen2 = matches!(model_type, "qwen2" | "qwen2_vl_text" | "qwen2_5_vl_text");
        let hidden = text.positive("hidden_size", defaults.hidden)?;
        let heads = text.positive("num_attention_heads", defaults.heads)?;
        let kv_heads =
            text.positive("num_key_value_heads", if text.has("num_key_value_heads") { heads } else { defaults.kv_heads.unwrap_or(heads) })?;
        let head_dim =
            text.positive("head_dim", if text.has("head_dim") { hidden / heads } else { defaults.head_dim.unwrap_or(hidden / heads) })?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(text.error("num_key_value_heads", format!("{kv_heads} does not divide num_attention_heads {heads}")));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(text.error("head_dim", format!("{head_dim} is odd; rotary embeddings need pairs")));
        }
        let attention_bias = text.bool("attention_bias")?.unwrap_or(false);
        let activation = match text.string(if gemma_2_or_3 { "hidden_activation" } else { "hidden_act" })? {
            // Gemma was trained with the tanh approximation, although its first configurations say otherwise.
            None | Some("gelu") if gemma => "gelu_pytorch_tanh",
            named => named.unwrap_or("silu"),
        };
        let scalar = if gemma_2_or_3 { text.f64("query_pre_attn_scalar")?.unwrap_or(256.0) } else { head_dim as f64 };
        let gemma2 = model_type == "gemma2";
        let softcap = |key: &str, default: f64| if text.has(key) { text.f64(key) } else { Ok(gemma2.then_some(default)) };
        if model_type == "gemma3_text" && text.bool("use_bidirectional_attention")?.unwrap_or(false) {
            let reason = "embedding models, whose text attends in both directions, are not supported";
            return Err(text.error("use_bidirectional_attention", reason));
        }
        let (rope, window_rope) = Rope::from_config(text, model_type, head_dim, defaults.theta)?;
        let layers = layers(text, model_type, defaults.layers)?;
        let mixture = MixtureConfig::read(text, model_type, layers.len())?;
        Ok(Self {
            vocabulary: text.positive("vocab_size", defaults.vocabulary)?,
            extra_embeddings: if mllama { 8 } else { 0 },
            hidden,
            intermediate: text.positive("intermediate_size", defaults.intermediate)?,
            heads,
            kv_heads,
            head_dim,
            rms_eps: text.f64("rms_norm_eps")?.unwrap_or(defaults.eps),
            norm_offset: gemma,
            activation: Activation::from_name(activation)?,
            qkv_bias: qwen2 || attention_bias || model_type == "qwen2_moe" && text.bool("qkv_bias")?.unwrap_or(true),
            output_bias: attention_bias && !qwen2 && model_type != "qwen2_moe",
            mlp_bias: model_type == "llama" && text.bool("mlp_bias")?.unwrap_or(false),
            qk_norm: matches!(model_type, "qwen3" | "qwen3_vl_text" | "gemma3_text" | "qwen3_moe" | "qwen3_vl_moe_text"),
            output_norms: gemma_2_or_3,
            fused_projections: model_type == "phi3",
            embedding_scale: gemma.then(|| (hidden as f64).sqrt()),
            attention_scale: scalar.powf(-0.5),
            attention_softcap: if gemma_2_or_3 { softcap("attn_logit_softcapping", 50.0)? } else { None },
            logit_softcap: if gemma_2_or_3 { softcap("final_logit_softcapping", 30.0)? } else { None },
            window: if layers.contains(&LayerAttention::Window) { window(text)? } else { None },
            layers,
            rope,
            window_rope,
            tied: !mllama && text.bool("tie_word_embeddings")?.unwrap_or(gemma),
            mixture,
        })
    }

    /// Whether a layer has a mixture of experts.
    pub(crate) fn has_mixture(&self, layer: usize) -> bool {
        self.mixture.as_ref().and_then(|mixture| mixture.layers.get(layer)).is_some_and(|sparse| *sparse)
    }

    /// The sites of single experts with their widths, ordered by layer, expert and projection.
    pub(crate) fn expert_sites(&self) -> Vec<SiteInfo> {
        let Some(mixture) = &self.mixture else { return Vec::new() };
        let layers = (0..self.layers.len()).filter(|layer| self.has_mixture(*layer));
        let experts = layers.flat_map(|layer| (0..mixture.experts).map(move |expert| (layer, expert)));
        let width = |projection| if projection == Projection::Down { self.hidden } else { mixture.intermediate };
        experts
            .flat_map(|(layer, expert)| Projection::ALL.map(|projection| Site::of_expert(layer, expert, projection)))
            .map(|site| SiteInfo { site, width: width(site.projection) })
            .collect()
    }

    /// The sites of the decoder with their widths, ordered by layer and projection. Of a mixture of experts, that is its output.
    pub(crate) fn sites(&self) -> Vec<SiteInfo> {
        (0..self.layers.len())
            .flat_map(|layer| Projection::ALL.map(|projection| Site::new(layer, projection)))
            .filter(|site| site.projection == Projection::Down || !self.has_mixture(site.layer))
            .map(|site| SiteInfo { site, width: if site.projection == Projection::Down { self.hidden } else { self.intermediate } })
            .collect()
    }
}

impl MixtureConfig {
    /// Reads the settings of a text model with mixtures of experts; `None` for other models.
    fn read(text: &Section, model_type: &str, layers: usize) -> Result<Option<Self>> {
        let mixtral = model_type == "mixtral";
        let (experts, per_token, intermediate) = match model_type {
            "mixtral" => (8, 2, 14_336),
            "qwen3_moe" => (128, 8, 768),
            "qwen2_moe" | "qwen3_vl_moe_text" => (60, 4, 1408),
            _ => return Ok(None),
        };
        let key = if text.get("num_local_experts").is_some() { "num_local_experts" } else { "num_experts" };
        let experts = text.usize(key)?.unwrap_or(experts);
        let step = if mixtral { 1 } else { text.positive("decoder_sparse_step", 1)? };
        let plain = if mixtral { Vec::new() } else { text.ids("mlp_only_layers")? };
        let sparse = |layer: usize| experts > 0 && (layer + 1).is_multiple_of(step) && !plain.iter().any(|plain| *plain as usize == layer);
        let layers: Vec<bool> = (0..layers).map(sparse).collect();
        if !layers.contains(&true) {
            return Ok(None);
        }
        let per_token = text.positive("num_experts_per_tok", per_token)?;
        if per_token > experts {
            return Err(text.error("num_experts_per_tok", format!("{per_token} is more than the {experts} experts")));
        }
        Ok(Some(Self {
            experts,
            per_token,
            intermediate: text.positive(if mixtral { "intermediate_size" } else { "moe_intermediate_size" }, intermediate)?,
            shared: if model_type == "qwen2_moe" { Some(text.positive("shared_expert_intermediate_size", 5632)?) } else { None },
            normalised: match model_type {
                "qwen2_moe" | "qwen3_moe" => text.bool("norm_topk_prob")?.unwrap_or(false),
                _ => true,
            },
            layers,
        }))
    }
}

/// The width of the sliding window: 4,096 if the key is missing, none if it is `null`.
fn window(text: &Section) -> Result<Option<usize>> {
    if text.has("sliding_window") { text.usize("sliding_window") } else { Ok(Some(4096)) }
}

/// The attention of each layer, from `layer_types` or the rule of the model type.
fn layers(text: &Section, model_type: &str, default: usize) -> Result<Vec<LayerAttention>> {
    let count = text.positive("num_hidden_layers", default)?;
    if let Some(kinds) = text.get("layer_types") {
        let kind = |v: &serde_json::Value| match v.as_str() {
            Some("full_attention") => Some(LayerAttention::Full),
            Some("sliding_attention") => Some(LayerAttention::Window),
            _ => None,
        };
        let kinds: Option<Vec<_>> = kinds.as_array().map(|a| a.iter().map(kind).collect()).unwrap_or(None);
        return kinds
            .filter(|k| k.len() == count)
            .ok_or_else(|| text.error("layer_types", format!("expected full_attention or sliding_attention for each of {count} layers")));
    }
    let all = |kind| vec![kind; count];
    let window_if = |slides: &dyn Fn(usize) -> bool| {
        (0..count).map(|i| if slides(i) { LayerAttention::Window } else { LayerAttention::Full }).collect()
    };
    Ok(match model_type {
        "mistral" if window(text)?.is_some() => all(LayerAttention::Window),
        "phi3" if text.usize("sliding_window")?.is_some() => all(LayerAttention::Window),
        "qwen2" | "qwen3" | "qwen2_vl_text" | "qwen2_5_vl_text"
            if text.bool("use_sliding_window")?.unwrap_or(false) && window(text)?.is_some() =>
        {
            let first = text.usize("max_window_layers")?.unwrap_or(if model_type.contains("vl") { 80 } else { 28 });
            window_if(&|i| i >= first)
        }
        "mixtral" if text.usize("sliding_window")?.is_some() => all(LayerAttention::Window),
        "qwen3_moe" if text.bool("use_sliding_window")?.unwrap_or(false) && window(text)?.is_some() => all(LayerAttention::Window),
        "qwen2_moe" if text.bool("use_sliding_window")?.unwrap_or(false) && window(text)?.is_some() => {
            let last = text.usize("max_window_layers")?.unwrap_or(28);
            window_if(&|i| i % 2 == 0 && i < last)
        }
        "gemma2" => window_if(&|i| i % 2 == 0),
        "gemma3_text" => {
            let pattern = text.positive("sliding_window_pattern", 6)?;
            window_if(&|i| (i + 1) % pattern != 0)
        }
        "mllama_text_model" => {
            let given = text.ids("cross_attention_layers")?;
            let cross = if text.has("cross_attention_layers") { given } else { vec![3, 8, 13, 18, 23, 28, 33, 38] };
            let is_cross = |i: usize| u32::try_from(i).is_ok_and(|i| cross.contains(&i));
            (0..count).map(|i| if is_cross(i) { LayerAttention::Image } else { LayerAttention::Full }).collect()
        }
        _ => all(LayerAttention::Full),
    })
}
