//! The vision tower of Pixtral: patches of images of any size, rotated by row and column, with attention within each
//! image.
//!
//! candle-transformers has it too, but with attention over a padded batch and without the intermediate states.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Conv2dConfig, Module};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::layers::activation::Activation;
use crate::layers::derivative::RmsNorm;
use crate::layers::linear::{Linear, Weights};
use crate::vision::patch_convolution::PatchConvolution;
use crate::vision::segment_attention::{SCORES, attention};

/// The epsilon of all norms of the tower.
const EPS: f64 = 1e-5;

/// The configuration of a Pixtral tower, read from `vision_config`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PixtralConfig {
    pub(crate) hidden: usize,
    intermediate: usize,
    pub(crate) layers: usize,
    heads: usize,
    /// The side of a patch in pixels.
    pub(crate) patch: usize,
    activation: Activation,
    theta: f64,
}

impl PixtralConfig {
    pub(crate) fn from_section(vision: &Section) -> Result<Self> {
        let hidden = vision.positive("hidden_size", 1024)?;
        let heads = vision.positive("num_attention_heads", 16)?;
        // Half of a head's pairs rotate with the row, the other half with the column.
        if !hidden.is_multiple_of(heads) || !(hidden / heads).is_multiple_of(4) {
            return Err(vision.error("num_attention_heads", format!("{heads} heads do not divide {hidden} into multiples of 4")));
        }
        let head_dim = hidden / heads;
        if vision.positive("head_dim", head_dim)? != head_dim {
            return Err(vision.error("head_dim", format!("must be hidden_size / num_attention_heads = {head_dim}")));
        }
        if vision.positive("num_channels", 3)? != 3 {
            return Err(vision.error("num_channels", "must be 3"));
        }
        let rope = vision.section("rope_parameters")?;
        if let Some(kind) = rope.string("rope_type")?.filter(|kind| !matches!(*kind, "axial" | "default")) {
            return Err(rope.error("rope_type", format!("expected axial, found {kind}")));
        }
        let theta = match rope.f64("rope_theta")? {
            Some(theta) => theta,
            None => vision.f64("rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 0.0 {
            return Err(vision.error("rope_theta", "must be positive"));
        }
        Ok(Self {
            hidden,
            intermediate: vision.positive("intermediate_size", 4096)?,
            layers: vision.positive("num_hidden_layers", 24)?,
            heads,
            patch: vision.positive("patch_size", 16)?,
            activation: Activation::from_name(vision.string("hidden_act")?.unwrap_or("gelu"))?,
            theta,
        })
    }
}

/// The rows and columns of patches of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PatchGrid {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl PatchGrid {
    /// Reads `image_sizes` `[images, 2]`, heights and widths in pixels of images `[images, 3, height, width]`.
    pub(crate) fn read(sizes: &Tensor, pixels: &Tensor, patch: usize) -> Result<Vec<Self>> {
        let (images, _, height, width) = pixels.dims4()?;
        let error = |found: String| Error::Inputs {
            reason: format!(
                "image_sizes are {found}; expected a height up to {height} and a width up to {width} for each of {images} images"
            ),
        };
        if sizes.dims() != [images, 2] || images == 0 {
            return Err(error(format!("of shape {:?}", sizes.dims())));
        }
        let patches = |side: i64, limit: usize| {
            let side = usize::try_from(side).ok().filter(|side| *side <= limit)?;
            Some(side / patch).filter(|patches| *patches > 0)
        };
        let grid = |size: &Vec<i64>| match size.as_slice() {
            [h, w] => Some(Self { rows: patches(*h, height)?, cols: patches(*w, width)? }),
            _ => None,
        };
        let sizes = sizes.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        sizes.iter().map(|size| grid(size).ok_or_else(|| error(format!("{size:?}")))).collect()
    }

    pub(crate) fn patches(self) -> usize {
        self.rows * self.cols
    }

