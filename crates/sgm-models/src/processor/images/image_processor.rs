//! The image processor: settings of a checkpoint, and the choice of a pixel layout.

use image::RgbImage;

use crate::checkpoint::model_files::Checkpoint;
use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::processor::images::anyres::Anyres;
use crate::processor::images::clip::Clip;
use crate::processor::images::layout::ProcessedImages;
use crate::processor::images::longest_edge::LongestEdge;
use crate::processor::images::pixels::Pixels;
use crate::processor::images::ratio_tiles::RatioTiles;
use crate::processor::images::resample::{Filter, ImageBackend};
use crate::processor::images::settings::CLIP_MEAN;
use crate::processor::images::smart_resize::SmartResize;
use crate::processor::images::split::Split;
use crate::processor::images::tiles::Tiles;

/// An image processor with the settings of a checkpoint, bit-equal to those of transformers.
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
    layout: PixelLayout,
}

/// The layout of pixels in tensors, with its settings.
#[derive(Debug, Clone, PartialEq)]
enum PixelLayout {
    Clip(Clip),
    Anyres(Anyres),
    Tiles(Tiles),
    RatioTiles(RatioTiles),
    SmartResize(SmartResize),
    Split(Split),
    LongestEdge(LongestEdge),
}

const SUPPORTED: &[&str] = &[
    "CLIPImageProcessor",
    "LlavaImageProcessor",
    "SiglipImageProcessor",
    "BlipImageProcessor",
    "Gemma3ImageProcessor",
    "LlavaNextImageProcessor",
    "LlavaOnevisionImageProcessor",
    "MllamaImageProcessor",
    "GotOcr2ImageProcessor",
    "Qwen2VLImageProcessor",
    "Idefics3ImageProcessor",
    "SmolVLMImageProcessor",
    "PixtralImageProcessor",
];

impl ImageProcessor {
    /// Reads the settings of a checkpoint: `image_processor` of `processor_config.json`, or `preprocessor_config.json`.
    /// `size` is the side of the vision tower's input and stands in for missing settings.
    pub(crate) fn load(checkpoint: &Checkpoint, size: usize) -> Result<Self> {
        let nested = match checkpoint.json("processor_config.json")? {
            Some(config) if config.get("image_processor").is_some() => Some(config.section("image_processor")?),
            _ => None,
        };
        let config = match nested {
            Some(config) => config,
            None => checkpoint
                .json("preprocessor_config.json")?
                .ok_or_else(|| checkpoint.missing_file("preprocessor_config.json or image_processor in processor_config.json"))?,
        };
        // An implausible side would bypass the checks on settings in the file.
        Self::from_config(&config, u32::try_from(size).ok().filter(|side| (1..=4096).contains(side)))
    }

