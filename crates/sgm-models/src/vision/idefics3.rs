//! The vision tower and connector of Idefics3 and SmolVLM.
//!
//! The tower is SigLIP's transformer, over images that need not fill their frame. The connector merges each square of
//! patches into one feature for the language model.

use candle_core::{DType, IndexOp, Tensor};
use candle_nn::{Conv2dConfig, LayerNorm, Module, VarBuilder};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::layers::linear::Linear;
use crate::vision::clip_siglip::{Block, Defaults, VisionConfig};
use crate::vision::feature_cache::FeatureCache;
use crate::vision::patch_convolution::PatchConvolution;

const DEFAULTS: Defaults = Defaults { hidden: 1152, heads: 16, patch_size: 32, eps: 1e-6, activation: "gelu_pytorch_tanh" };

/// The tower with its connector: from pixels to token embeddings.
#[derive(Debug)]
pub(crate) struct Idefics3Vision {
    patches: PatchConvolution,
    /// `[side * side, vision hidden]`.
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    projection: Linear,
    patch_size: usize,
    /// The side of the position table.
    side: usize,
    /// The side, in patches, of the square that becomes one feature.
    scale: usize,
    /// The side of an image in pixels, from the configuration.
    pub(crate) image_size: usize,
}

impl Idefics3Vision {
    /// Loads the tower and the connector from `vb`, which holds `vision_model` and `connector`; `hidden` is the width
    /// of the language model.
    pub(crate) fn load(config: &Section, hidden: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let vision = VisionConfig::with_defaults(&config.section("vision_config")?, &DEFAULTS)?;
        let side = vision.image_size / vision.patch_size;
        let scale = config.positive("scale_factor", 2)?;
        if !side.is_multiple_of(scale) {
            return Err(config.error("scale_factor", format!("{scale} does not divide the {side} patches along a side")));
        }
        let tower = vb.pp("vision_model");
        let embeddings = tower.pp("embeddings");
        let stride = Conv2dConfig { stride: vision.patch_size, ..Default::default() };
        Ok(Self {
            patches: candle_nn::conv2d(3, vision.hidden, vision.patch_size, stride, embeddings.pp("patch_embedding"))?.into(),
            positions: embeddings.pp("position_embedding").get((side * side, vision.hidden), "weight")?,
            blocks: (0..vision.layers).map(|i| Block::new(&vision, &tower.pp("encoder.layers").pp(i))).collect::<Result<_>>()?,
            norm: candle_nn::layer_norm(vision.hidden, vision.eps, tower.pp("post_layernorm"))?,
            projection: Linear::load(&vb.pp("connector.modality_projection.proj"), scale * scale * vision.hidden, hidden, false)?,
            patch_size: vision.patch_size,
            side,
            scale,
            image_size: vision.image_size,
        })
    }

    /// The number of features of an image of the configured size.
    pub(crate) fn per_image(&self) -> usize {
        (self.side / self.scale).pow(2)
    }

    /// Computes the features `[features, hidden]` of the images in pixels `[batch, images, 3, height, width]`, in
    /// order; `None` if all of them are padding.
    ///
    /// `mask [batch, images, height, width]` is 0 where an image does not fill its frame. An image whose mask is 0
    /// everywhere is padding; without a mask, an image whose values are all 0 is padding.
    pub(crate) fn forward(&self, pixels: &Tensor, mask: Option<&Tensor>, cache: &FeatureCache) -> Result<Option<Tensor>> {
        let (batch, images, channels, height, width) = pixels.dims5()?;
        let grid = (height / self.patch_size, width / self.patch_size);
        let tiled = |patches: usize| patches > 0 && patches.is_multiple_of(self.scale);
        if channels != 3 || !tiled(grid.0) || !tiled(grid.1) {
            let reason = format!(
                "pixel_values are {:?}, the vision tower takes [batch, images, 3, height, width] of {} by {} patches \
                 of {} pixels, or multiples",
                pixels.dims(),
                self.scale,
                self.scale,
                self.patch_size
            );
            return Err(Error::Inputs { reason });
        }
        if let Some(mask) = mask.filter(|mask| mask.dims() != [batch, images, height, width]) {
            let reason = format!("pixel_attention_mask is {:?}, pixel_values are {:?}", mask.dims(), pixels.dims());
            return Err(Error::Inputs { reason });
        }
        let pixels = pixels.flatten_to(1)?;
        let mask = mask.map(|mask| mask.flatten_to(1)).transpose()?;
        let mut features = Vec::new();
        for index in 0..batch * images {
            let pixels = pixels.i(index)?;
            let attended = match &mask {
                Some(mask) => self.attended(&mask.i(index)?)?,
                None => vec![vec![pixels.abs()?.max_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()? > 0.0; grid.1]; grid.0],
            };
            if attended.iter().flatten().any(|attended| *attended) {
                features.push(cache.of_one(&pixels, &attended, |pixels| self.connect(&self.tower(pixels, &attended)?, grid))?);
            }
        }
        Ok(if features.is_empty() { None } else { Some(Tensor::cat(&features, 0)?) })
    }

