//! The vision tower of Llama 3.2 Vision: all tiles of an image in one sequence.
//!
//! A first stack of layers is followed by a second stack with gates. The features are the output of the second stack
//! and the outputs of some layers of the first.

use std::collections::BTreeMap;

use candle_core::{D, DType, Tensor};
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
pub(crate) struct MllamaVisionConfig {
    hidden: usize,
    intermediate: usize,
    layers: usize,
    global_layers: usize,
    heads: usize,
    pub(crate) image_size: usize,
    patch_size: usize,
    eps: f64,
    activation: Activation,
    tiles: usize,
    /// The number of arrangements of tiles; their ids start at 1, and id 0 stands for no image.
    arrangements: usize,
    /// The layers of the first stack whose outputs are part of the features.
    output_layers: Vec<usize>,
}

impl MllamaVisionConfig {
    pub(crate) fn from_section(vision: &Section) -> Result<Self> {
        let layers = vision.positive("num_hidden_layers", 32)?;
        let output_layers = match vision.get("intermediate_layers_indices") {
            None => vec![3, 7, 15, 23, 30],
            Some(_) => vision.ids("intermediate_layers_indices")?,
        };
        let output_layers = output_layers.iter().map(|i| usize::try_from(*i).ok().filter(|i| *i < layers)).collect::<Option<Vec<_>>>();
        let arrangements = match vision.get("supported_aspect_ratios") {
            None => Some(8),
            Some(given) => given.as_array().map(Vec::len),
        };
        let heads_key = if vision.has("attention_heads") { "attention_heads" } else { "num_attention_heads" };
        let config = Self {
            hidden: vision.positive("hidden_size", 1280)?,
            intermediate: vision.positive("intermediate_size", 5120)?,
            layers,
            global_layers: vision.usize("num_global_layers")?.unwrap_or(8),
            heads: vision.positive(heads_key, 16)?,
            image_size: vision.positive("image_size", 448)?,
            patch_size: vision.positive("patch_size", 14)?,
            eps: vision.f64("norm_eps")?.unwrap_or(1e-5),
            activation: Activation::from_name(vision.string("hidden_act")?.unwrap_or("gelu"))?,
            tiles: vision.positive("max_num_tiles", 4)?,
            arrangements: arrangements.ok_or_else(|| vision.error("supported_aspect_ratios", "expected a list"))?,
            output_layers: output_layers
                .ok_or_else(|| vision.error("intermediate_layers_indices", format!("expected layers below {layers}")))?,
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(vision.error(heads_key, format!("{} does not divide hidden_size {}", config.heads, config.hidden)));
        }
        if vision.usize("num_channels")?.unwrap_or(3) != 3 {
            return Err(vision.error("num_channels", "only 3 channels are supported"));
        }
        if config.image_size < config.patch_size {
            return Err(vision.error("image_size", format!("{} is smaller than patch_size {}", config.image_size, config.patch_size)));
        }
        if config.features().checked_mul(config.hidden).is_none_or(|tile| tile.checked_mul(config.tiles).is_none()) {
            return Err(vision.error("image_size", format!("{} is too large", config.image_size)));
        }
        let width = vision.positive("vision_output_dim", 7680)?;
        if width != config.width() {
            return Err(vision.error("vision_output_dim", format!("{width} is not the {} values that are read", config.width())));
        }
        Ok(config)
    }

    /// The number of values of one feature.
    pub(crate) fn width(&self) -> usize {
        self.hidden * (1 + self.output_layers.len())
    }

    /// The number of features of one tile: its class token and its patches.
    pub(crate) fn features(&self) -> usize {
        1 + (self.image_size / self.patch_size).pow(2)
    }
}

#[derive(Debug)]
pub(crate) struct MllamaVision {
    config: MllamaVisionConfig,
    patches: PatchConvolution,
    class: Tensor,
    pre_tile: TileEmbedding,
    positions: Tensor,
    tile_positions: TileEmbedding,
    pre_norm: LayerNorm,
    layers: Vec<Block>,
    post_norm: LayerNorm,
    post_tile: TileEmbedding,
    global_layers: Vec<Block>,
}

