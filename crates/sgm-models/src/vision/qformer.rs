//! The Q-Former of InstructBLIP: learned queries that read an image and an instruction and become a few tokens.

use candle_core::{DType, Tensor};
use candle_nn::{LayerNorm, Module, VarBuilder};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::layers::activation::Activation;
use crate::layers::attend::attend;
use crate::layers::linear::Linear;

/// The configuration of the Q-Former, read from `qformer_config`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QFormerConfig {
    pub(crate) hidden: usize,
    intermediate: usize,
    pub(crate) layers: usize,
    heads: usize,
    vocabulary: usize,
    positions: usize,
    eps: f64,
    activation: Activation,
    /// The distance between layers with cross-attention to the image, counted from the first layer.
    cross_interval: usize,
    queries: usize,
}

impl QFormerConfig {
    pub(crate) fn from_section(qformer: &Section, queries: usize) -> Result<Self> {
        let config = Self {
            hidden: qformer.positive("hidden_size", 768)?,
            intermediate: qformer.positive("intermediate_size", 3072)?,
            layers: qformer.positive("num_hidden_layers", 12)?,
            heads: qformer.positive("num_attention_heads", 12)?,
            vocabulary: qformer.positive("vocab_size", 30_522)?,
            positions: qformer.positive("max_position_embeddings", 512)?,
            eps: qformer.f64("layer_norm_eps")?.unwrap_or(1e-12),
            activation: Activation::from_name(qformer.string("hidden_act")?.unwrap_or("gelu"))?,
            cross_interval: qformer.positive("cross_attention_frequency", 2)?,
            queries,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(qformer.error("num_attention_heads", format!("{} does not divide hidden_size {}", config.heads, config.hidden)));
        }
        Ok(config)
    }
}

#[derive(Debug)]
pub(crate) struct QFormer {
    /// `[1, queries, hidden]`
    queries: Tensor,
    words: Tensor,
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl QFormer {
    /// Loads the Q-Former from `vb`, which holds `query_tokens` and `qformer`; `image_hidden` is the width of image
    /// states.
    pub(crate) fn new(config: &QFormerConfig, image_hidden: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let (embeddings, layers) = (vb.pp("qformer.embeddings"), vb.pp("qformer.encoder.layer"));
        let layer = |i: usize| {
            let image_hidden = i.is_multiple_of(config.cross_interval).then_some(image_hidden);
            Layer::new(config, image_hidden, i + 1 == config.layers, &layers.pp(i))
        };
        Ok(Self {
            queries: vb.get((1, config.queries, config.hidden), "query_tokens")?,
            words: embeddings.get((config.vocabulary, config.hidden), "word_embeddings.weight")?,
            positions: embeddings.get((config.positions, config.hidden), "position_embeddings.weight")?,
            norm: candle_nn::layer_norm(config.hidden, config.eps, embeddings.pp("layernorm"))?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
        })
    }

    /// Runs the queries over image states `[images, states, image_hidden]` and the instruction of each image, token ids
    /// `[images, tokens]` with a mask that is 0 for padding; returns `[images, queries, hidden]`.
    pub(crate) fn forward(&self, image: &Tensor, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let images = image.dim(0)?;
        let (rows, tokens) = ids.dims2()?;
        let longest = self.positions.dim(0)?;
        if rows != images || mask.dims() != ids.dims() || tokens > longest {
            let reason = format!(
                "qformer_input_ids are {:?}, their mask {:?}; expected those of {images} instructions of at most {longest} tokens",
                ids.dims(),
                mask.dims()
            );
            return Err(Error::Inputs { reason });
        }
        let queries = self.queries.broadcast_as((images, self.queries.dim(1)?, self.queries.dim(2)?))?;
        let words = self.words.index_select(&ids.flatten_all()?.to_device(self.words.device())?, 0)?.reshape((images, tokens, ()))?;
        let words = words.broadcast_add(&self.positions.narrow(0, 0, tokens)?)?;
        let mut x = self.norm.forward(&Tensor::cat(&[&queries, &words], 1)?)?;
        let mask = self.attention_mask(mask)?;
        for layer in &self.layers {
            x = layer.forward(&x, self.queries.dim(1)?, image, &mask)?;
        }
        Ok(x.narrow(1, 0, self.queries.dim(1)?)?.contiguous()?)
    }

    /// The additive attention mask `[images, 1, 1, queries + tokens]`, which hides padding.
    fn attention_mask(&self, mask: &Tensor) -> Result<Tensor> {
        let (images, tokens) = mask.dims2()?;
        let queries = self.queries.dim(1)?;
        let hidden = |value: &f32| if *value == 0.0 { f32::NEG_INFINITY } else { 0.0 };
        let rows = mask.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let scores = rows.iter().flat_map(|row| std::iter::repeat_n(0.0, queries).chain(row.iter().map(hidden)));
        let scores = Tensor::from_iter(scores, self.queries.device())?.reshape((images, 1, 1, queries + tokens))?;
        Ok(scores.to_dtype(self.queries.dtype())?)
    }
}

/// A layer: self-attention of queries and words, in some layers cross-attention of the queries to the image, then
/// separate MLPs for queries and words. Norms follow the residual sums, as in BERT.
#[derive(Debug)]
struct Layer {
    attention: Attention,
    cross: Option<Attention>,
    queries: Mlp,
    /// `None` in the last layer, whose output for words is not used.
    words: Option<Mlp>,
}

impl Layer {
    fn new(config: &QFormerConfig, image_hidden: Option<usize>, last: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let mlp = |suffix: &str| Mlp::new(config, &vb.pp(format!("intermediate{suffix}")), &vb.pp(format!("output{suffix}")));
        Ok(Self {
            attention: Attention::new(config, config.hidden, &vb.pp("attention"))?,
            cross: image_hidden.map(|hidden| Attention::new(config, hidden, &vb.pp("crossattention"))).transpose()?,
            queries: mlp("_query")?,
            words: if last { None } else { Some(mlp("")?) },
        })
    }

