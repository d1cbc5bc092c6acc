//! Image processing for LLaVA-NeXT and LLaVA-OneVision: the whole image, then tiles of it at the best of several
//! resolutions.

use std::borrow::Cow;
use std::cmp::Reverse;

use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::processor::images::layout::{ImageLayout, ProcessedImages};
use crate::processor::images::pixels::{Pixels, common_extent, cut_out, extent_of, pad_to_square, tensor};
use crate::processor::images::settings::{Extent, MAX_PIXELS, MAX_TILES, Size, as_pair, extent, flag, padding_colour, truncated};

/// The resolutions, as heights and widths in pixels, at which an image may be cut into tiles.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resolutions(Vec<Extent>);

/// The key of the resolutions in the configurations of model and image processor.
pub(crate) const RESOLUTIONS: &str = "image_grid_pinpoints";

impl Resolutions {
    /// The default of LLaVA-NeXT.
    pub(crate) fn next() -> Self {
        Self(vec![(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)])
    }

    /// The default of LLaVA-OneVision: up to six by six tiles of 384 pixels.
    pub(crate) fn one_vision() -> Self {
        Self((1..=6).flat_map(|rows| (1..=6).map(move |columns| (384 * rows, 384 * columns))).collect())
    }

    pub(crate) fn from_config(config: &Section, default: Self) -> Result<Self> {
        let Some(list) = config.get(RESOLUTIONS) else { return Ok(default) };
        let list = list.as_array().and_then(|list| list.iter().map(as_pair).collect::<Option<Vec<_>>>());
        let list = list.filter(|list| !list.is_empty());
        list.map(Self).ok_or_else(|| config.error(RESOLUTIONS, "expected a list of [height, width], in pixels"))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.0.iter()
    }

