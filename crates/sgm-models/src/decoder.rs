//! The tapped decoder: one implementation of the language model for every family.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Embedding, Linear, Module, RmsNorm, VarBuilder};
use sgm_core::{Projection, Site};

use crate::activation::Activation;
use crate::cache::Pass;
use crate::config::Section;
use crate::rope::Rope;
use crate::tap::PassTaps;
use crate::{Cache, Error, Result, SiteInfo};

/// The text models whose configurations the decoder understands.
const TEXT_MODELS: &[&str] = &["llama", "mistral", "qwen2"];

/// The shape of a decoder, read from the language model's part of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DecoderConfig {
    pub(crate) vocabulary: usize,
    pub(crate) hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rms_eps: f64,
    activation: Activation,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    /// The number of positions back that a token may attend to, itself included.
    window: Option<usize>,
    rope: Rope,
}

impl DecoderConfig {
    /// Reads a `text_config` section; what it leaves out has the default of its model type, as in transformers.
    pub(crate) fn from_section(text: &Section) -> Result<Self> {
        let model_type = text.string("model_type")?.unwrap_or("llama");
        let (vocabulary, intermediate, kv_heads) = match model_type {
            "llama" => (32_000, 11_008, None),
            "mistral" => (32_000, 14_336, Some(8)),
            "qwen2" => (151_936, 22_016, Some(32)),
            _ => return Err(Error::Unsupported { what: "text model", got: model_type.to_owned(), supported: TEXT_MODELS }),
        };
        let hidden = text.positive("hidden_size", 4096)?;
        let heads = text.positive("num_attention_heads", 32)?;
        let kv_heads = text.positive("num_key_value_heads", kv_heads.unwrap_or(heads))?;
        let head_dim = text.positive("head_dim", hidden / heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(text.error("num_key_value_heads", format!("{kv_heads} does not divide num_attention_heads {heads}")));
        }
        if !head_dim.is_multiple_of(2) {
            return Err(text.error("head_dim", format!("{head_dim} is odd; rotary embeddings need pairs")));
        }
        let attention_bias = model_type == "qwen2" || text.bool("attention_bias")?.unwrap_or(false);
        let window = match model_type {
            "mistral" => text.usize("sliding_window")?,
            "qwen2" if text.bool("use_sliding_window")?.unwrap_or(false) => {
                return Err(text.error("use_sliding_window", "sliding windows in only some layers are not supported"));
            }
            _ => None,
        };
        Ok(Self {
            vocabulary: text.positive("vocab_size", vocabulary)?,
            hidden,
            intermediate: text.positive("intermediate_size", intermediate)?,
            layers: text.positive("num_hidden_layers", 32)?,
            heads,
            kv_heads,
            head_dim,
            rms_eps: text.f64("rms_norm_eps")?.unwrap_or(1e-6),
            activation: Activation::from_name(text.string("hidden_act")?.unwrap_or("silu"))?,
            qkv_bias: attention_bias,
            output_bias: attention_bias && model_type != "qwen2",
            mlp_bias: model_type == "llama" && text.bool("mlp_bias")?.unwrap_or(false),
            window,
            rope: Rope::from_config(text, head_dim, 10_000.0)?,
        })
    }

    /// The sites of the decoder with their widths, by layer and projection.
    pub(crate) fn sites(&self) -> Vec<SiteInfo> {
        (0..self.layers)
            .flat_map(|layer| Projection::ALL.map(|projection| Site::new(layer, projection)))
            .map(|site| SiteInfo { site, width: if site.projection == Projection::Down { self.hidden } else { self.intermediate } })
            .collect()
    }
}

/// The decoder's weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    embeddings: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    rope: Rope,
    window: Option<usize>,
    device: Device,
}

impl Decoder {
    /// Loads the decoder from `vb`, where `embed_tokens`, `layers` and `norm` are, and its head from
    /// `head`; without a head the embeddings serve, as checkpoints with tied weights intend.
    pub(crate) fn new(config: &DecoderConfig, vb: &VarBuilder<'_>, head: Option<VarBuilder<'_>>) -> Result<Self> {
        let embeddings = candle_nn::embedding(config.vocabulary, config.hidden, vb.pp("embed_tokens"))?;
        let layers = (0..config.layers).map(|i| Layer::new(config, i, &vb.pp("layers").pp(i))).collect::<Result<_>>()?;
        let head = match head {
            Some(vb) => Linear::new(vb.get((config.vocabulary, config.hidden), "weight")?, None),
            None => Linear::new(embeddings.embeddings().clone(), None),
        };
        let norm = candle_nn::rms_norm(config.hidden, config.rms_eps, vb.pp("norm"))?;
        Ok(Self { embeddings, layers, norm, head, rope: config.rope.clone(), window: config.window, device: vb.device().clone() })
    }