    /// The patches `[rows][columns]` with at least one pixel of the image.
    fn attended(&self, mask: &Tensor) -> Result<Vec<Vec<bool>>> {
        let any = mask.to_dtype(DType::F32)?.unsqueeze(0)?.unsqueeze(0)?.max_pool2d(self.patch_size)?;
        let any: Vec<Vec<f32>> = any.i((0, 0))?.to_vec2()?;
        Ok(any.into_iter().map(|row| row.into_iter().map(|any| any > 0.0).collect()).collect())
    }

    /// Runs the tower on one image `[3, height, width]`; returns hidden states `[patches, vision hidden]`.
    fn tower(&self, pixels: &Tensor, attended: &[Vec<bool>]) -> Result<Tensor> {
        let pixels = pixels.unsqueeze(0)?.to_dtype(self.positions.dtype())?;
        let patches = self.patches.forward(&pixels)?.flatten_from(2)?.transpose(1, 2)?;
        let indices = Tensor::new(position_indices(attended, self.side)?, pixels.device())?;
        let mut hidden = patches.broadcast_add(&self.positions.index_select(&indices, 0)?)?;
        let mask = if attended.iter().flatten().all(|attended| *attended) {
            None
        } else {
            let mask: Vec<f32> = attended.iter().flatten().map(|attended| if *attended { 0.0 } else { f32::NEG_INFINITY }).collect();
            Some(Tensor::new(mask, pixels.device())?.to_dtype(hidden.dtype())?)
        };
        for block in &self.blocks {
            hidden = block.forward(&hidden, mask.as_ref())?;
        }
        Ok(self.norm.forward(&hidden)?.squeeze(0)?)
    }

    /// Concatenates the hidden states of each square of `scale` by `scale` patches and projects them to `[features,
    /// hidden]`.
    fn connect(&self, states: &Tensor, (rows, columns): (usize, usize)) -> Result<Tensor> {
        let (scale, hidden) = (self.scale, states.dim(1)?);
        let squares = states.reshape((rows / scale, scale, columns / scale, scale * hidden))?.transpose(1, 2)?;
        Ok(self.projection.forward(&squares.reshape(((rows / scale) * (columns / scale), scale * scale * hidden))?)?)
    }
}

