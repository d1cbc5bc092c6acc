//! The vision tower of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a vision transformer for images of any size, with rotary
//! positions in rows and columns.
//!
//! The generations differ in norms and MLPs. Qwen2.5-VL attends within windows in most blocks; Qwen3-VL adds learned
//! positions and passes intermediate states to the decoder ("deepstack").

use candle_core::{DType, Tensor};
use candle_nn::{LayerNorm, Module};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::layers::activation::Activation;
use crate::layers::linear::{Linear, Weights};
use crate::vision::feature_cache::FeatureCache;
use crate::vision::qwen_grid::{Grid, LearnedPositions, PatchLayout, inverse_order, reorder_rows};
use crate::vision::segment_attention::{SCORES, attention};

/// The generations of Qwen-VL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QwenGeneration {
    Qwen2,
    Qwen2_5,
    Qwen3,
}

/// The epsilon of all norms, which no configuration contains.
const EPS: f64 = 1e-6;

/// The configuration of the tower, read from `vision_config`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct QwenVisionConfig {
    generation: QwenGeneration,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    /// The width of the features, equal to that of the decoder.
    pub(crate) output: usize,
    channels: usize,
    /// The number of frames of a patch; an image is repeated for each frame.
    frames: usize,
    patch: usize,
    /// The side of a token in patches.
    pub(crate) merge: usize,
    /// The side of an attention window in tokens, and the blocks that attend to the whole image.
    window: Option<(usize, Vec<usize>)>,
    /// The number of learned positions, a square number.
    positions: Option<usize>,
    /// The blocks whose outputs the decoder reads too.
    deepstack: Vec<usize>,
    activation: Activation,
    theta: f64,
}

impl QwenVisionConfig {
    pub(crate) fn from_section(vision: &Section, generation: QwenGeneration) -> Result<Self> {
        let positive = |key: &str, default: usize| vision.positive(key, default);
        let (hidden, intermediate, output) = match generation {
            QwenGeneration::Qwen2 => {
                let hidden = positive("embed_dim", 1280)?;
                let intermediate = hidden as f64 * vision.f64("mlp_ratio")?.unwrap_or(4.0);
                if !(1.0..1e9).contains(&intermediate) {
                    return Err(vision.error("mlp_ratio", format!("makes {intermediate} of embed_dim {hidden}")));
                }
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked; truncated as in the reference")]
                let intermediate = intermediate as usize;
                (hidden, intermediate, positive("hidden_size", 3584)?)
            }
            QwenGeneration::Qwen2_5 => {
                (positive("hidden_size", 3584)?, positive("intermediate_size", 3420)?, positive("out_hidden_size", 3584)?)
            }
            QwenGeneration::Qwen3 => {
                (positive("hidden_size", 1152)?, positive("intermediate_size", 4304)?, positive("out_hidden_size", 3584)?)
            }
        };
        let (layers, patch, activation) = match generation {
            QwenGeneration::Qwen2 => (32, 14, "quick_gelu"),
            QwenGeneration::Qwen2_5 => (32, 14, "silu"),
            QwenGeneration::Qwen3 => (27, 16, "gelu_pytorch_tanh"),
        };
        let heads = positive("num_heads", 16)?;
        // Half of a head rotates with the row, the other half with the column, both in pairs.
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(4) {
            return Err(vision.error("num_heads", format!("{heads} heads do not divide {hidden} channels into multiples of 4")));
        }
        let (patch, merge) = (positive("patch_size", patch)?, positive("spatial_merge_size", 2)?);
        if merge.checked_mul(merge).and_then(|patches| patches.checked_mul(hidden)).is_none() {
            return Err(vision.error("spatial_merge_size", format!("{merge} is too large")));
        }
        let window = if generation == QwenGeneration::Qwen2_5 {
            let side = positive("window_size", 112)? / merge / patch;
            if side == 0 {
                return Err(vision.error("window_size", format!("is smaller than the {merge} patches of {patch} pixels of a token")));
            }
            Some((side, blocks(vision, "fullatt_block_indexes", &[7, 15, 23, 31])?))
        } else {
            None
        };
        let theta = vision.section("rope_parameters")?.f64("rope_theta")?.unwrap_or(10_000.0);
        if theta <= 0.0 {
            return Err(vision.error("rope_parameters.rope_theta", "must be positive"));
        }
        let learned = generation == QwenGeneration::Qwen3;
        Ok(Self {
            generation,
            hidden,
            intermediate,
            layers: positive("depth", layers)?,
            heads,
            output,
            channels: positive("in_channels", 3)?,
            frames: positive("temporal_patch_size", 2)?,
            patch,
            merge,
            window,
            positions: if learned { Some(positive("num_position_embeddings", 2304)?) } else { None },
            deepstack: if learned { blocks(vision, "deepstack_visual_indexes", &[8, 16, 24])? } else { Vec::new() },
            activation: Activation::from_name(vision.string("hidden_act")?.unwrap_or(activation))?,
            theta,
        })
    }