    /// Returns `[images, queries, hidden]` in the last layer, and otherwise queries followed by words.
    fn forward(&self, x: &Tensor, queries: usize, image: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let x = self.attention.forward(x, x, Some(mask))?;
        let mut read = x.narrow(1, 0, queries)?.contiguous()?;
        if let Some(cross) = &self.cross {
            read = cross.forward(&read, image, None)?;
        }
        let read = self.queries.forward(&read)?;
        match &self.words {
            None => Ok(read),
            Some(mlp) => {
                let words = mlp.forward(&x.narrow(1, queries, x.dim(1)? - queries)?.contiguous()?)?;
                Ok(Tensor::cat(&[&read, &words], 1)?)
            }
        }
    }
}

/// Attention with residual sum and norm.
#[derive(Debug)]
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    heads: usize,
    dense: Linear,
    norm: LayerNorm,
}

impl Attention {
    /// `source` is the width of the states that are attended to.
    fn new(config: &QFormerConfig, source: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let linear = |name: &str, inputs: usize| Linear::load(&vb.pp(name), inputs, config.hidden, true);
        Ok(Self {
            query: linear("attention.query", config.hidden)?,
            key: linear("attention.key", source)?,
            value: linear("attention.value", source)?,
            heads: config.heads,
            dense: linear("output.dense", config.hidden)?,
            norm: candle_nn::layer_norm(config.hidden, config.eps, vb.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, source: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let split = |y: Tensor| -> Result<Tensor> {
            let (batch, n, hidden) = y.dims3()?;
            Ok(y.reshape((batch, n, self.heads, hidden / self.heads))?.transpose(1, 2)?.contiguous()?)
        };
        let q = split(self.query.forward(x)?)?;
        let q = (&q * (q.dim(3)? as f64).powf(-0.5))?;
        let attended = attend(&q, &split(self.key.forward(source)?)?, &split(self.value.forward(source)?)?, mask, None)?;
        Ok(self.norm.forward(&(self.dense.forward(&attended)? + x)?)?)
    }
}

#[derive(Debug)]
struct Mlp {
    first: Linear,
    activation: Activation,
    second: Linear,
    norm: LayerNorm,
}

impl Mlp {
    fn new(config: &QFormerConfig, first: &VarBuilder<'_>, second: &VarBuilder<'_>) -> Result<Self> {
        let QFormerConfig { hidden, intermediate, eps, activation, .. } = *config;
        Ok(Self {
            first: Linear::load(&first.pp("dense"), hidden, intermediate, true)?,
            activation,
            second: Linear::load(&second.pp("dense"), intermediate, hidden, true)?,
            norm: candle_nn::layer_norm(hidden, eps, second.pp("LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.second.forward(&self.activation.forward(&self.first.forward(x)?)?)?;
        Ok(self.norm.forward(&(y + x)?)?)
    }
}
