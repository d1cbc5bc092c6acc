//! Image processing for Qwen-VL: patches of the image in its own proportions.

use std::borrow::Cow;

use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::processor::images::layout::{ImageLayout, ProcessedImages};
use crate::processor::images::pixels::{Pixels, extent_of, tensor};
use crate::processor::images::settings::{Extent, MAX_PIXELS, MAX_SIDE, flag, truncated};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct SmartResize {
    resize: bool,
    min_pixels: f64,
    max_pixels: f64,
    /// The side of a patch.
    patch: u32,
    /// The number of equal frames that an image is repeated for.
    frames: usize,
    /// The side, in patches, of the squares into which patches are grouped.
    merge: u32,
}

impl SmartResize {
    pub(super) fn new(config: &Section) -> Result<Self> {
        let (mut min_pixels, mut max_pixels) = (Some(56 * 56), Some(28 * 28 * 1280));
        if config.get("size").is_some() {
            let size = config.section("size")?;
            (min_pixels, max_pixels) = (size.usize("shortest_edge")?, size.usize("longest_edge")?);
        }
        let min_pixels = config.usize("min_pixels")?.or(min_pixels).filter(|n| *n > 0);
        let max_pixels = config.usize("max_pixels")?.or(max_pixels).filter(|n| *n > 0);
        let (Some(min_pixels), Some(max_pixels)) = (min_pixels, max_pixels) else {
            return Err(config.error("size", "expected shortest_edge and longest_edge, in pixels of area, or min_pixels and max_pixels"));
        };
        let small = |key: &str, default: usize| match config.positive(key, default)? {
            n if n > MAX_SIDE as usize => Err(config.error(key, format!("{n} is too large"))),
            n => Ok(n),
        };
        let (patch, merge) = (small("patch_size", 14)?, small("merge_size", 2)?);
        if patch * merge > MAX_SIDE as usize {
            return Err(config.error("merge_size", "is too large, together with patch_size"));
        }
        // Neither number is above 2^31.
        let float = |n: usize| u32::try_from(n).map_or(f64::MAX, f64::from);
        Ok(Self {
            resize: flag(config, "do_resize", true)?,
            min_pixels: float(min_pixels),
            max_pixels: float(max_pixels),
            patch: u32::try_from(patch).unwrap_or(MAX_SIDE),
            frames: small("temporal_patch_size", 2)?,
            merge: u32::try_from(merge).unwrap_or(MAX_SIDE),
        })
    }

    pub(super) fn process(&self, pixels: &Pixels, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let table = pixels.table();
        let (mut data, mut grids, mut images) = (Vec::new(), Vec::new(), Vec::new());
        let mut patches = 0;
        for image in rows.iter().flatten() {
            let mut fitted = Cow::Borrowed(*image);
            if self.resize {
                fitted = pixels.resize(fitted, self.target(extent_of(image))?)?;
            }
            let (height, width) = extent_of(&fitted);
            let factor = self.patch * self.merge;
            if height % factor != 0 || width % factor != 0 {
                let reason = format!("do_resize is false, and an image of {width}x{height} is not a multiple of {factor} on both sides");
                return Err(Error::Inputs { reason });
            }
            if u64::from(height) * u64::from(width) * self.frames as u64 > 2 * MAX_PIXELS {
                return Err(Error::Inputs { reason: format!("{} frames of {width}x{height} are too many pixels", self.frames) });
            }
            let (rows, columns) = (height / self.patch, width / self.patch);
            grids.extend([1, i64::from(rows), i64::from(columns)]);
            images.push(ImageLayout::new(image, rows, columns));
            patches += rows as usize * columns as usize;
            for row in (0..rows).step_by(self.merge as usize) {
                for column in (0..columns).step_by(self.merge as usize) {
                    for row in row..row + self.merge {
                        for column in column..column + self.merge {
                            self.patch(&fitted, (row, column), &table, &mut data);
                        }
                    }
                }
            }
        }
        let side = self.patch as usize;
        let values = tensor(data, &[patches, 3 * self.frames * side * side])?;
        let grids = tensor(grids, &[images.len(), 3])?;
        Ok(ProcessedImages { tensors: [("pixel_values".to_owned(), values), ("image_grid_thw".to_owned(), grids)].into(), images })
    }

    /// Appends one patch in the order `[channel, frame, y, x]`.
    fn patch(&self, image: &RgbImage, (row, column): Extent, table: &[[f32; 256]; 3], data: &mut Vec<f32>) {
        let (width, side) = (image.width() as usize, self.patch as usize);
        let left = 3 * column as usize * side;
        for (channel, table) in table.iter().enumerate() {
            let start = data.len();
            for pixels in image.as_raw().chunks_exact(3 * width).skip(row as usize * side).take(side) {
                let pixels = pixels.get(left..left + 3 * side).unwrap_or_default();
                data.extend(pixels.iter().skip(channel).step_by(3).filter_map(|value| table.get(usize::from(*value))));
            }
            let end = data.len();
            (1..self.frames).for_each(|_| data.extend_from_within(start..end));
        }
    }

    /// The nearest height and width that are whole numbers of patches, with between `min_pixels` and `max_pixels`
    /// pixels.
    fn target(&self, (height, width): Extent) -> Result<Extent> {
        let [h, w, factor] = [height, width, self.patch * self.merge].map(f64::from);
        let (min, max) = (self.min_pixels, self.max_pixels);
        if h.max(w) / h.min(w) > 200.0 {
            return Err(Error::Inputs { reason: format!("an image of {width}x{height} is longer than 200 times its width") });
        }
        // Halves are rounded to even.
        let (rows, columns) = ((h / factor).round_ties_even() * factor, (w / factor).round_ties_even() * factor);
        let extent = if rows * columns > max {
            let shrink = (h * w / max).sqrt();
            [h, w].map(|n| factor.max((n / shrink / factor).floor() * factor))
        } else if rows * columns < min {
            let grow = (min / (h * w)).sqrt();
            [h, w].map(|n| (n * grow / factor).ceil() * factor)
        } else {
            [rows, columns]
        };
        let [height, width] = extent.map(truncated);
        Ok((height, width))
    }
}