    /// The embeddings `[batch, tokens, hidden]` of token ids `[batch, tokens]`.
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.embeddings.forward(ids)?)
    }

    pub(crate) fn window(&self) -> Option<usize> {
        self.window
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn new_cache(&self) -> Cache {
        Cache::new(self.layers.len())
    }

    /// Runs all layers over embeddings `[batch, new tokens, hidden]`; returns the normalised hidden states.
    pub(crate) fn forward(&self, embeddings: Tensor, pass: &Pass, cache: &mut Cache, taps: &PassTaps) -> Result<Tensor> {
        let (cos, sin) = self.rope.tables(&pass.positions, pass.position_rows, embeddings.dtype(), &self.device)?;
        let mask = pass.mask.as_ref().map(|m| m.to_dtype(embeddings.dtype())).transpose()?;
        let mut hidden = embeddings;
        for (i, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(hidden, &cos, &sin, mask.as_ref(), cache.layer(i)?, taps)?;
        }
        Ok(self.norm.forward(&hidden)?)
    }

    /// Logits `[.., vocabulary]` of hidden states `[.., hidden]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.head.forward(hidden)?)
    }
}

#[derive(Debug)]
struct Layer {
    input_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn new(config: &DecoderConfig, index: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let norm = |name: &str| candle_nn::rms_norm(config.hidden, config.rms_eps, vb.pp(name));
        Ok(Self {
            input_norm: norm("input_layernorm")?,
            attention: Attention::new(config, &vb.pp("self_attn"))?,
            post_attention_norm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(config, index, &vb.pp("mlp"))?,
        })
    }

    fn forward(
        &self,
        hidden: Tensor,
        cos: &Tensor,
        sin: &Tensor,
        mask: Option<&Tensor>,
        cache: &mut candle_nn::kv_cache::KvCache,
        taps: &PassTaps,
    ) -> Result<Tensor> {
        let attended = self.attention.forward(&self.input_norm.forward(&hidden)?, cos, sin, mask, cache)?;
        let hidden = (hidden + attended)?;
        let transformed = self.mlp.forward(&self.post_attention_norm.forward(&hidden)?, taps)?;
        Ok((hidden + transformed)?)
    }
}

/// Grouped-query attention with rotary positions.
#[derive(Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Attention {
    fn new(config: &DecoderConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let DecoderConfig { hidden, heads, kv_heads, head_dim, qkv_bias, .. } = *config;
        let linear = |name: &str, inputs, outputs, bias| candle_nn::linear_b(inputs, outputs, bias, vb.pp(name));
        Ok(Self {
            q: linear("q_proj", hidden, heads * head_dim, qkv_bias)?,
            k: linear("k_proj", hidden, kv_heads * head_dim, qkv_bias)?,
            v: linear("v_proj", hidden, kv_heads * head_dim, qkv_bias)?,
            o: linear("o_proj", heads * head_dim, hidden, config.output_bias)?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        mask: Option<&Tensor>,
        cache: &mut candle_nn::kv_cache::KvCache,
    ) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let Self { heads, kv_heads, head_dim, .. } = *self;
        let split = |y: Tensor, heads: usize| y.reshape((batch, tokens, heads, head_dim))?.transpose(1, 2)?.contiguous();
        let q = candle_nn::rotary_emb::rope(&split(self.q.forward(x)?, heads)?, cos, sin)?;
        let k = candle_nn::rotary_emb::rope(&split(self.k.forward(x)?, kv_heads)?, cos, sin)?;
        let v = split(self.v.forward(x)?, kv_heads)?;
        let (k, v) = cache.append(&k, &v)?;

        // The query heads of a group share their key head, so they are its rows: no key is repeated.
        let group = heads / kv_heads * tokens;
        let q = (q * (head_dim as f64).powf(-0.5))?.reshape((batch, kv_heads, group, head_dim))?;
        let scores = q.matmul(&k.t()?)?;
        let seen = scores.dim(3)?;
        let scores = match mask {
            None => scores,
            Some(mask) => scores.reshape((batch, heads, tokens, seen))?.broadcast_add(mask)?.reshape((batch, kv_heads, group, seen))?,
        };
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        let y = weights.matmul(&v)?.reshape((batch, heads, tokens, head_dim))?;
        Ok(self.o.forward(&y.transpose(1, 2)?.reshape((batch, tokens, heads * head_dim))?)?)
    }
}

/// The gated MLP, with a tap on the output of each projection.
#[derive(Debug)]
struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
    layer: usize,
}

impl Mlp {
    fn new(config: &DecoderConfig, layer: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let DecoderConfig { hidden, intermediate, mlp_bias, activation, .. } = *config;
        let linear = |p: Projection, inputs, outputs| candle_nn::linear_b(inputs, outputs, mlp_bias, vb.pp(p.name()));
        Ok(Self {
            gate: linear(Projection::Gate, hidden, intermediate)?,
            up: linear(Projection::Up, hidden, intermediate)?,
            down: linear(Projection::Down, intermediate, hidden)?,
            activation,
            layer,
        })
    }

    fn forward(&self, x: &Tensor, taps: &PassTaps) -> Result<Tensor> {
        let site = |projection| Site::new(self.layer, projection);
        let gate = taps.apply(site(Projection::Gate), self.gate.forward(x)?)?;
        let up = taps.apply(site(Projection::Up), self.up.forward(x)?)?;
        let y = (self.activation.forward(&gate)? * up)?;
        taps.apply(site(Projection::Down), self.down.forward(&y)?)
    }
}

/// The dtype in which a checkpoint computes on a device: f32 on CPUs, where 16-bit arithmetic is slower.
pub(crate) fn compute_dtype(device: &Device, stored: DType) -> DType {
    if device.is_cpu() { DType::F32 } else { stored }
}
