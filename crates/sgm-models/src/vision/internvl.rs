//! The vision tower of InternVL: a pre-norm vision transformer that scales what each layer adds, and a projector over
//! squares of patches.

use candle_core::{IndexOp, Tensor};
use candle_nn::{Conv2dConfig, LayerNorm, Module, VarBuilder};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::layers::activation::Activation;
use crate::layers::attend::attend;
use crate::layers::linear::Linear;
use crate::vision::feature_cache::FeatureCache;
use crate::vision::patch_convolution::PatchConvolution;

/// The configuration of the tower, read from `vision_config`.
#[derive(Debug, Clone, PartialEq)]
struct InternVlVisionConfig {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    image_size: usize,
    patch_size: usize,
    eps: f64,
    activation: Activation,
    attention_bias: bool,
    /// Whether queries and keys are normalised, over all heads together.
    qk_norm: bool,
    /// Whether the norms of a layer are root-mean-square norms.
    rms_norm: bool,
    positions: bool,
    /// Whether the states after the last layer are normalised.
    last_norm: bool,
}

impl InternVlVisionConfig {
    fn from_section(vision: &Section) -> Result<Self> {
        let model_type = vision.string("model_type")?.unwrap_or("internvl_vision");
        if model_type != "internvl_vision" {
            return Err(Error::Unsupported { what: "vision tower", got: model_type.to_owned(), supported: &["internvl_vision"] });
        }
        let config = Self {
            hidden: vision.positive("hidden_size", 1024)?,
            intermediate: vision.positive("intermediate_size", 4096)?,
            layers: vision.positive("num_hidden_layers", 24)?,
            heads: vision.positive("num_attention_heads", 16)?,
            image_size: square(vision, "image_size", 448)?,
            patch_size: square(vision, "patch_size", 14)?,
            eps: vision.f64("layer_norm_eps")?.unwrap_or(1e-6),
            activation: Activation::from_name(vision.string("hidden_act")?.unwrap_or("gelu"))?,
            attention_bias: vision.bool("attention_bias")?.unwrap_or(false),
            qk_norm: vision.bool("use_qk_norm")?.unwrap_or(false),
            rms_norm: match vision.string("norm_type")?.unwrap_or("layer_norm") {
                "layer_norm" => false,
                "rms_norm" => true,
                other => return Err(vision.error("norm_type", format!("expected layer_norm or rms_norm, found {other}"))),
            },
            positions: vision.bool("use_absolute_position_embeddings")?.unwrap_or(true),
            last_norm: !vision.bool("use_mean_pooling")?.unwrap_or(true),
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(vision.error("num_attention_heads", format!("{} does not divide hidden_size {}", config.heads, config.hidden)));
        }
        if config.image_size < config.patch_size {
            return Err(vision.error("image_size", format!("{} is smaller than patch_size {}", config.image_size, config.patch_size)));
        }
        if vision.positive("num_channels", 3)? != 3 {
            return Err(vision.error("num_channels", "only 3 channels are supported"));
        }
        Ok(config)
    }

    fn norm(&self, vb: &VarBuilder<'_>) -> Result<LayerNorm> {
        Ok(if self.rms_norm {
            LayerNorm::rms_norm(vb.get(self.hidden, "weight")?, self.eps)
        } else {
            candle_nn::layer_norm(self.hidden, self.eps, vb.clone())?
        })
    }
}

/// Reads a side in pixels, given as a number or as two equal ones.
fn square(vision: &Section, key: &str, default: usize) -> Result<usize> {
    let Some(serde_json::Value::Array(sides)) = vision.get(key) else { return vision.positive(key, default) };
    let side = match sides.as_slice() {
        [height, width] if height == width => height.as_u64().filter(|side| (1..1 << 31).contains(side)),
        _ => None,
    };
    side.and_then(|side| usize::try_from(side).ok()).ok_or_else(|| vision.error(key, "expected a number, or two equal ones"))
}

#[derive(Debug)]
pub(crate) struct InternVlVision {
    patches: PatchConvolution,
    class: Tensor,
    positions: Option<Tensor>,
    blocks: Vec<Block>,
    last_norm: Option<LayerNorm>,
    projector: Projector,
    /// The number of patches along a side.
    side: usize,
    /// The side, in patches, of the square that becomes one feature.
    scale: usize,
    /// The side of a tile in pixels.
    pub(crate) image_size: usize,
}

