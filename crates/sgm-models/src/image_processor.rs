//! From images to the tensors of a vision tower, bit for bit as transformers' image processors do it.

mod anyres;
mod clip;
mod pixels;
mod resample;
mod settings;
mod smart_resize;
mod split;
mod tiles;

use std::collections::BTreeMap;

use candle_core::Tensor;
use image::RgbImage;

pub(crate) use self::anyres::{RESOLUTIONS, Resolutions};
use self::pixels::Pixels;
use self::resample::Filter;
use crate::checkpoint::Checkpoint;
use crate::config::Section;
use crate::{Error, Result};

/// Whose arithmetic an [`ImageProcessor`] follows to the last bit.
///
/// transformers has every image processor twice. Both resize in fixed point, horizontally and then vertically
/// with 8 bits in between. They differ in the precision of the weights (on average in fewer than 1 % of the 8-bit
/// values, by 2 at most), in the side that gets the odd row when a crop is larger than the image, and in how pixels
/// become floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageBackend {
    /// torchvision 0.29 on a CPU, which `AutoProcessor` picks: weights have as many fractional bits as fit 16 bits
    /// (torch's `UpSampleKernel.cpp`), rescaling is folded into the normalisation.
    Torchvision,
    /// Pillow up to 12, the classes whose names end in `Pil`: weights have 22 fractional bits (`Resample.c`),
    /// pixels are rescaled in f64, rounded to f32, then normalised.
    Pillow,
}

/// An image processor with the settings of a checkpoint.
///
/// ```
/// use image::RgbImage;
/// use sgm_models::ImageProcessor;
///
/// let config = br#"{"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12544}"#;
/// let processed = ImageProcessor::from_json(config)?.process(&[vec![&RgbImage::new(100, 60)]])?;
/// assert_eq!((processed.images[0].rows, processed.images[0].cols), (4, 8));
/// assert_eq!(processed.tensors["pixel_values"].dims(), [4 * 8, 3 * 2 * 14 * 14]);
/// # Ok::<(), sgm_models::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    pixels: Pixels,
    family: Family,
}

#[derive(Debug, Clone, PartialEq)]
enum Family {
    Clip(clip::Clip),
    Anyres(anyres::Anyres),
    Tiles(tiles::Tiles),
    SmartResize(smart_resize::SmartResize),
    Split(split::Split),
}

/// What an [`ImageProcessor`] makes of the images of a batch.
#[derive(Debug, Clone, Default)]
pub struct ProcessedImages {
    /// The tensors under their Hugging Face names and in their shapes: `pixel_values` in f32 (also where settings
    /// leave transformers with 8 bits), everything else in i64. `num_tiles`, nested lists there, is
    /// `[batch, images]` with 0 where there is no image.
    pub tensors: BTreeMap<String, Tensor>,
    /// One for each image, in order over the rows.
    pub images: Vec<ImageLayout>,
}

/// How one image was laid out, which decides its placeholder tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLayout {
    /// Height of the original image, in pixels.
    pub height: u32,
    /// Width of the original image, in pixels.
    pub width: u32,
    /// Rows of the grid: patches for Qwen-VL; tiles for LLaVA-NeXT and Mllama; the split for Idefics3 and SmolVLM,
    /// 0 when the image was not split; 1 otherwise.
    pub rows: usize,
    /// Columns of the same grid.
    pub cols: usize,
}

impl ImageLayout {
    fn new(image: &RgbImage, rows: u32, cols: u32) -> Self {
        Self { height: image.height(), width: image.width(), rows: rows as usize, cols: cols as usize }
    }
}

const SUPPORTED: &[&str] = &[
    "CLIPImageProcessor",
    "LlavaImageProcessor",
    "SiglipImageProcessor",
    "BlipImageProcessor",
    "LlavaNextImageProcessor",
    "MllamaImageProcessor",
    "Qwen2VLImageProcessor",
    "Idefics3ImageProcessor",
    "SmolVLMImageProcessor",
];

impl ImageProcessor {
    /// Reads the settings of a checkpoint: `image_processor` of `processor_config.json`, or
    /// `preprocessor_config.json`. `size` is the side of the vision tower's input, which stands in for
    /// settings that are left out.
    pub(crate) fn load(checkpoint: &Checkpoint, size: usize) -> Result<Self> {
        let nested = match checkpoint.json("processor_config.json")? {
            Some(config) if config.get("image_processor").is_some() => Some(config.section("image_processor")?),
            _ => None,
        };
        let config = match nested {
            Some(config) => config,
            None => checkpoint
                .json("preprocessor_config.json")?
                .ok_or_else(|| checkpoint.missing("preprocessor_config.json or image_processor in processor_config.json"))?,
        };
        // A side that no tower has would slip past the checks that settings in the file go through.
        Self::from_config(&config, u32::try_from(size).ok().filter(|side| (1..=4096).contains(side)))
    }