    fn norm(&self, weights: &Weights<'_>, name: &str, size: usize) -> Result<LayerNorm> {
        let weights = weights.pp(name);
        let weight = weights.get(size, "weight")?;
        Ok(match self.generation {
            QwenGeneration::Qwen2_5 => LayerNorm::rms_norm(weight, EPS),
            _ => LayerNorm::new(weight, weights.get(size, "bias")?, EPS),
        })
    }
}

/// Reads a list of block indices.
fn blocks(vision: &Section, key: &str, default: &[usize]) -> Result<Vec<usize>> {
    if vision.get(key).is_none() {
        return Ok(default.to_vec());
    }
    Ok(vision.ids(key)?.into_iter().map(|block| block as usize).collect())
}

/// The features of images, one row per image token.
#[derive(Debug)]
pub(crate) struct VisionFeatures {
    /// `[tokens, output]`.
    pub(crate) tokens: Tensor,
    /// The features of intermediate blocks, `[tokens, output]` each, for the first layers of the decoder.
    pub(crate) deepstack: Vec<Tensor>,
}

#[derive(Debug)]
pub(crate) struct QwenVision {
    patches: candle_nn::Linear,
    positions: Option<LearnedPositions>,
    blocks: Vec<Block>,
    merger: Merger,
    deepstack: Vec<(usize, Merger)>,
    window: Option<(usize, Vec<usize>)>,
    merge: usize,
    /// Radians per row or column.
    frequencies: Vec<f32>,
}

impl QwenVision {
    pub(crate) fn new(config: &QwenVisionConfig, weights: &Weights<'_>) -> Result<Self> {
        let QwenVisionConfig { generation, hidden, frames, patch, merge, .. } = *config;
        let learned = generation == QwenGeneration::Qwen3;
        let proj = weights.pp("patch_embed.proj");
        let kernel = proj.get((hidden, config.channels, frames, patch, patch), "weight")?.flatten_from(1)?;
        let bias = if learned { Some(proj.get(hidden, "bias")?) } else { None };
        let names = if learned { ["norm", "linear_fc1", "linear_fc2"] } else { ["ln_q", "mlp.0", "mlp.2"] };
        let deepstack = |(i, block): (usize, &usize)| {
            let merger = Merger::new(config, &weights.pp("deepstack_merger_list").pp(i), names, hidden * merge * merge)?;
            Ok((*block, merger))
        };
        let rotated = hidden / config.heads / 2;
        #[allow(clippy::cast_possible_truncation, reason = "frequencies are f32 in the reference")]
        let frequency = |pair: usize| config.theta.powf(-((2 * pair) as f64) / rotated as f64) as f32;
        Ok(Self {
            patches: candle_nn::Linear::new(kernel, bias),
            positions: match config.positions {
                Some(count) => Some(LearnedPositions::new(weights, count, hidden)?),
                None => None,
            },
            blocks: (0..config.layers).map(|i| Block::new(config, &weights.pp("blocks").pp(i))).collect::<Result<_>>()?,
            merger: Merger::new(config, &weights.pp("merger"), names, hidden)?,
            deepstack: config.deepstack.iter().enumerate().map(deepstack).collect::<Result<_>>()?,
            window: config.window.clone(),
            merge,
            frequencies: (0..rotated / 2).map(frequency).collect(),
        })
    }

    /// The side of a token in patches.
    pub(crate) fn merge(&self) -> usize {
        self.merge
    }

