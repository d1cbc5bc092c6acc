//! Image processing for CLIP, SigLIP, BLIP and Gemma 3, with one picture per image, and LLaVA's padding to a square.

use std::borrow::Cow;

use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::processor::images::layout::{ImageLayout, ProcessedImages};
use crate::processor::images::pixels::{Pixels, common_extent, extent_of, pad_to_square, tensor};
use crate::processor::images::settings::{Extent, Size, extent, flag, padding_colour};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Clip {
    /// The colour of the padding that makes the image square before all other steps.
    square: Option<[u8; 3]>,
    resize: Option<Size>,
    crop: Option<Extent>,
    pad: Pad,
}

/// The padding of normalised images.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pad {
    /// No padding: all images must have the same size.
    None,
    /// Zeros up to the largest height and width of the batch.
    Batch,
    /// Zeros up to a given height and width.
    To(Extent),
}

impl Clip {
    pub(super) fn read_clip(config: &Section, side: Option<u32>) -> Result<Self> {
        let side = side.unwrap_or(224);
        Self::new(config, Size::Shortest(side), false, Some((side, side)))
    }

    pub(super) fn read_siglip(config: &Section, side: Option<u32>) -> Result<Self> {
        let side = side.unwrap_or(224);
        Self::new(config, Size::Exact((side, side)), false, None)
    }

    pub(super) fn read_blip(config: &Section, side: Option<u32>) -> Result<Self> {
        let side = side.unwrap_or(384);
        Self::new(config, Size::Exact((side, side)), true, None)
    }

    /// Gemma 3 without pan and scan, which transformers leaves off unless a call asks for it.
    pub(super) fn read_gemma3(config: &Section, side: Option<u32>) -> Result<Self> {
        const KEY: &str = "do_pan_and_scan";
        if flag(config, KEY, false)? {
            return Err(config.error(KEY, "crops of elongated images are not supported; set it to false, as Gemma3Processor does"));
        }
        let side = side.unwrap_or(224);
        Self::new(config, Size::Exact((side, side)), true, None)
    }

    pub(super) fn read_llava(config: &Section, side: Option<u32>) -> Result<Self> {
        let mut clip = Self::read_clip(config, side)?;
        clip.pad = Pad::None;
        if flag(config, "do_pad", false)? {
            clip.square = Some(padding_colour(config)?);
        }
        Ok(clip)
    }

    fn new(config: &Section, size: Size, square: bool, crop: Option<Extent>) -> Result<Self> {
        let resize = match Size::read(config, "size", square)? {
            _ if !flag(config, "do_resize", true)? => None,
            Some(Size::Longest(_)) => return Err(config.error("size", "longest_edge needs shortest_edge here")),
            given => Some(given.unwrap_or(size)),
        };
        let crop = match (flag(config, "do_center_crop", crop.is_some())?, extent(config, "crop_size")?.or(crop)) {
            (false, _) => None,
            (true, None) => return Err(config.error("crop_size", "is missing, and do_center_crop is true")),
            (true, crop) => crop,
        };
        let pad = match (flag(config, "do_pad", false)?, extent(config, "pad_size")?) {
            (false, _) => Pad::None,
            (true, None) => Pad::Batch,
            (true, Some(extent)) => Pad::To(extent),
        };
        Ok(Self { square: None, resize, crop, pad })
    }

    pub(super) fn process(&self, pixels: &Pixels, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let images: Vec<&RgbImage> = rows.iter().flatten().copied().collect();
        let fitted = images.iter().map(|image| self.fit(pixels, image)).collect::<Result<Vec<_>>>()?;
        let extents = || fitted.iter().map(|image| extent_of(image));
        let (height, width) = match self.pad {
            Pad::None => common_extent(fitted.iter().map(AsRef::as_ref))?,
            Pad::Batch => extents().fold((0, 0), |(h, w), (height, width)| (h.max(height), w.max(width))),
            Pad::To(extent) => extent,
        };
        if let Some(large) = extents().find(|(h, w)| *h > height || *w > width) {
            return Err(Error::Inputs { reason: format!("pad_size is smaller than an image of {large:?} (height, width)") });
        }
        let mut data = Vec::new();
        fitted.iter().for_each(|image| pixels.planes(image, (height, width), &mut data));
        let values = tensor(data, &[images.len(), 3, height as usize, width as usize])?;
        Ok(ProcessedImages {
            tensors: [("pixel_values".to_owned(), values)].into(),
            images: images.iter().map(|image| ImageLayout::new(image, 1, 1)).collect(),
        })
    }

    fn fit<'a>(&self, pixels: &Pixels, image: &'a RgbImage) -> Result<Cow<'a, RgbImage>> {
        let mut image = match self.square {
            Some(colour) => pad_to_square(image, colour)?,
            None => Cow::Borrowed(image),
        };
        if let Some(size) = self.resize {
            let extent = size.target(extent_of(&image));
            image = pixels.resize(image, extent)?;
        }
        if let Some(crop) = self.crop {
            image = Cow::Owned(pixels.crop_centre(&image, crop));
        }
        Ok(image)
    }
}
