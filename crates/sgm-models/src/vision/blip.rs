//! The vision tower of BLIP: a pre-norm vision transformer with query, key and value in one matrix.

use candle_core::Tensor;
use candle_nn::{Conv2dConfig, LayerNorm, Module, VarBuilder};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::layers::activation::Activation;
use crate::layers::attend::attend;
use crate::layers::linear::Linear;
use crate::vision::patch_convolution::PatchConvolution;

/// The configuration of the tower, read from `vision_config`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BlipVisionConfig {
    pub(crate) hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    pub(crate) image_size: usize,
    patch_size: usize,
    eps: f64,
    activation: Activation,
    qkv_bias: bool,
}

impl BlipVisionConfig {
    pub(crate) fn from_section(vision: &Section) -> Result<Self> {
        let config = Self {
            hidden: vision.positive("hidden_size", 1408)?,
            intermediate: vision.positive("intermediate_size", 6144)?,
            layers: vision.positive("num_hidden_layers", 39)?,
            heads: vision.positive("num_attention_heads", 16)?,
            image_size: vision.positive("image_size", 224)?,
            patch_size: vision.positive("patch_size", 14)?,
            eps: vision.f64("layer_norm_eps")?.unwrap_or(1e-6),
            activation: Activation::from_name(vision.string("hidden_act")?.unwrap_or("gelu"))?,
            qkv_bias: vision.bool("qkv_bias")?.unwrap_or(true),
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(vision.error("num_attention_heads", format!("{} does not divide hidden_size {}", config.heads, config.hidden)));
        }
        if config.image_size < config.patch_size {
            return Err(vision.error("image_size", format!("{} is smaller than patch_size {}", config.image_size, config.patch_size)));
        }
        Ok(config)
    }
}

#[derive(Debug)]
pub(crate) struct BlipVision {
    patches: PatchConvolution,
    class: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    post_norm: LayerNorm,
    image_size: usize,
}

impl BlipVision {
    pub(crate) fn new(config: &BlipVisionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let BlipVisionConfig { hidden, image_size, patch_size, .. } = *config;
        let embeddings = vb.pp("embeddings");
        let stride = Conv2dConfig { stride: patch_size, ..Default::default() };
        let layers = vb.pp("encoder.layers");
        Ok(Self {
            patches: candle_nn::conv2d(3, hidden, patch_size, stride, embeddings.pp("patch_embedding"))?.into(),
            class: embeddings.get((1, 1, hidden), "class_embedding")?,
            positions: embeddings.get((1, (image_size / patch_size).pow(2) + 1, hidden), "position_embedding")?,
            blocks: (0..config.layers).map(|i| Block::new(config, &layers.pp(i))).collect::<Result<_>>()?,
            post_norm: candle_nn::layer_norm(hidden, config.eps, vb.pp("post_layernorm"))?,
            image_size,
        })
    }

    /// Computes the states `[images, 1 + patches, hidden]`, class token first, of pixels `[images, 3, size, size]`.
    pub(crate) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let &[images, 3, height, width] = pixels.dims() else {
            return Err(Error::Inputs { reason: format!("pixels are {:?}, expected [images, 3, height, width]", pixels.dims()) });
        };
        if (height, width) != (self.image_size, self.image_size) {
            return Err(Error::Inputs { reason: format!("pixels are {height}x{width}, the vision tower takes {0}x{0}", self.image_size) });
        }
        let patches = self.patches.forward(&pixels.to_dtype(self.class.dtype())?)?.flatten_from(2)?.transpose(1, 2)?;
        let class = self.class.broadcast_as((images, 1, self.class.dim(2)?))?;
        let mut x = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(self.post_norm.forward(&x)?)
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    projection: Linear,
    heads: usize,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Block {
    fn new(config: &BlipVisionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let BlipVisionConfig { hidden, intermediate, heads, eps, activation, qkv_bias, .. } = *config;
        Ok(Self {
            norm1: candle_nn::layer_norm(hidden, eps, vb.pp("layer_norm1"))?,
            qkv: Linear::load(&vb.pp("self_attn.qkv"), hidden, 3 * hidden, qkv_bias)?,
            projection: Linear::load(&vb.pp("self_attn.projection"), hidden, hidden, true)?,
            heads,
            norm2: candle_nn::layer_norm(hidden, eps, vb.pp("layer_norm2"))?,
            fc1: Linear::load(&vb.pp("mlp.fc1"), hidden, intermediate, true)?,
            fc2: Linear::load(&vb.pp("mlp.fc2"), intermediate, hidden, true)?,
            activation,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (images, positions, hidden) = x.dims3()?;
        let head_dim = hidden / self.heads;
        let qkv = self.qkv.forward(&self.norm1.forward(x)?)?.reshape((images, positions, 3, self.heads, head_dim))?;
        // [images, heads, positions, head_dim]
        let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
        let q = (part(0)? * (head_dim as f64).powf(-0.5))?;
        let x = (x + self.projection.forward(&attend(&q, &part(1)?, &part(2)?, None, None)?)?)?;
        let y = self.activation.forward(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        Ok((x + self.fc2.forward(&y)?)?)
    }
}
