//! Image processing for Mllama: the image on a canvas of square tiles, with the best arrangement of tiles.

use std::borrow::Cow;

use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::Result;
use crate::processor::images::layout::{ImageLayout, ProcessedImages};
use crate::processor::images::pixels::{Pixels, cut_out, extent_of, tensor};
use crate::processor::images::settings::{Extent, MAX_PIXELS, MAX_TILES, Size, flag, truncated};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tiles {
    /// The side of a tile.
    side: u32,
    /// The maximum number of tiles of an image.
    max: u32,
    /// The possible numbers of rows and columns of tiles, in the order of their ids, which start at 1.
    arrangements: Vec<Extent>,
}

impl Tiles {
    pub(super) fn new(config: &Section, side: Option<u32>) -> Result<Self> {
        let side = side.unwrap_or(224);
        let side = match Size::read(config, "size", true)?.unwrap_or(Size::Exact((side, side))) {
            Size::Exact((height, width)) if height == width => height,
            _ => return Err(config.error("size", "expected equal height and width")),
        };
        for key in ["do_resize", "do_pad"] {
            if !flag(config, key, true)? {
                return Err(config.error(key, "must be true for this kind of image processor"));
            }
        }
        let max = config.positive("max_image_tiles", 4)?;
        let max = u32::try_from(max)
            .ok()
            .filter(|max| *max <= MAX_TILES && u64::from(*max) * u64::from(side) * u64::from(side) <= MAX_PIXELS)
            .ok_or_else(|| config.error("max_image_tiles", format!("{max} tiles of {side}x{side} are too many")))?;
        let arrangements = (1..=max).flat_map(|rows| (1..=max / rows).map(move |columns| (rows, columns))).collect();
        Ok(Self { side, max, arrangements })
    }

    pub(super) fn process(&self, pixels: &Pixels, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let (batch, most) = (rows.len(), rows.iter().map(Vec::len).max().unwrap_or(0));
        let (tiles, side) = (self.max as usize, self.side as usize);
        let (mut data, mut images) = (Vec::new(), Vec::new());
        let (mut ids, mut counts, mut mask) = (Vec::new(), Vec::new(), Vec::new());
        for (index, row) in rows.iter().enumerate() {
            for (place, image) in row.iter().enumerate() {
                let (id, (rows, columns)) = self.arrangement(extent_of(image));
                self.tiles(pixels, image, (rows, columns), &mut data)?;
                data.resize((index * most + place + 1) * tiles * 3 * side * side, 0.0);
                ids.push(id);
                counts.push(i64::from(rows * columns));
                mask.extend((0..self.max).map(|tile| i64::from(tile < rows * columns)));
                images.push(ImageLayout::new(image, rows, columns));
            }
            // A missing image has one tile of zeros, according to the mask.
            data.resize((index + 1) * most * tiles * 3 * side * side, 0.0);
            ids.resize((index + 1) * most, 0);
            counts.resize((index + 1) * most, 0);
            mask.extend((row.len()..most).flat_map(|_| (0..self.max).map(|tile| i64::from(tile == 0))));
        }
        let tensors = [
            ("pixel_values", tensor(data, &[batch, most, tiles, 3, side, side])?),
            ("aspect_ratio_ids", tensor(ids, &[batch, most])?),
            ("aspect_ratio_mask", tensor(mask, &[batch, most, tiles])?),
            ("num_tiles", tensor(counts, &[batch, most])?),
        ];
        Ok(ProcessedImages { tensors: tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into(), images })
    }

    /// The id, rows and columns of the canvas that enlarges the image least or, if none enlarges it, shrinks it least;
    /// among equals, the smallest.
    fn arrangement(&self, (height, width): Extent) -> (i64, Extent) {
        let scale = |&(rows, columns): &Extent| {
            let across = f64::from(columns * self.side) / f64::from(width);
            let down = f64::from(rows * self.side) / f64::from(height);
            across.min(down)
        };
        let better = |new: f64, old: f64| if new >= 1.0 { old < 1.0 || new < old } else { new > old };
        let mut best: Option<(i64, Extent)> = None;
        for (id, arrangement) in (1..).zip(&self.arrangements) {
            let (new, area) = (scale(arrangement), arrangement.0 * arrangement.1);
            let wins = best.is_none_or(|(_, old)| better(new, scale(&old)) || (new == scale(&old) && area < old.0 * old.1));
            if wins {
                best = Some((id, *arrangement));
            }
        }
        best.unwrap_or((1, (1, 1)))
    }

    fn tiles(&self, pixels: &Pixels, image: &RgbImage, (rows, columns): Extent, data: &mut Vec<f32>) -> Result<()> {
        // Neither side may exceed the canvas; an image smaller than a tile is enlarged to one.
        let bound = |n: u32, tiles: u32| n.clamp(self.side, tiles * self.side);
        let (height, width) = extent_of(image);
        let (to_height, to_width) = (bound(height, rows), bound(width, columns));
        let (scale_h, scale_w) = (f64::from(to_height) / f64::from(height), f64::from(to_width) / f64::from(width));
        let extent = if scale_w < scale_h {
            (truncated(f64::from(height) * scale_w).max(1).min(to_height), to_width)
        } else {
            (to_height, truncated(f64::from(width) * scale_h).max(1).min(to_width))
        };
        let resized = pixels.resize(Cow::Borrowed(image), extent)?;
        for row in 0..rows {
            for column in 0..columns {
                let corner = (i64::from(row * self.side), i64::from(column * self.side));
                let tile = cut_out(&resized, corner, (self.side, self.side), [0; 3]);
                pixels.planes(&tile, (self.side, self.side), data);
            }
        }
        Ok(())
    }
}