    /// Computes the features of images. The rows of `pixels [patches, values]` are patches; those of a token are
    /// adjacent.
    pub(crate) fn forward(&self, pixels: &Tensor, grids: &[Grid], cache: &FeatureCache) -> Result<VisionFeatures> {
        let kernel = self.patches.weight();
        let patches_of = |grid: &Grid| grid.tokens().saturating_mul(self.merge * self.merge);
        let patches = grids.iter().fold(0usize, |sum, grid| sum.saturating_add(patches_of(grid)));
        if pixels.dims() != [patches, kernel.dim(1)?] || patches == 0 || u32::try_from(patches).is_err() {
            let reason = format!("pixel_values are {:?}, image_grid_thw says [{patches}, {}] (and not 0)", pixels.dims(), kernel.dim(1)?);
            return Err(Error::Inputs { reason });
        }
        let (mut start, mut outputs) = (0, vec![Vec::new(); 1 + self.deepstack.len()]);
        for grid in grids {
            let image = pixels.narrow(0, start, patches_of(grid))?;
            let features = cache.all_of_one(&image, grid, |image| self.image(image, *grid))?;
            outputs.iter_mut().zip(features).for_each(|(output, features)| output.push(features));
            start += patches_of(grid);
        }
        let mut outputs = outputs.iter().map(|features| Tensor::cat(features, 0));
        let tokens = outputs.next().ok_or_else(|| Error::Inputs { reason: "no image".to_owned() })??;
        Ok(VisionFeatures { tokens, deepstack: outputs.collect::<candle_core::Result<_>>()? })
    }

    /// The features of an image `[patches, values]`: those of the last block, then those of earlier blocks.
    fn image(&self, pixels: &Tensor, grid: Grid) -> Result<Vec<Tensor>> {
        let kernel = self.patches.weight();
        let (grids, unit) = ([grid], self.merge * self.merge);
        let mut hidden = self.patches.forward(&pixels.to_dtype(kernel.dtype())?)?;
        if let Some(positions) = &self.positions {
            hidden = (hidden + positions.forward(&grids, self.merge)?)?;
        }
        let layout = PatchLayout::new(&grids, self.merge, self.window.as_ref().map(|(side, _)| *side));
        if self.window.is_some() {
            hidden = reorder_rows(&hidden, &layout.order, unit)?;
        }
        let rotation = layout.rotation(&self.frequencies, kernel.device())?;
        let mut outputs = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            let segments = match &self.window {
                Some((_, whole)) if !whole.contains(&i) => &layout.windows,
                _ => &layout.images,
            };
            hidden = block.forward(&hidden, &rotation, segments)?;
            if let Some((_, merger)) = self.deepstack.iter().find(|(block, _)| *block == i) {
                outputs.push(merger.forward(&hidden)?);
            }
        }
        let mut tokens = self.merger.forward(&hidden)?;
        if self.window.is_some() {
            tokens = reorder_rows(&tokens, &inverse_order(&layout.order), 1)?;
        }
        outputs.insert(0, tokens);
        Ok(outputs)
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    heads: usize,
    norm2: LayerNorm,
    mlp: VisionMlp,
}

impl Block {
    fn new(config: &QwenVisionConfig, weights: &Weights<'_>) -> Result<Self> {
        let hidden = config.hidden;
        let attention = weights.pp("attn");
        Ok(Self {
            norm1: config.norm(weights, "norm1", hidden)?,
            qkv: attention.linear("qkv", hidden, 3 * hidden, true)?,
            proj: attention.linear("proj", hidden, hidden, true)?,
            heads: config.heads,
            norm2: config.norm(weights, "norm2", hidden)?,
            mlp: VisionMlp::new(config, &weights.pp("mlp"))?,
        })
    }

    /// Runs the block on patches `[patches, hidden]`, which attend to the patches of their segment.
    fn forward(&self, x: &Tensor, rotation: &(Tensor, Tensor), segments: &[usize]) -> Result<Tensor> {
        let attended = self.attend(&self.qkv.forward(&self.norm1.forward(x)?)?, rotation, segments)?;
        let x = (x + self.proj.forward(&attended)?)?;
        Ok((&x + self.mlp.forward(&self.norm2.forward(&x)?)?)?)
    }