impl InternVlVision {
    /// Loads the tower up to the feature layer, and the projector to `hidden` features.
    pub(crate) fn load(config: &Section, hidden: usize, tower: &VarBuilder<'_>, projector: &VarBuilder<'_>) -> Result<Self> {
        let vision = InternVlVisionConfig::from_section(&config.section("vision_config")?)?;
        let (layers, last_norm) = feature_layer(config, vision.layers)?;
        let strategy = config.string("vision_feature_select_strategy")?.unwrap_or("default");
        if strategy != "default" {
            let reason = format!("expected default, found {strategy}: with the class token, the features are no grid");
            return Err(config.error("vision_feature_select_strategy", reason));
        }
        let side = vision.image_size / vision.patch_size;
        let scale = scale(config, side)?;
        let embeddings = tower.pp("embeddings");
        let stride = Conv2dConfig { stride: vision.patch_size, ..Default::default() };
        let positions = (1, 1 + side * side, vision.hidden);
        Ok(Self {
            patches: candle_nn::conv2d(3, vision.hidden, vision.patch_size, stride, embeddings.pp("patch_embeddings.projection"))?.into(),
            class: embeddings.get((1, 1, vision.hidden), "cls_token")?,
            positions: if vision.positions { Some(embeddings.get(positions, "position_embeddings")?) } else { None },
            blocks: (0..layers).map(|i| Block::new(&vision, &tower.pp("encoder.layer").pp(i))).collect::<Result<_>>()?,
            last_norm: if last_norm && vision.last_norm {
                Some(candle_nn::layer_norm(vision.hidden, vision.eps, tower.pp("layernorm"))?)
            } else {
                None
            },
            projector: Projector::new(config, scale * scale * vision.hidden, hidden, projector)?,
            side,
            scale,
            image_size: vision.image_size,
        })
    }

    /// The number of features of a tile.
    pub(crate) fn per_tile(&self) -> usize {
        (self.side / self.scale).pow(2)
    }

    /// Computes the features `[tiles * features, hidden]` of pixels `[tiles, 3, size, size]`.
    pub(crate) fn forward(&self, pixels: &Tensor, cache: &FeatureCache) -> Result<Tensor> {
        let size = self.image_size;
        if !matches!(*pixels.dims(), [tiles, 3, height, width] if tiles > 0 && height == size && width == size) {
            let reason = format!("pixel_values are {:?}, the vision tower takes [tiles, 3, {size}, {size}]", pixels.dims());
            return Err(Error::Inputs { reason });
        }
        cache.of_each(pixels, |tile| self.tile(tile))
    }

    /// Computes the features `[features, hidden]` of a tile `[1, 3, size, size]`.
    fn tile(&self, pixels: &Tensor) -> Result<Tensor> {
        let pixels = pixels.to_dtype(self.class.dtype())?;
        let patches = self.patches.forward(&pixels)?.flatten_from(2)?.transpose(1, 2)?;
        let mut hidden = Tensor::cat(&[&self.class, &patches], 1)?;
        if let Some(positions) = &self.positions {
            hidden = (hidden + positions)?;
        }
        for block in &self.blocks {
            hidden = block.forward(&hidden)?;
        }
        if let Some(norm) = &self.last_norm {
            hidden = norm.forward(&hidden)?;
        }
        let (scale, squares, width) = (self.scale, self.side / self.scale, hidden.dim(2)?);
        let patches = hidden.i((0, 1..))?.reshape((squares, scale, squares, scale * width))?;
        self.projector.forward(&patches.transpose(1, 2)?.reshape((squares * squares, scale * scale * width))?)
    }
}

/// The number of layers before the features, and whether the norm after the last one applies to them, as it does to
/// layer -1 alone.
fn feature_layer(config: &Section, layers: usize) -> Result<(usize, bool)> {
    const KEY: &str = "vision_feature_layer";
    let given = config.i64(KEY)?.unwrap_or(-1);
    let from_start = if given < 0 { i64::try_from(layers).unwrap_or(i64::MAX) + 1 + given } else { given };
    let layer = usize::try_from(from_start).ok().filter(|layer| *layer <= layers);
    let layer = layer.ok_or_else(|| config.error(KEY, format!("{given} is not a hidden state of a tower with {layers} layers")))?;
    Ok((layer, given == -1))
}

/// The side of a square of patches, from `downsample_ratio`.
fn scale(config: &Section, side: usize) -> Result<usize> {
    const KEY: &str = "downsample_ratio";
    let ratio = config.f64(KEY)?.unwrap_or(0.5);
    (1..=side).find(|scale| ratio * *scale as f64 == 1.0 && side.is_multiple_of(*scale)).ok_or_else(|| {
        let reason = format!("{ratio} does not make whole squares of {side} by {side} patches");
        config.error(KEY, reason)
    })
}

#[derive(Debug)]
struct Block {
    norm_before: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<LayerNorm>,
    k_norm: Option<LayerNorm>,
    out: Linear,
    heads: usize,
    /// A factor on each channel of what attention adds.
    attention_scale: Tensor,
    norm_after: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    /// A factor on each channel of what the MLP adds.
    mlp_scale: Tensor,
}