    /// The resolution that keeps most of an image's pixels; among equals, the one with the least padding.
    pub(crate) fn best(&self, (height, width): Extent) -> Extent {
        let pixels = u64::from(height) * u64::from(width);
        let [h, w] = [height, width].map(f64::from);
        let rate = |&&(to_height, to_width): &&Extent| {
            let scale = (f64::from(to_width) / w).min(f64::from(to_height) / h);
            let kept = (u64::from(truncated(w * scale)) * u64::from(truncated(h * scale))).min(pixels);
            (kept, Reverse(u64::from(to_height) * u64::from(to_width)))
        };
        // Among equals the first counts, whereas `max_by_key` returns the last.
        self.0.iter().rev().max_by_key(rate).copied().unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Anyres {
    resolutions: Resolutions,
    /// The size to which the whole image is resized, whatever its proportions.
    base: Extent,
    /// The side of the tiles.
    tile: u32,
    /// The size to which the whole image and the tiles are resized, which they usually have already.
    resize: Option<Size>,
    crop: Option<Extent>,
    /// Whether images with fewer tiles are padded with zeros.
    pad: bool,
    /// The colour that makes the images of a row with several images square; they are not cut into tiles. `None` if all
    /// images are cut.
    square: Option<[u8; 3]>,
}

impl Anyres {
    pub(super) fn read_next(config: &Section, side: Option<u32>) -> Result<Self> {
        let side = side.unwrap_or(224);
        Self::new(config, Size::Shortest(side), Some((side, side)), Resolutions::next())
    }

    pub(super) fn read_one_vision(config: &Section, side: Option<u32>) -> Result<Self> {
        let side = side.unwrap_or(384);
        let all = Self::new(config, Size::Exact((side, side)), None, Resolutions::one_vision())?;
        Ok(Self { square: Some(padding_colour(config)?), ..all })
    }

    fn new(config: &Section, size: Size, crop: Option<Extent>, resolutions: Resolutions) -> Result<Self> {
        let size = Size::read(config, "size", false)?.unwrap_or(size);
        let base = match size {
            Size::Exact(extent) => extent,
            Size::Shortest(edge) | Size::ShortestLongest(edge, _) => (edge, edge),
            Size::Longest(_) | Size::Within(_) => return Err(config.error("size", "expected height and width, or shortest_edge")),
        };
        let cropping = flag(config, "do_center_crop", crop.is_some())?;
        let crop = extent(config, "crop_size")?.or(crop);
        if cropping && crop.is_none() {
            return Err(config.error("crop_size", "is missing, and do_center_crop is true"));
        }
        let tile = crop.unwrap_or(base).0;
        let resolutions = Resolutions::from_config(config, resolutions)?;
        if let Some((height, width)) = resolutions.iter().find(|(h, w)| h.div_ceil(tile) * w.div_ceil(tile) > MAX_TILES) {
            let reason = format!("{height}x{width} would be cut into more than {MAX_TILES} tiles of crop_size");
            return Err(config.error(RESOLUTIONS, reason));
        }
        Ok(Self {
            resolutions,
            base,
            tile,
            resize: if flag(config, "do_resize", true)? { Some(size) } else { None },
            crop: if cropping { crop } else { None },
            pad: flag(config, "do_pad", true)?,
            square: None,
        })
    }

    pub(super) fn process(&self, pixels: &Pixels, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let (mut tiles, mut images, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for (row, image) in rows.iter().flat_map(|row| row.iter().map(move |image| (row, image))) {
            sizes.extend([i64::from(image.height()), i64::from(image.width())]);
            match self.square {
                Some(colour) if row.len() > 1 => {
                    images.push(ImageLayout::new(image, 0, 0));
                    tiles.push(vec![self.resize_and_crop(pixels, pad_to_square(image, colour)?)?]);
                }
                _ => {
                    let best = self.resolutions.best(extent_of(image));
                    images.push(ImageLayout::new(image, best.0.div_ceil(self.tile), best.1.div_ceil(self.tile)));
                    tiles.push(self.tiles(pixels, image, best)?);
                }
            }
        }
        let (height, width) = common_extent(tiles.iter().flatten())?;
        let most = tiles.iter().map(Vec::len).max().unwrap_or(0);
        if !self.pad && tiles.iter().any(|t| t.len() != most) {
            return Err(Error::Inputs { reason: "the images have different numbers of tiles and do_pad is false".to_owned() });
        }
        let tile = 3 * height as usize * width as usize;
        let mut data = Vec::new();
        for (index, tiles) in tiles.iter().enumerate() {
            tiles.iter().for_each(|tile| pixels.planes(tile, (height, width), &mut data));
            data.resize((index + 1) * most * tile, 0.0);
        }
        let values = tensor(data, &[tiles.len(), most, 3, height as usize, width as usize])?;
        let mut tensors = vec![("pixel_values", values), ("image_sizes", tensor(sizes, &[tiles.len(), 2])?)];
        if self.square.is_some() {
            let counts: Vec<i64> = rows.iter().filter(|row| !row.is_empty()).map(|row| row.len() as i64).collect();
            let shape = [counts.len()];
            tensors.push(("batch_num_images", tensor(counts, &shape)?));
        }
        Ok(ProcessedImages { tensors: tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(), images })
    }

    /// The whole image, followed by the tiles in row-major order.
    fn tiles(&self, pixels: &Pixels, image: &RgbImage, (height, width): Extent) -> Result<Vec<RgbImage>> {
        let [h, w] = [image.height(), image.width()].map(f64::from);
        let (scale_h, scale_w) = (f64::from(height) / h, f64::from(width) / w);
        let fitted = if scale_w < scale_h {
            (truncated((h * scale_w).ceil()).min(height), width)
        } else {
            (height, truncated((w * scale_h).ceil()).min(width))
        };
        let whole_image = pixels.resize(Cow::Borrowed(image), self.base)?;
        let large = pixels.resize(Cow::Borrowed(image), fitted)?;
        let (top, left) = ((height - fitted.0) / 2, (width - fitted.1) / 2);
        let large = cut_out(&large, (-i64::from(top), -i64::from(left)), (height, width), [0; 3]);

        let mut tiles = vec![self.resize_and_crop(pixels, whole_image)?];
        let mut total = 0;
        for top in (0..height).step_by(self.tile as usize) {
            for left in (0..width).step_by(self.tile as usize) {
                let extent = (self.tile.min(height - top), self.tile.min(width - left));
                let tile = cut_out(&large, (i64::from(top), i64::from(left)), extent, [0; 3]);
                let tile = self.resize_and_crop(pixels, Cow::Owned(tile))?;
                total += u64::from(tile.width()) * u64::from(tile.height());
                if total > MAX_PIXELS {
                    return Err(Error::Inputs { reason: format!("the tiles of {height}x{width} come to more than {MAX_PIXELS} pixels") });
                }
                tiles.push(tile);
            }
        }
        Ok(tiles)
    }

    fn resize_and_crop(&self, pixels: &Pixels, mut image: Cow<'_, RgbImage>) -> Result<RgbImage> {
        if let Some(size) = self.resize {
            let extent = size.target(extent_of(&image));
            image = pixels.resize(image, extent)?;
        }
        Ok(match self.crop {
            Some(crop) => pixels.crop_centre(&image, crop),
            None => image.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolutions(json: &str) -> Result<Resolutions> {
        Resolutions::from_config(&Section::parse("config.json", json.as_bytes()).unwrap(), Resolutions::next())
    }

    #[test]
    fn the_best_resolution_keeps_most_pixels_then_has_least_padding_then_comes_first() {
        let usual = resolutions("{}").unwrap();
        assert_eq!(usual.best((672, 672)), (672, 672));
        assert_eq!(usual.best((100, 220)), (336, 672));
        assert_eq!(usual.best((400, 1600)), (336, 1008));
        // All keep the whole image; the two smallest have the same padding.
        assert_eq!(usual.best((300, 300)), (336, 672));
        let turned = resolutions(r#"{"image_grid_pinpoints": [[672, 336], [336, 672]]}"#).unwrap();
        assert_eq!(turned.best((300, 300)), (672, 336));
    }

    #[test]
    fn invalid_lists_of_resolutions_are_refused() {
        for list in ["[]", "[[336]]", "[[336, 0]]", "[[336, 20000]]", "[[336, -336]]", "[336, 336]", r#""(1x1),(2x2)""#] {
            assert!(resolutions(&format!(r#"{{"image_grid_pinpoints": {list}}}"#)).is_err(), "{list}");
        }
    }
}