    fn attend(&self, qkv: &Tensor, (cos, sin): &(Tensor, Tensor), segments: &[usize]) -> Result<Tensor> {
        let (patches, width) = qkv.dims2()?;
        let head_dim = width / 3 / self.heads;
        let dtype = qkv.dtype();
        let qkv = qkv.reshape((patches, 3, self.heads, head_dim))?.permute((1, 2, 0, 3))?.contiguous()?;
        // The rotation is computed in f32, whatever the model's dtype.
        let turned = candle_nn::rotary_emb::rope(&qkv.narrow(0, 0, 2)?.to_dtype(DType::F32)?, cos, sin)?.to_dtype(dtype)?;
        let q = (turned.get(0)? * (head_dim as f64).powf(-0.5))?;
        let attended = attention(&q, &turned.get(1)?, &qkv.get(2)?, segments, SCORES)?;
        Ok(attended.transpose(0, 1)?.reshape((patches, self.heads * head_dim))?)
    }
}

/// An MLP of two layers, or of three with a gate.
#[derive(Debug)]
struct VisionMlp {
    first: Linear,
    up: Option<Linear>,
    last: Linear,
    activation: Activation,
}

impl VisionMlp {
    fn new(config: &QwenVisionConfig, weights: &Weights<'_>) -> Result<Self> {
        let QwenVisionConfig { hidden, intermediate, activation, .. } = *config;
        let (first, up, last) = match config.generation {
            QwenGeneration::Qwen2 => ("fc1", None, "fc2"),
            QwenGeneration::Qwen2_5 => ("gate_proj", Some("up_proj"), "down_proj"),
            QwenGeneration::Qwen3 => ("linear_fc1", None, "linear_fc2"),
        };
        Ok(Self {
            first: weights.linear(first, hidden, intermediate, true)?,
            up: up.map(|up| weights.linear(up, hidden, intermediate, true)).transpose()?,
            last: weights.linear(last, intermediate, hidden, true)?,
            activation,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.activation.forward(&self.first.forward(x)?)?;
        let y = match &self.up {
            None => y,
            Some(up) => (y * up.forward(x)?)?,
        };
        Ok(self.last.forward(&y)?)
    }
}

/// The projection of a token's patches to its feature.
#[derive(Debug)]
struct Merger {
    norm: LayerNorm,
    /// The number of channels that are normalised together: those of a patch, or of all patches of a token.
    normed: usize,
    first: Linear,
    second: Linear,
    inputs: usize,
}

impl Merger {
    fn new(config: &QwenVisionConfig, weights: &Weights<'_>, [norm, first, second]: [&str; 3], normed: usize) -> Result<Self> {
        let inputs = config.hidden * config.merge * config.merge;
        Ok(Self {
            norm: config.norm(weights, norm, normed)?,
            normed,
            first: weights.linear(first, inputs, inputs, true)?,
            second: weights.linear(second, inputs, config.output, true)?,
            inputs,
        })
    }

    /// Merges patches `[patches, hidden]` into features `[tokens, output]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(&x.reshape(((), self.normed))?)?.reshape(((), self.inputs))?;
        Ok(self.second.forward(&self.first.forward(&x)?.gelu_erf()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused() {
        for (generation, json) in [
            (QwenGeneration::Qwen2, r#"{"num_heads": 7}"#),
            (QwenGeneration::Qwen2, r#"{"mlp_ratio": 1e300}"#),
            (QwenGeneration::Qwen2_5, r#"{"hidden_size": 1280, "window_size": 27}"#),
            (QwenGeneration::Qwen3, r#"{"spatial_merge_size": 2147483647}"#),
            (QwenGeneration::Qwen3, r#"{"rope_parameters": {"rope_theta": 0}}"#),
            (QwenGeneration::Qwen3, r#"{"num_position_embeddings": 0}"#),
        ] {
            let read = |json: &str| QwenVisionConfig::from_section(&Section::parse("config.json", json.as_bytes())?, generation);
            assert!(matches!(read(json), Err(Error::Config { .. })), "{json}");
            read(r#"{"num_heads": 8}"#).unwrap();
        }
    }
}