impl MllamaVision {
    pub(crate) fn new(config: MllamaVisionConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        let MllamaVisionConfig { hidden, patch_size, .. } = config;
        let stride = Conv2dConfig { stride: patch_size, ..Default::default() };
        let features = config.features();
        let embedding = vb.pp("gated_positional_embedding");
        let gate = embedding.get(1, "gate")?.tanh()?;
        let blocks = |name: &str, count: usize, gated: bool| -> Result<Vec<Block>> {
            (0..count).map(|i| Block::new(&config, gated, &vb.pp(name).pp("layers").pp(i))).collect()
        };
        let tile_embedding = |name: &str| -> Result<TileEmbedding> {
            let vb = vb.pp(name);
            TileEmbedding::new(&config, 1, vb.get(1, "gate")?.tanh()?, &vb.pp("embedding"))
        };
        Ok(Self {
            patches: candle_nn::conv2d_no_bias(3, hidden, patch_size, stride, vb.pp("patch_embedding"))?.into(),
            class: vb.get(hidden, "class_embedding")?,
            pre_tile: tile_embedding("pre_tile_positional_embedding")?,
            positions: embedding.get((features, hidden), "embedding")?.broadcast_mul(&gate.affine(-1.0, 1.0)?)?,
            tile_positions: TileEmbedding::new(&config, features, gate, &embedding.pp("tile_embedding"))?,
            // These two norms have torch's default epsilon, whatever the configuration says.
            pre_norm: candle_nn::layer_norm(hidden, 1e-5, vb.pp("layernorm_pre"))?,
            layers: blocks("transformer", config.layers, false)?,
            post_norm: candle_nn::layer_norm(hidden, 1e-5, vb.pp("layernorm_post"))?,
            post_tile: tile_embedding("post_tile_positional_embedding")?,
            global_layers: blocks("global_transformer", config.global_layers, true)?,
            config,
        })
    }

    /// Computes the features `[batch, images * tiles * features, width]` of pixels `[batch, images, tiles, 3, size,
    /// size]`, given the ids of the tile arrangements `[batch, images]` and the presence of each tile `[batch, images,
    /// tiles]`.
    pub(crate) fn forward(&self, pixels: &Tensor, arrangements: &Tensor, tiles: &Tensor, cache: &FeatureCache) -> Result<Tensor> {
        let &[batch, images, ..] = pixels.dims() else { return Err(self.refuse(pixels, arrangements, tiles)) };
        let size = self.config.image_size;
        let expected = [batch, images, self.config.tiles, 3, size, size];
        let fits = pixels.dims() == expected && arrangements.dims().iter().eq(expected.get(..2).into_iter().flatten());
        if !fits || !tiles.dims().iter().eq(expected.get(..3).into_iter().flatten()) || batch * images == 0 {
            return Err(self.refuse(pixels, arrangements, tiles));
        }
        let pixels = pixels.flatten(0, 1)?;
        let arrangements = arrangements.flatten_all()?.to_dtype(DType::I64)?;
        let numbers = arrangements.to_vec1::<i64>()?;
        let arrangements = arrangements.to_device(self.class.device())?;
        let tiles = tiles.flatten(0, 1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let features = tiles.iter().zip(numbers).enumerate().map(|(i, (tiles, number))| {
            let image = |pixels: &Tensor| self.image(&pixels.to_dtype(self.class.dtype())?, &arrangements.narrow(0, i, 1)?, tiles);
            cache.of_one(&pixels.get(i)?, (number, tiles), image)
        });
        let features = Tensor::stack(&features.collect::<Result<Vec<_>>>()?, 0)?;
        Ok(features.reshape((batch, (), self.config.width()))?)
    }

    fn refuse(&self, pixels: &Tensor, arrangements: &Tensor, tiles: &Tensor) -> Error {
        let MllamaVisionConfig { tiles: most, image_size, .. } = self.config;
        let shapes = [pixels, arrangements, tiles].map(Tensor::dims);
        let reason = format!(
            "pixels, aspect ratio ids and mask are {shapes:?}; expected [batch, images, {most}, 3, {image_size}, {image_size}] \
             and the same beginnings"
        );
        Error::Inputs { reason }
    }

    /// Computes the features `[tiles, features, width]` of one image.
    fn image(&self, pixels: &Tensor, arrangement: &Tensor, present: &[f32]) -> Result<Tensor> {
        let MllamaVisionConfig { hidden, tiles, ref output_layers, .. } = self.config;
        let features = self.config.features();
        let patches = self.patches.forward(pixels)?.flatten_from(2)?.transpose(1, 2)?;
        let patches = patches.broadcast_add(&self.pre_tile.for_arrangement(arrangement)?)?;
        let class = self.class.broadcast_as((tiles, 1, hidden))?;
        let x = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        let x = self.pre_norm.forward(&(x + self.tile_positions.for_arrangement(arrangement)?)?)?;

        let padded = features.next_multiple_of(8);
        let x = x.pad_with_zeros(1, 0, padded - features)?;
        let mask = mask(present, features, padded, &x)?;
        let (sequence, by_tile) = ((1, tiles * padded, hidden), (tiles, padded, ()));
        let mut x = x.reshape(sequence)?;
        let mut outputs = BTreeMap::new();
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &mask)?;
            if output_layers.contains(&i) {
                outputs.insert(i, x.clone());
            }
        }
        x = self
            .post_norm
            .forward(&x)?
            .reshape(by_tile)?
            .broadcast_add(&self.post_tile.for_arrangement(arrangement)?)?
            .reshape(sequence)?;
        for layer in &self.global_layers {
            x = layer.forward(&x, &mask)?;
        }
        let mut all = vec![x.reshape(by_tile)?];
        let outputs: Vec<&Tensor> = output_layers.iter().filter_map(|i| outputs.get(i)).collect();
        if !outputs.is_empty() {
            // The values of one channel are adjacent.
            all.push(Tensor::stack(&outputs, D::Minus1)?.reshape(by_tile)?);
        }
        Ok(Tensor::cat(&all, D::Minus1)?.narrow(1, 0, features)?)
    }
}