    /// Cuts an image `[1, 3, height, width]` to its whole patches.
    pub(crate) fn cut(self, image: &Tensor, patch: usize) -> Result<Tensor> {
        Ok(image.narrow(2, 0, self.rows * patch)?.narrow(3, 0, self.cols * patch)?)
    }
}

#[derive(Debug)]
pub(crate) struct PixtralVision {
    patches: PatchConvolution,
    pre_norm: RmsNorm,
    blocks: Vec<Block>,
    patch: usize,
    /// Radians per row and per column.
    frequencies: [Vec<f32>; 2],
}

impl PixtralVision {
    /// Loads the first `layers` layers of the tower.
    pub(crate) fn new(config: &PixtralConfig, layers: usize, weights: &Weights<'_>) -> Result<Self> {
        let PixtralConfig { hidden, heads, patch, theta, .. } = *config;
        let stride = Conv2dConfig { stride: patch, ..Default::default() };
        let pairs = hidden / heads / 2;
        #[allow(clippy::cast_possible_truncation, reason = "frequencies are f32 in the reference")]
        let every_other = |first: usize| (first..pairs).step_by(2).map(|pair| theta.powf(-(pair as f64) / pairs as f64) as f32).collect();
        Ok(Self {
            patches: candle_nn::conv2d_no_bias(3, hidden, patch, stride, weights.vb().pp("patch_conv"))?.into(),
            pre_norm: weights.rms_norm("ln_pre", hidden, EPS, false)?,
            blocks: (0..layers).map(|i| Block::new(config, &weights.pp("transformer.layers").pp(i))).collect::<Result<_>>()?,
            patch,
            frequencies: [every_other(0), every_other(1)],
        })
    }

    /// The side of a patch in pixels.
    pub(crate) fn patch(&self) -> usize {
        self.patch
    }

    /// Computes the hidden states `[patches, hidden]` of an image `[1, 3, height, width]` of whole patches after each number
    /// of layers in `after`, in that order; 0 is the input of the first layer.
    pub(crate) fn hidden_states(&self, image: &Tensor, grid: PatchGrid, after: &[usize]) -> Result<Vec<Tensor>> {
        let kernel = self.patches.weight();
        let patches = self.patches.forward(&image.to_dtype(kernel.dtype())?)?.flatten_from(2)?.squeeze(0)?.t()?;
        let rotation = self.rotation(grid, kernel.device())?;
        let mut hidden = self.pre_norm.forward(&patches.contiguous()?)?;
        let mut states = vec![hidden.clone()];
        for block in &self.blocks {
            hidden = block.forward(&hidden, &rotation, &[grid.patches()])?;
            states.push(hidden.clone());
        }
        let missing = |layer: &usize| Error::Inputs { reason: format!("the vision tower was loaded without layer {layer}") };
        after.iter().map(|layer| states.get(*layer).cloned().ok_or_else(|| missing(layer))).collect()
    }

    /// The cosines and sines `[patches, head_dim / 2]` of the patches' rows and columns, in f32.
    fn rotation(&self, grid: PatchGrid, device: &Device) -> Result<(Tensor, Tensor)> {
        let [by_row, by_col] = &self.frequencies;
        let cells = || (0..grid.rows).flat_map(|row| (0..grid.cols).map(move |col| (row, col)));
        let angles =
            || cells().flat_map(|(row, col)| by_row.iter().map(move |f| row as f32 * f).chain(by_col.iter().map(move |f| col as f32 * f)));
        let shape = (cells().count(), by_row.len() + by_col.len());
        let table = |values: Vec<f32>| Tensor::from_vec(values, shape, device);
        Ok((table(angles().map(f32::cos).collect())?, table(angles().map(f32::sin).collect())?))
    }
}

