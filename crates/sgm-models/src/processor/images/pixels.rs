//! The steps on pixels that all kinds of image processors share: resizing, cropping and normalisation.

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::processor::images::resample;
use crate::processor::images::resample::{Filter, ImageBackend};
use crate::processor::images::settings::{Extent, MAX_PIXELS, MAX_SIDE, flag, per_channel};

/// The settings of these steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pixels {
    pub(super) backend: ImageBackend,
    filter: Filter,
    /// A factor on 8-bit values.
    rescale: Option<f64>,
    /// The mean and standard deviation of each channel.
    normalise: Option<([f64; 3], [f64; 3])>,
}

impl Pixels {
    pub(super) fn new(config: &Section, backend: ImageBackend, filter: Filter, mean: [f64; 3], std: [f64; 3]) -> Result<Self> {
        let filter = match config.i64("resample")? {
            None => filter,
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(other) => {
                return Err(config.error("resample", format!("{other} is not supported; 1 (lanczos), 2 (bilinear) and 3 (bicubic) are")));
            }
        };
        let rescale = if flag(config, "do_rescale", true)? { Some(config.f64("rescale_factor")?.unwrap_or(1.0 / 255.0)) } else { None };
        if rescale.is_some_and(|factor| factor <= 0.0 || !to_f32(1.0 / factor).is_finite()) {
            return Err(config.error("rescale_factor", "must be positive, and so must its inverse in f32"));
        }
        let normalise = if flag(config, "do_normalize", true)? {
            Some((per_channel(config, "image_mean", mean)?, per_channel(config, "image_std", std)?))
        } else {
            None
        };
        if normalise.is_some_and(|(_, std)| std.map(to_f32).contains(&0.0)) {
            return Err(config.error("image_std", "must not contain 0"));
        }
        Ok(Self { backend, filter, rescale, normalise })
    }