/// The additive attention mask between the positions of an image, `[positions, positions]`.
///
/// As in the reference, padding and missing tiles are hidden only from each other, not from the rest.
fn mask(present: &[f32], features: usize, padded: usize, like: &Tensor) -> Result<Tensor> {
    let absent: Vec<f32> = present.iter().flat_map(|tile| (0..padded).map(move |i| if i < features { 1.0 - tile } else { 1.0 })).collect();
    let lowest = match like.dtype() {
        DType::F16 => -65_504.0,
        DType::BF16 => -3.389e38,
        _ => f64::from(f32::MIN),
    };
    let absent = Tensor::new(absent, like.device())?;
    Ok((absent.unsqueeze(1)?.broadcast_mul(&absent.unsqueeze(0)?)? * lowest)?.to_dtype(like.dtype())?)
}

/// A gated embedding of the tiles in each arrangement.
#[derive(Debug)]
struct TileEmbedding {
    /// `[1]`, between -1 and 1.
    gate: Tensor,
    /// `[1 + arrangements, tiles * rows * hidden]`
    table: Tensor,
    shape: (usize, usize, usize),
}

impl TileEmbedding {
    fn new(config: &MllamaVisionConfig, rows: usize, gate: Tensor, vb: &VarBuilder<'_>) -> Result<Self> {
        let shape @ (tiles, rows, hidden) = (config.tiles, rows, config.hidden);
        Ok(Self { gate, table: vb.get((1 + config.arrangements, tiles * rows * hidden), "weight")?, shape })
    }

    /// The embedding `[tiles, rows, hidden]` of the arrangement with an id `[1]`.
    fn for_arrangement(&self, arrangement: &Tensor) -> Result<Tensor> {
        Ok(self.table.index_select(arrangement, 0)?.reshape(self.shape)?.broadcast_mul(&self.gate)?)
    }
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    /// The gates of attention and MLP, each `[1]`, between -1 and 1.
    gates: Option<(Tensor, Tensor)>,
}

impl Block {
    fn new(config: &MllamaVisionConfig, gated: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        let MllamaVisionConfig { hidden, intermediate, heads, eps, activation, .. } = *config;
        let square = |name: &str| Linear::load(&vb.pp("self_attn").pp(name), hidden, hidden, false);
        let gate = |name: &str| vb.get(1, name)?.tanh();
        Ok(Self {
            norm1: candle_nn::layer_norm(hidden, eps, vb.pp("input_layernorm"))?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            o: square("o_proj")?,
            heads,
            norm2: candle_nn::layer_norm(hidden, eps, vb.pp("post_attention_layernorm"))?,
            fc1: Linear::load(&vb.pp("mlp.fc1"), hidden, intermediate, true)?,
            fc2: Linear::load(&vb.pp("mlp.fc2"), intermediate, hidden, true)?,
            activation,
            gates: if gated { Some((gate("gate_attn")?, gate("gate_ffn")?)) } else { None },
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let attended = self.attend(&self.norm1.forward(x)?, mask)?;
        let gated = |y: Tensor, gate: Option<&Tensor>| gate.map_or(Ok(y.clone()), |gate| y.broadcast_mul(gate));
        let x = (x + gated(attended, self.gates.as_ref().map(|(attention, _)| attention))?)?;
        let y = self.fc2.forward(&self.activation.forward(&self.fc1.forward(&self.norm2.forward(&x)?)?)?)?;
        Ok((x + gated(y, self.gates.as_ref().map(|(_, mlp)| mlp))?)?)
    }

    fn attend(&self, x: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, positions, hidden) = x.dims3()?;
        let head_dim = hidden / self.heads;
        let split = |y: Tensor| y.reshape((batch, positions, self.heads, head_dim))?.transpose(1, 2)?.contiguous();
        let q = (split(self.q.forward(x)?)? * (head_dim as f64).powf(-0.5))?;
        let (k, v) = (split(self.k.forward(x)?)?, split(self.v.forward(x)?)?);
        // One head at a time, because the scores of all heads of a large image would take gigabytes.
        let head = |y: &Tensor, i: usize| y.narrow(1, i, 1);
        let heads = (0..self.heads).map(|i| attend(&head(&q, i)?, &head(&k, i)?, &head(&v, i)?, Some(mask), None));
        Ok(self.o.forward(&Tensor::cat(&heads.collect::<Result<Vec<_>>>()?, 2)?)?)
    }
}