    /// Reads the settings of a `preprocessor_config.json`.
    ///
    /// `image_processor_type` decides the family, with or without `Fast`; `Pil` at its end means
    /// [`ImageBackend::Pillow`]. What is left out has the default of the class in transformers 5.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the key, [`Error::Unsupported`] for another kind of processor.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::from_config(&Section::parse("preprocessor_config.json", json)?, None)
    }

    fn from_config(config: &Section, side: Option<u32>) -> Result<Self> {
        let kind = match config.string("image_processor_type")? {
            Some(kind) => kind.to_owned(),
            // Before transformers 4.26.
            None => config.string("feature_extractor_type")?.unwrap_or("CLIP").replace("FeatureExtractor", "") + "ImageProcessor",
        };
        let backend = if kind.ends_with("Pil") { ImageBackend::Pillow } else { ImageBackend::Torchvision };
        let half = ([0.5; 3], [0.5; 3]);
        let clip = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]);
        let (family, (mean, std), filter) = match kind.trim_end_matches("Fast").trim_end_matches("Pil") {
            "CLIPImageProcessor" => (Family::Clip(clip::Clip::read_clip(config, side)?), clip, Filter::Bicubic),
            "LlavaImageProcessor" => (Family::Clip(clip::Clip::read_llava(config, side)?), clip, Filter::Bicubic),
            "SiglipImageProcessor" => (Family::Clip(clip::Clip::read_siglip(config, side)?), half, Filter::Bicubic),
            "BlipImageProcessor" => (Family::Clip(clip::Clip::read_blip(config, side)?), clip, Filter::Bicubic),
            "LlavaNextImageProcessor" => (Family::Anyres(anyres::Anyres::new(config, side)?), clip, Filter::Bicubic),
            "MllamaImageProcessor" => (Family::Tiles(tiles::Tiles::new(config, side)?), half, Filter::Bilinear),
            "Qwen2VLImageProcessor" => (Family::SmartResize(smart_resize::SmartResize::new(config)?), clip, Filter::Bicubic),
            "Idefics3ImageProcessor" | "SmolVLMImageProcessor" => (Family::Split(split::Split::new(config, side)?), half, Filter::Lanczos),
            _ => return Err(Error::Unsupported { what: "image processor", got: kind, supported: SUPPORTED }),
        };
        Ok(Self { pixels: Pixels::new(config, backend, filter, mean, std)?, family })
    }

    /// The same settings with the arithmetic of `backend`.
    #[must_use]
    pub fn with_backend(mut self, backend: ImageBackend) -> Self {
        self.pixels.backend = backend;
        self
    }

    /// The arithmetic in use.
    pub fn backend(&self) -> ImageBackend {
        self.pixels.backend
    }

    /// Processes all images of a batch; a row holds the images of one sequence and may be empty.
    ///
    /// Shapes of `pixel_values` and what comes with them:
    ///
    /// * CLIP, SigLIP, BLIP, LLaVA: `[images, 3, height, width]`;
    /// * LLaVA-NeXT: `[images, 1 + tiles, 3, height, width]`, the whole image first, zeros after an image's last
    ///   tile; `image_sizes [images, 2]` are the original heights and widths;
    /// * Mllama: `[batch, images, tiles, 3, side, side]`; `aspect_ratio_ids`, `num_tiles [batch, images]` and
    ///   `aspect_ratio_mask [batch, images, tiles]`;
    /// * Qwen-VL: `[patches, 3 * temporal_patch_size * patch_size^2]`; `image_grid_thw [images, 3]`;
    /// * Idefics3, SmolVLM: `[batch, tiles, 3, side, side]`, the tiles of all images of a row, each image's whole
    ///   view last; `pixel_attention_mask [batch, tiles, side, side]`.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when there is no image, an image is empty, so large or elongated that its processed form would be
    /// huge (or transformers refuses it), or the images of a batch do not fit one tensor.
    pub fn process(&self, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let mut images = rows.iter().flatten().peekable();
        if images.peek().is_none() {
            return Err(Error::Inputs { reason: "there is no image to process".to_owned() });
        }
        if images.any(|image| image.width() == 0 || image.height() == 0) {
            return Err(Error::Inputs { reason: "an image has no pixels".to_owned() });
        }
        match &self.family {
            Family::Clip(family) => family.process(&self.pixels, rows),
            Family::Anyres(family) => family.process(&self.pixels, rows),
            Family::Tiles(family) => family.process(&self.pixels, rows),
            Family::SmartResize(family) => family.process(&self.pixels, rows),
            Family::Split(family) => family.process(&self.pixels, rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_tower_does_not_reach_the_pixels() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), "{}").unwrap();
        for kind in SUPPORTED {
            let json = format!(r#"{{"image_processor_type": "{kind}", "do_resize": {}}}"#, kind.starts_with('M'));
            std::fs::write(directory.path().join("preprocessor_config.json"), json).unwrap();
            let checkpoint = Checkpoint::open(directory.path()).unwrap();
            for size in [0, 1, 336, 1 << 20, usize::MAX] {
                let image = RgbImage::new(28, 28);
                let processed = ImageProcessor::load(&checkpoint, size).and_then(|p| p.process(&[vec![&image]]));
                assert!(matches!(processed, Ok(_) | Err(Error::Inputs { .. } | Error::Config { .. })), "{kind} {size}");
            }
        }
    }
}
