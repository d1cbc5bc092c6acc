//! The vision towers of CLIP and SigLIP: pre-norm vision transformers with hidden states of every layer.
//!
//! candle-transformers has both, but CLIP's with a fixed epsilon and activation, and SigLIP's without the intermediate
//! states that LLaVA reads.

use candle_core::{D, IndexOp, Tensor};
use candle_nn::{Conv2dConfig, LayerNorm, Module, VarBuilder};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::layers::activation::Activation;
use crate::layers::attend::attend;
use crate::layers::linear::Linear;
use crate::vision::patch_convolution::PatchConvolution;

/// The defaults of transformers' configuration classes.
pub(crate) struct Defaults {
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) patch_size: usize,
    pub(crate) eps: f64,
    pub(crate) activation: &'static str,
}

/// The configuration of a vision tower, read from `vision_config`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VisionConfig {
    pub(crate) hidden: usize,
    intermediate: usize,
    pub(crate) layers: usize,
    heads: usize,
    channels: usize,
    pub(crate) image_size: usize,
    pub(crate) patch_size: usize,
    pub(crate) eps: f64,
    activation: Activation,
    clip: bool,
}

impl VisionConfig {
    /// Reads a vision configuration. `default_type` stands in for a missing `model_type`.
    pub(crate) fn from_section(vision: &Section, default_type: &str) -> Result<Self> {
        let model_type = vision.string("model_type")?.unwrap_or(default_type);
        let clip = match model_type {
            "clip_vision_model" => true,
            "siglip_vision_model" => false,
            _ => {
                let supported = &["clip_vision_model", "siglip_vision_model"];
                return Err(Error::Unsupported { what: "vision tower", got: model_type.to_owned(), supported });
            }
        };
        let (patch_size, eps, activation) = if clip { (32, 1e-5, "quick_gelu") } else { (16, 1e-6, "gelu_pytorch_tanh") };
        let config = Self::with_defaults(vision, &Defaults { hidden: 768, heads: 12, patch_size, eps, activation })?;
        Ok(Self { clip, ..config })
    }

    /// Reads the configuration of a tower like SigLIP's, whatever its `model_type`.
    pub(crate) fn with_defaults(vision: &Section, defaults: &Defaults) -> Result<Self> {
        let config = Self {
            hidden: vision.positive("hidden_size", defaults.hidden)?,
            intermediate: vision.positive("intermediate_size", 3072)?,
            layers: vision.positive("num_hidden_layers", 12)?,
            heads: vision.positive("num_attention_heads", defaults.heads)?,
            channels: vision.positive("num_channels", 3)?,
            image_size: vision.positive("image_size", 224)?,
            patch_size: vision.positive("patch_size", defaults.patch_size)?,
            eps: vision.f64("layer_norm_eps")?.unwrap_or(defaults.eps),
            activation: Activation::from_name(vision.string("hidden_act")?.unwrap_or(defaults.activation))?,
            clip: false,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(vision.error("num_attention_heads", format!("{} does not divide hidden_size {}", config.heads, config.hidden)));
        }
        if config.channels != 3 {
            return Err(vision.error("num_channels", format!("{} channels are not supported, only 3", config.channels)));
        }
        if config.image_size < config.patch_size {
            return Err(vision.error("image_size", format!("{} is smaller than patch_size {}", config.image_size, config.patch_size)));
        }
        Ok(config)
    }

    /// The number of patches of one image.
    pub(crate) fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Whether a class token precedes the patches.
    pub(crate) fn has_class_token(&self) -> bool {
        self.clip
    }
}

#[derive(Debug)]
pub(crate) struct VisionTower {
    patches: PatchConvolution,
    class: Option<Tensor>,
    positions: Tensor,
    pre_norm: Option<LayerNorm>,
    blocks: Vec<Block>,
    image_size: usize,
}

