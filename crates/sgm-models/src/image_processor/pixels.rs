//! What all families do with pixels: resize, cut out, normalise.

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use image::RgbImage;

use super::ImageBackend;
use super::resample::{self, Filter};
use super::settings::{Extent, MAX_PIXELS, MAX_SIDE, flag, triple};
use crate::config::Section;
use crate::{Error, Result};

/// The settings of these steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pixels {
    pub(super) backend: ImageBackend,
    filter: Filter,
    /// What 8-bit values are multiplied by.
    rescale: Option<f64>,
    /// Mean and standard deviation.
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
        if rescale.is_some_and(|factor| factor <= 0.0 || !single(1.0 / factor).is_finite()) {
            return Err(config.error("rescale_factor", "must be positive, and so must its inverse in f32"));
        }
        let normalise = if flag(config, "do_normalize", true)? {
            Some((triple(config, "image_mean", mean)?, triple(config, "image_std", std)?))
        } else {
            None
        };
        if normalise.is_some_and(|(_, std)| std.map(single).contains(&0.0)) {
            return Err(config.error("image_std", "must not contain 0"));
        }
        Ok(Self { backend, filter, rescale, normalise })
    }

    /// Resizes to a height and width, which are refused if they are 0 or huge.
    pub(super) fn resize<'a>(&self, image: Cow<'a, RgbImage>, (height, width): Extent) -> Result<Cow<'a, RgbImage>> {
        let pixels = u64::from(height) * u64::from(width);
        let between = u64::from(image.height()) * u64::from(width);
        if height.max(width) > MAX_SIDE || pixels == 0 || pixels > MAX_PIXELS || between > 4 * MAX_PIXELS {
            let (from_width, from_height) = image.dimensions();
            let reason = format!("an image of {from_width}x{from_height} would become {width}x{height}");
            return Err(Error::Inputs { reason });
        }
        Ok(resample::resize(image, width, height, self.filter, self.backend))
    }

    /// The middle of an image; where the image is smaller than the cut, the rest is black.
    pub(super) fn centre(&self, image: &RgbImage, (height, width): Extent) -> RgbImage {
        // The backends disagree on which side an odd row of padding goes to.
        let offset = |image: u32, crop: u32| match (i64::from(image) - i64::from(crop), self.backend) {
            (missing @ ..0, ImageBackend::Pillow) => (missing - 1) / 2,
            (rest, _) => rest / 2,
        };
        let (left, top) = (offset(image.width(), width), offset(image.height(), height));
        window(image, (top, left), (height, width), [0; 3])
    }

    /// Appends the channels of an image as planes of `height` by `width`, normalised; below and to the right of the
    /// image they are 0.
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

    /// What becomes of each of the 256 values of each channel.
    pub(super) fn table(&self) -> [[f32; 256]; 3] {
        let mut tables = [[0.0; 256]; 3];
        for (channel, table) in tables.iter_mut().enumerate() {
            let normalise = self.normalise.map(|(mean, std)| {
                let of = |values: [f64; 3]| values.into_iter().nth(channel).map_or(0.0, single);
                (of(mean), of(std))
            });
            for (value, out) in (0u8..=255).zip(table) {
                *out = match (self.backend, self.rescale, normalise) {
                    (ImageBackend::Torchvision, Some(factor), Some((mean, std))) => {
                        let inverse = single(1.0 / factor);
                        (f32::from(value) - mean * inverse) / (std * inverse)
                    }
                    (ImageBackend::Torchvision, Some(factor), None) => f32::from(value) * single(factor),
                    (ImageBackend::Pillow, Some(factor), Some((mean, std))) => (single(f64::from(value) * factor) - mean) / std,
                    (ImageBackend::Pillow, Some(factor), None) => single(f64::from(value) * factor),
                    (_, None, Some((mean, std))) => (f32::from(value) - mean) / std,
                    (_, None, None) => f32::from(value),
                };
            }
        }
        tables
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the reference computes in f32 from here on")]
fn single(x: f64) -> f32 {
    x as f32
}

/// A part of an image by its top and left, height and width; `fill` is what lies outside the image.
pub(super) fn window(image: &RgbImage, (top, left): (i64, i64), (height, width): Extent, fill: [u8; 3]) -> RgbImage {
    let mut out = RgbImage::from_pixel(width, height, image::Rgb(fill));
    // Along each axis: the first pixel in the window, the first in the image, how many there are.
    let overlap = |offset: i64, window: u32, image: u32| -> (usize, usize, usize) {
        let count = (offset + i64::from(window)).min(i64::from(image)) - offset.max(0);
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

/// A tensor of the given shape.
pub(super) fn tensor<T: candle_core::WithDType>(data: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
}

/// Height and width.
pub(super) fn extent_of(image: &RgbImage) -> Extent {
    (image.height(), image.width())
}

/// The common height and width of images or tiles that go into one tensor.
pub(super) fn common<'a>(images: impl Iterator<Item = &'a RgbImage>) -> Result<Extent> {
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