#[derive(Debug)]
struct Block {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Block {
    fn new(config: &PixtralConfig, weights: &Weights<'_>) -> Result<Self> {
        let PixtralConfig { hidden, intermediate, heads, activation, .. } = *config;
        let (attention, mlp) = (weights.pp("attention"), weights.pp("feed_forward"));
        let square = |name: &str| attention.linear(name, hidden, hidden, false);
        Ok(Self {
            attention_norm: weights.rms_norm("attention_norm", hidden, EPS, false)?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            o: square("o_proj")?,
            heads,
            mlp_norm: weights.rms_norm("ffn_norm", hidden, EPS, false)?,
            gate: mlp.linear("gate_proj", hidden, intermediate, false)?,
            up: mlp.linear("up_proj", hidden, intermediate, false)?,
            down: mlp.linear("down_proj", intermediate, hidden, false)?,
            activation,
        })
    }

    /// Runs the block on patches `[patches, hidden]`, which attend to the patches of their segment.
    fn forward(&self, x: &Tensor, (cos, sin): &(Tensor, Tensor), segments: &[usize]) -> Result<Tensor> {
        let (patches, hidden) = x.dims2()?;
        let head_dim = hidden / self.heads;
        let normed = self.attention_norm.forward(x)?;
        let split = |y: Tensor| y.reshape((patches, self.heads, head_dim))?.transpose(0, 1)?.contiguous();
        // The rotation is computed in f32, whatever the model's dtype.
        let rotate = |y: Tensor| {
            let (dtype, y) = (y.dtype(), split(y)?.to_dtype(DType::F32)?.unsqueeze(0)?);
            candle_nn::rotary_emb::rope(&y, cos, sin)?.squeeze(0)?.to_dtype(dtype)
        };
        let q = (rotate(self.q.forward(&normed)?)? * (head_dim as f64).powf(-0.5))?;
        let (k, v) = (rotate(self.k.forward(&normed)?)?, split(self.v.forward(&normed)?)?);
        let attended = attention(&q, &k, &v, segments, SCORES)?.transpose(0, 1)?.reshape((patches, hidden))?;
        let x = (x + self.o.forward(&attended)?)?;
        let y = self.mlp_norm.forward(&x)?;
        let y = (self.activation.forward(&self.gate.forward(&y)?)? * self.up.forward(&y)?)?;
        Ok((&x + self.down.forward(&y)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused() {
        let read = |json: &str| PixtralConfig::from_section(&Section::parse("config.json", json.as_bytes())?);
        for json in [
            r#"{"num_attention_heads": 7}"#,
            r#"{"hidden_size": 96}"#,
            r#"{"head_dim": 32}"#,
            r#"{"num_channels": 1}"#,
            r#"{"rope_theta": 0}"#,
            r#"{"rope_parameters": {"rope_type": "yarn"}}"#,
            r#"{"patch_size": 0}"#,
        ] {
            assert!(matches!(read(json), Err(Error::Config { .. })), "{json}");
        }
        assert_eq!(read(r#"{"rope_theta": 10000.0, "head_dim": 64}"#).unwrap(), read("{}").unwrap());
    }

    #[test]
    fn sizes_that_do_not_fit_the_pixels_are_refused() {
        let pixels = Tensor::zeros((2, 3, 8, 12), DType::F32, &Device::Cpu).unwrap();
        let read = |sizes: &[[i64; 2]]| {
            let sizes = Tensor::from_vec(sizes.concat(), (sizes.len(), 2), &Device::Cpu).unwrap();
            PatchGrid::read(&sizes, &pixels, 4)
        };
        assert_eq!(read(&[[8, 12], [4, 9]]).unwrap(), [PatchGrid { rows: 2, cols: 3 }, PatchGrid { rows: 1, cols: 2 }]);
        for sizes in [&[[8, 12]][..], &[[8, 13], [8, 12]], &[[3, 12], [8, 12]], &[[-4, 12], [8, 12]]] {
            assert!(matches!(read(sizes), Err(Error::Inputs { .. })), "{sizes:?}");
        }
    }
}