    /// Resizes to a height and width. Empty and huge results are refused.
    pub(super) fn resize<'a>(&self, image: Cow<'a, RgbImage>, (height, width): Extent) -> Result<Cow<'a, RgbImage>> {
        let pixels = u64::from(height) * u64::from(width);
        let between = u64::from(image.height()) * u64::from(width);
        if height.max(width) > 4 * MAX_SIDE || pixels == 0 || pixels > MAX_PIXELS || between > 4 * MAX_PIXELS {
            let (from_width, from_height) = image.dimensions();
            let reason = format!("an image of {from_width}x{from_height} would become {width}x{height}");
            return Err(Error::Inputs { reason });
        }
        Ok(resample::resize(image, width, height, self.filter, self.backend))
    }

    /// Crops the centre of an image; a crop beyond the image is filled with black.
    pub(super) fn crop_centre(&self, image: &RgbImage, (height, width): Extent) -> RgbImage {
        // The backends differ in the side that gets an odd row of padding.
        let offset = |image: u32, crop: u32| match (i64::from(image) - i64::from(crop), self.backend) {
            (missing @ ..0, ImageBackend::Pillow) => (missing - 1) / 2,
            (rest, _) => rest / 2,
        };
        let (left, top) = (offset(image.width(), width), offset(image.height(), height));
        cut_out(image, (top, left), (height, width), [0; 3])
    }

    /// Appends the normalised channels of an image as planes of `height` by `width`, with zeros below and to the right
    /// of the image.
    pub(super) fn planes(&self, image: &RgbImage, (height, width): Extent, out: &mut Vec<f32>) {
        let missing = width.saturating_sub(image.width()) as usize;
        for (channel, table) in self.table().iter().enumerate() {
            let end = out.len() + height as usize * width as usize;
            for row in image.as_raw().chunks_exact(3 * image.width() as usize) {
                out.extend(row.iter().skip(channel).step_by(3).filter_map(|value| table.get(usize::from(*value))));
                out.extend(std::iter::repeat_n(0.0, missing));
            }
            out.resize(end, 0.0);
        }
    }

    /// The normalised value of each of the 256 values of each channel.
    pub(super) fn table(&self) -> [[f32; 256]; 3] {
        let mut tables = [[0.0; 256]; 3];
        for (channel, table) in tables.iter_mut().enumerate() {
            let normalise = self.normalise.map(|(mean, std)| {
                let of = |values: [f64; 3]| values.into_iter().nth(channel).map_or(0.0, to_f32);
                (of(mean), of(std))
            });
            for (value, out) in (0u8..=255).zip(table) {
                *out = match (self.backend, self.rescale, normalise) {
                    (ImageBackend::Torchvision, Some(factor), Some((mean, std))) => {
                        let inverse = to_f32(1.0 / factor);
                        (f32::from(value) - mean * inverse) / (std * inverse)
                    }
                    (ImageBackend::Torchvision, Some(factor), None) => f32::from(value) * to_f32(factor),
                    (ImageBackend::Pillow, Some(factor), Some((mean, std))) => (to_f32(f64::from(value) * factor) - mean) / std,
                    (ImageBackend::Pillow, Some(factor), None) => to_f32(f64::from(value) * factor),
                    (_, None, Some((mean, std))) => (f32::from(value) - mean) / std,
                    (_, None, None) => f32::from(value),
                };
            }
        }
        tables
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the reference computes in f32 from here on")]
fn to_f32(x: f64) -> f32 {
    x as f32
}

/// Cuts out a rectangle by its top and left, height and width; `fill` is the colour outside the image.
pub(super) fn cut_out(image: &RgbImage, (top, left): (i64, i64), (height, width): Extent, fill: [u8; 3]) -> RgbImage {
    let mut out = RgbImage::from_pixel(width, height, image::Rgb(fill));
    // Along each axis: the first pixel in the rectangle, the first pixel in the image, and the number of pixels.
    let overlap = |offset: i64, cut_out: u32, image: u32| -> (usize, usize, usize) {
        let count = (offset + i64::from(cut_out)).min(i64::from(image)) - offset.max(0);
        let index = |n: i64| usize::try_from(n).unwrap_or(0);
        (index(-offset), index(offset), index(count))
    };
    let (to_y, from_y, rows) = overlap(top, height, image.height());
    let (to_x, from_x, columns) = overlap(left, width, image.width());
    let source = image.as_raw().chunks_exact(3 * image.width() as usize).skip(from_y);
    for (to, from) in out.chunks_exact_mut(3 * width as usize).skip(to_y).zip(source).take(rows) {
        let to = to.get_mut(3 * to_x..3 * (to_x + columns)).unwrap_or_default();
        let from = from.get(3 * from_x..3 * (from_x + columns)).unwrap_or_default();
        if to.len() == from.len() {
            to.copy_from_slice(from);
        }
    }
    out
}

/// Pads an image to a square with a colour; the smaller half of the padding comes first.
pub(super) fn pad_to_square(image: &RgbImage, colour: [u8; 3]) -> Result<Cow<'_, RgbImage>> {
    let (height, width) = extent_of(image);
    let side = height.max(width);
    if u64::from(side) * u64::from(side) > 4 * MAX_PIXELS {
        return Err(Error::Inputs { reason: format!("an image of {width}x{height} would be padded to {side}x{side}") });
    }
    let before = |n: u32| -i64::from((side - n) / 2);
    Ok(Cow::Owned(cut_out(image, (before(height), before(width)), (side, side), colour)))
}

/// A tensor of the given shape.
pub(super) fn tensor<T: candle_core::WithDType>(data: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

/// The height and width of an image.
pub(super) fn extent_of(image: &RgbImage) -> Extent {
    (image.height(), image.width())
}

/// The common height and width of images or tiles for one tensor.
pub(super) fn common_extent<'a>(images: impl Iterator<Item = &'a RgbImage>) -> Result<Extent> {
    let mut extents = images.map(extent_of);
    let first = extents.next().unwrap_or_default();
    match extents.find(|e| *e != first) {
        None => Ok(first),
        Some(other) => {
            let reason = format!("images of {first:?} and {other:?} (height, width) do not fit one tensor; process them one by one");
            Err(Error::Inputs { reason })
        }
    }
}
