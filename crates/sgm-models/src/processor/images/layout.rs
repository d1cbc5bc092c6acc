//! The output of an image processor: tensors, and the layout of each image.

use std::collections::BTreeMap;

use candle_core::Tensor;
use image::RgbImage;

/// The processed images of a batch.
#[derive(Debug, Clone, Default)]
pub struct ProcessedImages {
    /// Tensors by their Hugging Face names and in their shapes: `pixel_values` in f32 (even if the settings leave 8-bit
    /// values in transformers), all others in i64. `num_tiles`, nested lists in transformers, is `[batch, images]` with
    /// 0 for missing images.
    pub tensors: BTreeMap<String, Tensor>,
    /// The layout of each image, in order over the rows.
    pub images: Vec<ImageLayout>,
}

/// The layout of one image, which determines its placeholder tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLayout {
    /// Height of the original image, in pixels.
    pub height: u32,
    /// Width of the original image, in pixels.
    pub width: u32,
    /// The rows of the grid: of patches for Qwen-VL; of tokens for Pixtral; of tiles for LLaVA-NeXT, LLaVA-OneVision,
    /// Mllama and InternVL; of squares for Idefics3 and SmolVLM; 0 for an image that was not cut; otherwise 1.
    pub rows: usize,
    /// The columns of the same grid.
    pub cols: usize,
}

impl ImageLayout {
    pub(super) fn new(image: &RgbImage, rows: u32, cols: u32) -> Self {
        Self { height: image.height(), width: image.width(), rows: rows as usize, cols: cols as usize }
    }
}