    /// Reads the settings of a `preprocessor_config.json`.
    ///
    /// `image_processor_type` determines the kind of processor; the suffix `Fast` has no effect, and the suffix `Pil`
    /// selects [`ImageBackend::Pillow`]. Missing settings take the defaults of the class in transformers 5.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] with the invalid key; [`Error::Unsupported`] for another kind of processor.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::from_config(&Section::parse("preprocessor_config.json", json)?, None)
    }

    fn from_config(config: &Section, side: Option<u32>) -> Result<Self> {
        let kind = match config.string("image_processor_type")? {
            Some(kind) => kind.to_owned(),
            // The key before transformers 4.26.
            None => config.string("feature_extractor_type")?.unwrap_or("CLIP").replace("FeatureExtractor", "") + "ImageProcessor",
        };
        let backend = if kind.ends_with("Pil") { ImageBackend::Pillow } else { ImageBackend::Torchvision };
        let half = ([0.5; 3], [0.5; 3]);
        let clip = (CLIP_MEAN, [0.26862954, 0.26130258, 0.27577711]);
        let (layout, (mean, std), filter) = match kind.trim_end_matches("Fast").trim_end_matches("Pil") {
            "CLIPImageProcessor" => (PixelLayout::Clip(Clip::read_clip(config, side)?), clip, Filter::Bicubic),
            "LlavaImageProcessor" => (PixelLayout::Clip(Clip::read_llava(config, side)?), clip, Filter::Bicubic),
            "SiglipImageProcessor" => (PixelLayout::Clip(Clip::read_siglip(config, side)?), half, Filter::Bicubic),
            "BlipImageProcessor" => (PixelLayout::Clip(Clip::read_blip(config, side)?), clip, Filter::Bicubic),
            "Gemma3ImageProcessor" => (PixelLayout::Clip(Clip::read_gemma3(config, side)?), half, Filter::Bilinear),
            "LlavaNextImageProcessor" => (PixelLayout::Anyres(Anyres::read_next(config, side)?), clip, Filter::Bicubic),
            "LlavaOnevisionImageProcessor" => (PixelLayout::Anyres(Anyres::read_one_vision(config, side)?), clip, Filter::Bicubic),
            "MllamaImageProcessor" => (PixelLayout::Tiles(Tiles::new(config, side)?), half, Filter::Bilinear),
            "GotOcr2ImageProcessor" => (PixelLayout::RatioTiles(RatioTiles::new(config, side)?), clip, Filter::Bicubic),
            "Qwen2VLImageProcessor" => (PixelLayout::SmartResize(SmartResize::new(config)?), clip, Filter::Bicubic),
            "Idefics3ImageProcessor" | "SmolVLMImageProcessor" => (PixelLayout::Split(Split::new(config, side)?), half, Filter::Lanczos),
            "PixtralImageProcessor" => (PixelLayout::LongestEdge(LongestEdge::new(config)?), clip, Filter::Bicubic),
            _ => return Err(Error::Unsupported { what: "image processor", got: kind, supported: SUPPORTED }),
        };
        Ok(Self { pixels: Pixels::new(config, backend, filter, mean, std)?, layout })
    }

    /// Sets the side of a token in pixels, for the kind whose tokens may cover several patches.
    pub(crate) fn with_token_side(mut self, side: u32) -> Self {
        if let PixelLayout::LongestEdge(layout) = self.layout {
            self.layout = PixelLayout::LongestEdge(layout.with_token(side));
        }
        self
    }

    /// Sets the backend whose arithmetic is followed.
    #[must_use]
    pub fn with_backend(mut self, backend: ImageBackend) -> Self {
        self.pixels.backend = backend;
        self
    }

    /// Cuts images into tiles (`crop_to_patches`), for kinds where this is a setting.
    pub(crate) fn cropping_to_patches(mut self) -> Self {
        if let PixelLayout::RatioTiles(layout) = self.layout {
            self.layout = PixelLayout::RatioTiles(layout.cropping());
        }
        self
    }

    /// The backend whose arithmetic is followed.
    pub fn backend(&self) -> ImageBackend {
        self.pixels.backend
    }

    /// Processes all images of a batch; a row holds the images of one sequence and may be empty.
    ///
    /// The shapes of `pixel_values`, with the other tensors of each kind:
    ///
    /// * CLIP, SigLIP, BLIP, LLaVA, Gemma 3: `[images, 3, height, width]`;
    /// * LLaVA-NeXT: `[images, 1 + tiles, 3, height, width]`, the whole image first, zeros after an image's last tile;
    ///   `image_sizes [images, 2]` are the original heights and widths;
    /// * LLaVA-OneVision: as LLaVA-NeXT, but the images of a row with several images are not cut into tiles;
    ///   `batch_num_images` are the numbers of images of the rows that have any;
    /// * Mllama: `[batch, images, tiles, 3, side, side]`; `aspect_ratio_ids`, `num_tiles [batch, images]` and
    ///   `aspect_ratio_mask [batch, images, tiles]`;
    /// * GOT-OCR 2, which InternVL uses: `[tiles, 3, height, width]`, the tiles of each image and, if there are several,
    ///   the whole image; `num_patches [images]` are their numbers;
    /// * Qwen-VL: `[patches, 3 * temporal_patch_size * patch_size^2]`; `image_grid_thw [images, 3]`;
    /// * Idefics3, SmolVLM: `[batch, tiles, 3, side, side]`, the tiles of all images of a row, each followed by the
    ///   whole image; `pixel_attention_mask [batch, tiles, side, side]`;
    /// * Pixtral: `[images, 3, height, width]`, zeros below and to the right of smaller images; `image_sizes [images, 2]` are
    ///   the heights and widths without them.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] if there is no image, if an image is empty, or so large or elongated that its processed form
    /// would be huge or transformers refuses it, or if the images of a batch do not fit one tensor.
    pub fn process(&self, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let mut images = rows.iter().flatten().peekable();
        if images.peek().is_none() {
            return Err(Error::Inputs { reason: "there is no image to process".to_owned() });
        }
        if images.any(|image| image.width() == 0 || image.height() == 0) {
            return Err(Error::Inputs { reason: "an image has no pixels".to_owned() });
        }
        match &self.layout {
            PixelLayout::Clip(layout) => layout.process(&self.pixels, rows),
            PixelLayout::Anyres(layout) => layout.process(&self.pixels, rows),
            PixelLayout::Tiles(layout) => layout.process(&self.pixels, rows),
            PixelLayout::RatioTiles(layout) => layout.process(&self.pixels, rows),
            PixelLayout::SmartResize(layout) => layout.process(&self.pixels, rows),
            PixelLayout::Split(layout) => layout.process(&self.pixels, rows),
            PixelLayout::LongestEdge(layout) => layout.process(&self.pixels, rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implausible_tower_sizes_are_ignored_or_refused() {
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
