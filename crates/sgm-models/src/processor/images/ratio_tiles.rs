//! Image processing for InternVL and GOT-OCR 2: the image stretched over the grid of tiles with the closest aspect ratio,
//! then the whole image in one tile.

use std::borrow::Cow;

use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::Result;
use crate::processor::images::layout::{ImageLayout, ProcessedImages};
use crate::processor::images::pixels::{Pixels, common_extent, cut_out, extent_of, tensor};
use crate::processor::images::resample::ImageBackend;
use crate::processor::images::settings::{Extent, MAX_PIXELS, MAX_TILES, Size, flag};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct RatioTiles {
    /// The height and width of a tile.
    tile: Extent,
    /// Whether images are cut into tiles.
    crop: bool,
    /// Whether images that are not cut are resized.
    resize: bool,
    /// The largest number of tiles of an image.
    max: u32,
    /// The possible numbers of rows and columns of tiles, fewest tiles first.
    grids: Vec<Extent>,
}

impl RatioTiles {
    pub(super) fn new(config: &Section, side: Option<u32>) -> Result<Self> {
        let side = side.unwrap_or(384);
        let Size::Exact(tile) = Size::read(config, "size", true)?.unwrap_or(Size::Exact((side, side))) else {
            return Err(config.error("size", "expected height and width"));
        };
        let (min, max) = (config.positive("min_patches", 1)?, config.positive("max_patches", 12)?);
        let pixels = u64::from(tile.0) * u64::from(tile.1);
        let max = u32::try_from(max).ok().filter(|max| *max <= MAX_TILES && u64::from(*max) * pixels <= MAX_PIXELS);
        let max = max.ok_or_else(|| config.error("max_patches", format!("so many tiles of {}x{} are too many", tile.0, tile.1)))?;
        // Among grids of as many tiles, the one with fewest columns comes first.
        let all = (1..=max).flat_map(|columns| (1..=max / columns).map(move |rows| (rows, columns)));
        let mut grids: Vec<Extent> = all.filter(|(rows, columns)| (rows * columns) as usize >= min).collect();
        grids.sort_by_key(|(rows, columns)| rows * columns);
        let (crop, resize) = (flag(config, "crop_to_patches", false)?, flag(config, "do_resize", true)?);
        Ok(Self { tile, crop, resize, max, grids })
    }

    /// Cuts images into tiles.
    pub(super) fn cropping(self) -> Self {
        Self { crop: true, ..self }
    }

    pub(super) fn process(&self, pixels: &Pixels, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let (mut tiles, mut counts, mut images) = (Vec::new(), Vec::new(), Vec::new());
        let mut total = 0;
        for image in rows.iter().flatten().copied() {
            let grid = self.tiles(pixels, image, &mut tiles)?;
            images.push(ImageLayout::new(image, grid.0, grid.1));
            counts.push((tiles.len() - total) as i64);
            total = tiles.len();
        }
        let (height, width) = common_extent(tiles.iter().map(AsRef::as_ref))?;
        let mut data = Vec::new();
        tiles.iter().for_each(|tile| pixels.planes(tile, (height, width), &mut data));
        let values = tensor(data, &[tiles.len(), 3, height as usize, width as usize])?;
        let counts = tensor(counts, &[images.len()])?;
        Ok(ProcessedImages { tensors: [("pixel_values".to_owned(), values), ("num_patches".to_owned(), counts)].into(), images })
    }

    /// Appends the tiles of an image in row-major order and, if there are several, the whole image; returns the numbers
    /// of rows and columns.
    fn tiles<'a>(&self, pixels: &Pixels, image: &'a RgbImage, out: &mut Vec<Cow<'a, RgbImage>>) -> Result<Extent> {
        // Over Pillow, transformers does not cut if the maximum is one tile. This shows if there is no resizing.
        if !self.crop || self.max == 1 && pixels.backend == ImageBackend::Pillow {
            out.push(if self.resize { pixels.resize(Cow::Borrowed(image), self.tile)? } else { Cow::Borrowed(image) });
            return Ok((1, 1));
        }
        let (rows, columns) = self.grid(extent_of(image));
        let (height, width) = self.tile;
        let large = pixels.resize(Cow::Borrowed(image), (rows * height, columns * width))?;
        if (rows, columns) == (1, 1) {
            out.push(large);
            return Ok((1, 1));
        }
        for row in 0..rows {
            for column in 0..columns {
                let corner = (i64::from(row * height), i64::from(column * width));
                out.push(Cow::Owned(cut_out(&large, corner, self.tile, [0; 3])));
            }
        }
        out.push(pixels.resize(Cow::Borrowed(image), self.tile)?);
        Ok((rows, columns))
    }

    /// The rows and columns whose aspect ratio is closest to the image's. Among equals the largest grid of less than
    /// twice the image's area wins, or else the smallest.
    fn grid(&self, (height, width): Extent) -> Extent {
        let ratio = f64::from(width) / f64::from(height);
        let tile = 0.5 * f64::from(self.tile.0) * f64::from(self.tile.1);
        let (mut closest, mut best) = (f64::INFINITY, (1, 1));
        for &(rows, columns) in &self.grids {
            let difference = (ratio - f64::from(columns) / f64::from(rows)).abs();
            let fits = || f64::from(width) * f64::from(height) > tile * f64::from(columns) * f64::from(rows);
            if difference < closest || (difference == closest && fits()) {
                (closest, best) = (difference, (rows, columns));
            }
        }
        best
    }
}