impl VisionTower {
    /// Loads the first `layers` layers of the tower. Later layers, whose states are not used, are not loaded.
    pub(crate) fn new(config: &VisionConfig, layers: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let hidden = config.hidden;
        let embeddings = vb.pp("embeddings");
        let stride = Conv2dConfig { stride: config.patch_size, ..Default::default() };
        let patch_vb = embeddings.pp("patch_embedding");
        let patches = if config.clip {
            candle_nn::conv2d_no_bias(config.channels, hidden, config.patch_size, stride, patch_vb)?
        } else {
            candle_nn::conv2d(config.channels, hidden, config.patch_size, stride, patch_vb)?
        };
        let positions = config.patches() + usize::from(config.clip);
        Ok(Self {
            patches: patches.into(),
            class: if config.clip { Some(embeddings.get(hidden, "class_embedding")?) } else { None },
            positions: embeddings.pp("position_embedding").get((positions, hidden), "weight")?,
            // The checkpoints have this spelling.
            pre_norm: if config.clip { Some(candle_nn::layer_norm(hidden, config.eps, vb.pp("pre_layrnorm"))?) } else { None },
            blocks: (0..layers).map(|i| Block::new(config, &vb.pp("encoder.layers").pp(i))).collect::<Result<_>>()?,
            image_size: config.image_size,
        })
    }

    /// Computes the hidden states `[images, positions, hidden]` of pixels `[images, 3, size, size]` after each number
    /// of layers in `after`, in that order; 0 is the input of the first layer.
    pub(crate) fn hidden_states(&self, pixels: &Tensor, after: &[usize]) -> Result<Vec<Tensor>> {
        let (images, channels, height, width) = pixels.dims4()?;
        if channels != 3 || height != self.image_size || width != self.image_size {
            let reason = format!("pixel_values are {:?}, the vision tower takes [images, 3, {1}, {1}]", pixels.dims(), self.image_size);
            return Err(Error::Inputs { reason });
        }
        let mut hidden = self.patches.forward(pixels)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        if let Some(class) = &self.class {
            let class = class.expand((images, 1, class.dim(0)?))?;
            hidden = Tensor::cat(&[&class, &hidden], 1)?;
        }
        hidden = hidden.broadcast_add(&self.positions)?;
        if let Some(norm) = &self.pre_norm {
            hidden = norm.forward(&hidden)?;
        }
        let mut states = vec![hidden];
        for block in &self.blocks {
            let next = block.forward(states.last().ok_or_else(|| Error::Inputs { reason: "no image".to_owned() })?, None)?;
            states.push(next);
        }
        after
            .iter()
            .map(|i| {
                states.get(*i).cloned().ok_or_else(|| Error::Inputs { reason: format!("the vision tower was loaded without layer {i}") })
            })
            .collect()
    }
}

/// A layer of the transformer.
#[derive(Debug)]
pub(crate) struct Block {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Block {
    pub(crate) fn new(config: &VisionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let VisionConfig { hidden, intermediate, heads, eps, activation, .. } = *config;
        let attention = vb.pp("self_attn");
        let square = |name: &str| Linear::load(&attention.pp(name), hidden, hidden, true);
        Ok(Self {
            norm1: candle_nn::layer_norm(hidden, eps, vb.pp("layer_norm1"))?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            out: square("out_proj")?,
            heads,
            norm2: candle_nn::layer_norm(hidden, eps, vb.pp("layer_norm2"))?,
            fc1: Linear::load(&vb.pp("mlp.fc1"), hidden, intermediate, true)?,
            fc2: Linear::load(&vb.pp("mlp.fc2"), intermediate, hidden, true)?,
            activation,
        })
    }

    /// Runs the layer on hidden states `[images, positions, hidden]`; `mask` is added to the attention scores `[images,
    /// heads, positions, positions]`.
    pub(crate) fn forward(&self, x: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (images, positions, hidden) = x.dims3()?;
        let head_dim = hidden / self.heads;
        let normed = self.norm1.forward(x)?;
        let split = |y: Tensor| y.reshape((images, positions, self.heads, head_dim))?.transpose(1, 2)?.contiguous();
        let q = (split(self.q.forward(&normed)?)? * (head_dim as f64).powf(-0.5))?;
        let k = split(self.k.forward(&normed)?)?;
        let v = split(self.v.forward(&normed)?)?;
        let x = (x + self.out.forward(&attend(&q, &k, &v, mask, None)?)?)?;
        let y = self.activation.forward(&self.fc1.forward(&self.norm2.forward(&x)?)?)?;
        Ok((x + self.fc2.forward(&y)?)?)
    }
}

/// Concatenates the states of several layers along the feature dimension, without the class token if `drop_first`.
pub(crate) fn select_features(states: &[Tensor], drop_first: bool) -> Result<Tensor> {
    let states =
        states.iter().map(|s| if drop_first { s.i((.., 1.., ..)) } else { Ok(s.clone()) }).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&states, D::Minus1)?.contiguous()?)
}