impl Block {
    fn new(config: &InternVlVisionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let InternVlVisionConfig { hidden, intermediate, heads, activation, attention_bias, .. } = *config;
        let attention = vb.pp("attention");
        let square = |name: &str| Linear::load(&attention.pp(name), hidden, hidden, attention_bias);
        let qk_norm = |name: &str| -> Result<Option<LayerNorm>> {
            let weight = || attention.pp(name).get(hidden, "weight");
            Ok(if config.qk_norm { Some(LayerNorm::rms_norm(weight()?, 1e-6)) } else { None })
        };
        Ok(Self {
            norm_before: config.norm(&vb.pp("layernorm_before"))?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            q_norm: qk_norm("q_norm")?,
            k_norm: qk_norm("k_norm")?,
            out: Linear::load(&attention.pp("projection_layer"), hidden, hidden, true)?,
            heads,
            attention_scale: vb.get(hidden, "lambda_1")?,
            norm_after: config.norm(&vb.pp("layernorm_after"))?,
            fc1: Linear::load(&vb.pp("mlp.fc1"), hidden, intermediate, true)?,
            fc2: Linear::load(&vb.pp("mlp.fc2"), intermediate, hidden, true)?,
            activation,
            mlp_scale: vb.get(hidden, "lambda_2")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (tiles, positions, hidden) = x.dims3()?;
        let head_dim = hidden / self.heads;
        let normed = self.norm_before.forward(x)?;
        let split = |y: Tensor, norm: &Option<LayerNorm>| {
            let y = norm.as_ref().map_or(Ok(y.clone()), |norm| norm.forward(&y))?;
            y.reshape((tiles, positions, self.heads, head_dim))?.transpose(1, 2)?.contiguous()
        };
        let q = (split(self.q.forward(&normed)?, &self.q_norm)? * (head_dim as f64).powf(-0.5))?;
        let k = split(self.k.forward(&normed)?, &self.k_norm)?;
        let v = split(self.v.forward(&normed)?, &None)?;
        let attended = self.out.forward(&attend(&q, &k, &v, None, None)?)?;
        let x = (x + attended.broadcast_mul(&self.attention_scale)?)?;
        let y = self.fc2.forward(&self.activation.forward(&self.fc1.forward(&self.norm_after.forward(&x)?)?)?)?;
        Ok((x + y.broadcast_mul(&self.mlp_scale)?)?)
    }
}

/// The projector from squares of patches to token embeddings.
#[derive(Debug)]
struct Projector {
    norm: LayerNorm,
    first: Linear,
    activation: Activation,
    second: Linear,
}

impl Projector {
    fn new(config: &Section, inputs: usize, hidden: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            norm: candle_nn::layer_norm(inputs, 1e-5, vb.pp("layer_norm"))?,
            first: Linear::load(&vb.pp("linear_1"), inputs, hidden, true)?,
            activation: Activation::from_name(config.string("projector_hidden_act")?.unwrap_or("gelu"))?,
            second: Linear::load(&vb.pp("linear_2"), hidden, hidden, true)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.second.forward(&self.activation.forward(&self.first.forward(&self.norm.forward(x)?)?)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused() {
        let section = |json: &str| Section::parse("config.json", json.as_bytes()).unwrap();
        for json in [
            r#"{"num_attention_heads": 7}"#,
            r#"{"image_size": [448, 224]}"#,
            r#"{"image_size": [448]}"#,
            r#"{"patch_size": [0, 0]}"#,
            r#"{"image_size": 7}"#,
            r#"{"norm_type": "batch_norm"}"#,
            r#"{"num_channels": 1}"#,
        ] {
            assert!(matches!(InternVlVisionConfig::from_section(&section(json)), Err(Error::Config { .. })), "{json}");
        }
        let config = InternVlVisionConfig::from_section(&section(r#"{"image_size": [448, 448], "patch_size": 14}"#)).unwrap();
        assert_eq!((config.image_size, config.patch_size), (448, 14));
        for json in [r#"{"downsample_ratio": 0}"#, r#"{"downsample_ratio": 0.3}"#, r#"{"downsample_ratio": 0.2}"#] {
            assert!(matches!(scale(&section(json), 32), Err(Error::Config { .. })), "{json}");
        }
        assert_eq!(scale(&section("{}"), 32).unwrap(), 2);
    }

    #[test]
    fn the_last_norm_is_for_layer_minus_one() {
        let layer =
            |n: i64| feature_layer(&Section::parse("config.json", format!(r#"{{"vision_feature_layer": {n}}}"#).as_bytes()).unwrap(), 3);
        assert_eq!(layer(-1).unwrap(), (3, true));
        assert_eq!(layer(3).unwrap(), (3, false));
        assert_eq!(layer(-4).unwrap(), (0, false));
        assert!(layer(4).is_err() && layer(-5).is_err());
    }
}
