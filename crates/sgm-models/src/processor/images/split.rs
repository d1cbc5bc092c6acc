//! Image processing for Idefics3 and SmolVLM: the image cut into squares, then the whole image in one square.

use std::borrow::Cow;

use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::processor::images::layout::{ImageLayout, ProcessedImages};
use crate::processor::images::pixels::{Pixels, cut_out, extent_of, tensor};
use crate::processor::images::settings::{Extent, MAX_TILES, Size, flag, side, truncated};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Split {
    resize: Option<Size>,
    /// Whether the image is cut into squares.
    split: bool,
    /// The side of a square.
    side: u32,
    /// Whether rows with fewer squares are padded with zeros, with a mask.
    pad: bool,
}

/// The maximum side of an image before it is cut.
const LONGEST: u32 = 4096;

impl Split {
    pub(super) fn new(config: &Section, default: Option<u32>) -> Result<Self> {
        let default = default.unwrap_or(364);
        let square = match config.get("max_image_size") {
            None => default,
            Some(_) => side(&config.section("max_image_size")?, "longest_edge")?
                .ok_or_else(|| config.error("max_image_size", "expected longest_edge"))?,
        };
        let resize = match Size::read(config, "size", true)? {
            _ if !flag(config, "do_resize", true)? => None,
            None => Some(Size::Longest(default.saturating_mul(4))),
            Some(size @ (Size::Longest(_) | Size::Exact(_))) => Some(size),
            Some(Size::ShortestLongest(_, longest)) => Some(Size::Longest(longest)),
            Some(_) => return Err(config.error("size", "expected longest_edge, or height and width")),
        };
        Ok(Self { resize, split: flag(config, "do_image_splitting", true)?, side: square, pad: flag(config, "do_pad", true)? })
    }

    pub(super) fn process(&self, pixels: &Pixels, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let mut images = Vec::new();
        let mut squares = Vec::new();
        for row in rows {
            let mut all = Vec::new();
            for image in row {
                let (rows, columns) = self.squares(pixels, image, &mut all)?;
                images.push(ImageLayout::new(image, rows, columns));
            }
            squares.push(all);
        }
        let most = squares.iter().map(Vec::len).max().unwrap_or(0);
        if !self.pad && squares.iter().any(|s| s.len() != most) {
            return Err(Error::Inputs { reason: "the rows have different numbers of squares and do_pad is false".to_owned() });
        }
        let side = self.side as usize;
        let (mut data, mut mask) = (Vec::new(), Vec::new());
        for (index, squares) in squares.iter().enumerate() {
            squares.iter().for_each(|square| pixels.planes(square, (self.side, self.side), &mut data));
            data.resize((index + 1) * most * 3 * side * side, 0.0);
            if self.pad {
                mask.resize(mask.len() + squares.len() * side * side, 1i64);
                mask.resize((index + 1) * most * side * side, 0);
            }
        }
        let mut tensors = vec![("pixel_values", tensor(data, &[rows.len(), most, 3, side, side])?)];
        if self.pad {
            tensors.push(("pixel_attention_mask", tensor(mask, &[rows.len(), most, side, side])?));
        }
        Ok(ProcessedImages { tensors: tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(), images })
    }

    /// Appends the squares of an image; returns the numbers of their rows and columns, without the whole image.
    fn squares(&self, pixels: &Pixels, image: &RgbImage, out: &mut Vec<RgbImage>) -> Result<Extent> {
        let mut image = Cow::Borrowed(image);
        match self.resize {
            None => {}
            Some(Size::Longest(edge)) => {
                let extent = longest_edge(extent_of(&image), edge);
                image = pixels.resize(image, extent)?;
            }
            Some(size) => {
                let extent = size.target(extent_of(&image));
                image = pixels.resize(image, extent)?;
            }
        }
        let square = (self.side, self.side);
        if !self.split {
            out.push(pixels.resize(image, square)?.into_owned());
            return Ok((0, 0));
        }
        let extent = self.whole_squares(extent_of(&image));
        let (rows, columns) = (extent.0 / self.side, extent.1 / self.side);
        if rows.saturating_mul(columns) > MAX_TILES {
            let reason = format!("an image of {}x{} would be cut into more than {MAX_TILES} squares", image.width(), image.height());
            return Err(Error::Inputs { reason });
        }
        let image = pixels.resize(image, extent)?;
        if extent == square {
            out.push(image.into_owned());
            return Ok((0, 0));
        }
        for row in 0..rows {
            for column in 0..columns {
                out.push(cut_out(&image, (i64::from(row * self.side), i64::from(column * self.side)), square, [0; 3]));
            }
        }
        out.push(pixels.resize(image, square)?.into_owned());
        Ok((rows, columns))
    }

    /// The smallest height and width that are whole numbers of squares: the longer side is rounded up, the other one
    /// follows in proportion and is rounded up too.
    fn whole_squares(&self, (height, width): Extent) -> Extent {
        let up = |n: u32| n.div_ceil(self.side).saturating_mul(self.side);
        let aspect = f64::from(width) / f64::from(height);
        if width >= height {
            let width = up(width);
            (up(truncated(f64::from(width) / aspect)), width)
        } else {
            let height = up(height);
            (height, up(truncated(f64::from(height) * aspect)))
        }
    }
}

/// The size whose longer side is `edge` and whose other side is even, reduced such that no side is above [`LONGEST`].
fn longest_edge((height, width): Extent, edge: u32) -> Extent {
    let scaled = |(height, width): Extent, edge: u32| {
        let aspect = f64::from(width) / f64::from(height);
        if width >= height { (truncated(f64::from(edge) / aspect), edge) } else { (edge, truncated(f64::from(edge) * aspect)) }
    };
    let even = |n: u32| n + n % 2;
    let (rows, columns) = scaled((height, width), edge);
    let (rows, columns) = if width >= height { (even(rows), columns) } else { (rows, even(columns)) };
    let extent = (rows.max(1), columns.max(1));
    let (rows, columns) = if extent.0.max(extent.1) > LONGEST { scaled(extent, LONGEST) } else { extent };
    (rows.max(1), columns.max(1))
}
