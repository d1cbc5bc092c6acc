//! Image processing for Pixtral: the image in its own proportions, within a longest edge, on a whole number of tokens.

use std::borrow::Cow;

use image::RgbImage;

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::processor::images::layout::{ImageLayout, ProcessedImages};
use crate::processor::images::pixels::{Pixels, common_extent, extent_of, tensor};
use crate::processor::images::settings::{Extent, MAX_PIXELS, Size, extent, flag, truncated};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LongestEdge {
    resize: bool,
    /// The largest height and width.
    limit: Extent,
    /// The height and width of a token.
    token: Extent,
    /// Whether smaller images of a batch are padded with zeros, below and to the right.
    pad: bool,
}

impl LongestEdge {
    pub(super) fn new(config: &Section) -> Result<Self> {
        let limit = match Size::read(config, "size", true)? {
            None => (1024, 1024),
            Some(Size::Longest(edge) | Size::ShortestLongest(_, edge)) => (edge, edge),
            Some(Size::Exact(extent)) => extent,
            Some(Size::Shortest(_) | Size::Within(_)) => return Err(config.error("size", "expected longest_edge, or height and width")),
        };
        if flag(config, "do_center_crop", false)? {
            return Err(config.error("do_center_crop", "is not supported for this kind of image processor"));
        }
        Ok(Self {
            resize: flag(config, "do_resize", true)?,
            limit,
            token: extent(config, "patch_size")?.unwrap_or((16, 16)),
            pad: flag(config, "do_pad", true)?,
        })
    }

    /// Sets the side of a token, which may cover several patches.
    pub(super) fn with_token(self, side: u32) -> Self {
        Self { token: (side, side), ..self }
    }

    pub(super) fn process(&self, pixels: &Pixels, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let (mut fitted, mut images, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for image in rows.iter().flatten() {
            let mut resized = Cow::Borrowed(*image);
            if self.resize {
                resized = pixels.resize(resized, self.target(extent_of(image)))?;
            }
            let (height, width) = extent_of(&resized);
            images.push(ImageLayout::new(image, height / self.token.0, width / self.token.1));
            sizes.extend([i64::from(height), i64::from(width)]);
            fitted.push(resized);
        }
        let (height, width) = if self.pad {
            fitted.iter().map(|image| extent_of(image)).fold((0, 0), |(h, w), (height, width)| (h.max(height), w.max(width)))
        } else {
            common_extent(fitted.iter().map(AsRef::as_ref))?
        };
        if u64::from(height) * u64::from(width) > MAX_PIXELS {
            return Err(Error::Inputs {
                reason: format!("the images of a batch would be padded to {width}x{height}; process fewer at once"),
            });
        }
        let mut data = Vec::new();
        fitted.iter().for_each(|image| pixels.planes(image, (height, width), &mut data));
        let values = tensor(data, &[fitted.len(), 3, height as usize, width as usize])?;
        let sizes = tensor(sizes, &[fitted.len(), 2])?;
        Ok(ProcessedImages { tensors: [("pixel_values".to_owned(), values), ("image_sizes".to_owned(), sizes)].into(), images })
    }

    /// The height and width for an image: shrunk in proportion if it exceeds the limit, then extended to whole tokens.
    fn target(&self, (height, width): Extent) -> Extent {
        let [h, w, max_height, max_width] = [height, width, self.limit.0, self.limit.1].map(f64::from);
        let ratio = (h / max_height).max(w / max_width);
        let (height, width) = if ratio > 1.0 { (truncated(h / ratio), truncated(w / ratio)) } else { (height, width) };
        let whole = |side: u32, token: u32| side.div_ceil(token).saturating_mul(token);
        (whole(height, self.token.0), whole(width, self.token.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Result<LongestEdge> {
        LongestEdge::new(&Section::parse("preprocessor_config.json", json.as_bytes())?)
    }

    #[test]
    fn large_images_shrink_and_all_end_on_whole_tokens() {
        let usual = settings("{}").unwrap();
        assert_eq!(
            [(1024, 1024), (2000, 1000), (17, 1), (1000, 3000)].map(|e| usual.target(e)),
            [(1024, 1024), (1024, 512), (32, 16), (352, 1024)]
        );
        assert_eq!(usual.with_token(28).target((100, 57)), (112, 84));
    }

    #[test]
    fn settings_of_other_kinds_are_refused() {
        for json in [r#"{"size": {"shortest_edge": 30}}"#, r#"{"do_center_crop": true}"#, r#"{"patch_size": 0}"#, r#"{"patch_size": {}}"#] {
            assert!(matches!(settings(json), Err(Error::Config { .. })), "{json}");
        }
        assert_eq!(settings(r#"{"size": 50, "patch_size": [4, 5]}"#).unwrap().target((100, 100)), (52, 50));
    }
}