/// The index of each patch in a position table of `side` by `side`. The attended patches, counted along the first row
/// and the first column, are spread over the whole table; the other patches have index 0.
///
/// transformers rounds the fractions to f32, where the result depends on the vector width of the CPU for some sides
/// (19, 25, 29, 31, 38 and above), but for none of the published ones (26, 27, 32). This function computes the exact
/// quotient.
fn position_indices(attended: &[Vec<bool>], side: usize) -> Result<Vec<u32>> {
    let count = |line: &mut dyn Iterator<Item = bool>| line.filter(|attended| *attended).count().max(1);
    let rows = count(&mut attended.iter().filter_map(|row| row.first().copied()));
    let columns = count(&mut attended.iter().take(1).flatten().copied());
    let along = |patch: usize, of: usize| (patch * side / of).min(side - 1);
    let mut indices = Vec::new();
    for (y, row) in attended.iter().enumerate() {
        for (x, attended) in row.iter().enumerate() {
            let place = if *attended { along(y, rows) * side + along(x, columns) } else { 0 };
            indices.push(u32::try_from(place).map_err(|_| Error::Inputs { reason: format!("no patch has place {place}") })?);
        }
    }
    Ok(indices)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::checkpoint::model_files::Checkpoint;

    /// Four by four patches of four pixels, four features.
    fn vision() -> Idefics3Vision {
        let checkpoint = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/idefics3_saved")).unwrap();
        Idefics3Vision::load(checkpoint.config(), 32, &checkpoint.tensors().unwrap().pp("model")).unwrap()
    }

    /// `[1, images, 3, 16, 16]`, the lower half of each image multiplied by `lower`.
    fn pixels(images: usize, lower: f64) -> Tensor {
        let values = (0..images * 3 * 256).map(|i| (i as f32 * 0.7).sin()).collect();
        let all = Tensor::from_vec(values, (1, images, 3, 16, 16), &Device::Cpu).unwrap();
        Tensor::cat(&[&all.narrow(3, 0, 8).unwrap(), &(all.narrow(3, 8, 8).unwrap() * lower).unwrap()], 3).unwrap()
    }

    fn features(pixels: &Tensor, mask: Option<&Tensor>) -> Vec<Vec<f32>> {
        vision().forward(pixels, mask, &FeatureCache::new(&Device::Cpu)).unwrap().map_or(Vec::new(), |features| features.to_vec2().unwrap())
    }

    #[test]
    fn padding_images_have_no_features() {
        let [first, second] = [0, 1].map(|i| pixels(2, 1.0).narrow(1, i, 1).unwrap());
        let nothing = first.zeros_like().unwrap();
        let padded = Tensor::cat(&[&nothing, &first, &nothing, &second], 1).unwrap();
        assert_eq!(features(&padded, None), [features(&first, None), features(&second, None)].concat());
        assert!(features(&nothing, None).is_empty());
        // A given mask decides, so that a black picture is an image.
        let mask = Tensor::ones((1, 1, 16, 16), DType::I64, &Device::Cpu).unwrap();
        assert_eq!(features(&nothing, Some(&mask)).len(), 4);
    }

    #[test]
    fn masked_pixels_have_no_effect() {
        let shown = Tensor::ones((1, 1, 8, 16), DType::I64, &Device::Cpu).unwrap();
        let mask = Tensor::cat(&[&shown, &shown.zeros_like().unwrap()], 2).unwrap();
        let [one, other] = [1.0, -2.0].map(|lower| pixels(1, lower));
        assert_eq!(features(&one, Some(&mask))[..2], features(&other, Some(&mask))[..2]);
        assert_ne!(features(&one, None)[..2], features(&other, None)[..2]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let refused = |pixels: &Tensor, mask: Option<&Tensor>| {
            vision().forward(pixels, mask, &FeatureCache::new(&Device::Cpu)).unwrap_err().to_string()
        };
        let pixels = pixels(1, 1.0);
        assert!(refused(&pixels.narrow(3, 0, 12).unwrap(), None).contains("[1, 1, 3, 12, 16]"));
        assert!(refused(&pixels, Some(&pixels.i((.., .., 0, ..8)).unwrap())).contains("[1, 1, 8, 16]"));
    }

    #[test]
    fn a_full_frame_uses_the_position_table_in_order() {
        for side in [1, 4, 26, 27, 32] {
            let indices = position_indices(&vec![vec![true; side]; side], side).unwrap();
            assert!(indices.iter().zip(0..).all(|(place, i)| *place == i), "{side}");
        }
    }

    #[test]
    fn a_smaller_image_is_spread_over_the_position_table() {
        let attended = [vec![true, true, false], vec![true, true, false], vec![true, true, false], vec![false; 3]];
        assert_eq!(position_indices(&attended, 4).unwrap(), [0, 2, 0, 4, 6, 0, 8, 10, 0, 0, 0, 0]);
    }
}
