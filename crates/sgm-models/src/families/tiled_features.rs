//! The features of tiled images, for LLaVA-NeXT and LLaVA-OneVision: the grid of all tiles without its padding, each row
//! ended by a newline.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::checkpoint::section::Section;
use crate::error::{Error, Result};
use crate::families::llava::ImageFeatures;
use crate::layers::linear::Weights;
use crate::processor::image_text::ImageText;
use crate::processor::images::anyres::{RESOLUTIONS, Resolutions};
use crate::processor::images::layout::ImageLayout;
use crate::vision::feature_cache::FeatureCache;

#[derive(Debug)]
pub(crate) struct TiledFeatures {
    features: ImageFeatures,
    /// The embedding at the end of each row of features, `[1, hidden]`.
    newline: Tensor,
    resolutions: Resolutions,
    most_tiles: Option<usize>,
}

impl TiledFeatures {
    /// Loads the newline and the resolutions. A grid of more features than `most_tiles` tiles have is reduced.
    pub(crate) fn load(
        config: &Section,
        features: ImageFeatures,
        default: Resolutions,
        most_tiles: Option<usize>,
        hidden: usize,
        weights: &Weights<'_>,
    ) -> Result<Self> {
        let ImageFeatures { image_size, side, per_image, .. } = features;
        if per_image != side * side {
            let reason = format!("it leaves {per_image} features of an image of {side}x{side} patches, which are no grid of tiles");
            return Err(config.error("vision_feature_select_strategy", reason));
        }
        let resolutions = Resolutions::from_config(config, default)?;
        let whole_tiles = |side: u32| usize::try_from(side).is_ok_and(|side| side.is_multiple_of(image_size));
        if let Some((height, width)) = resolutions.iter().find(|(height, width)| !whole_tiles(*height) || !whole_tiles(*width)) {
            return Err(config.error(RESOLUTIONS, format!("{height}x{width} pixels are not whole tiles of {image_size}x{image_size}")));
        }
        let newline = weights.first(&["", "model"], "image_newline", "newline of image features")?.get(hidden, "image_newline")?;
        Ok(Self { features, newline: newline.unsqueeze(0)?, resolutions, most_tiles })
    }

    /// Computes the image features `[features, hidden]` of pixels `[images, 1 + tiles, 3, size, size]`, given the
    /// original heights and widths of the images `[images, 2]`: first the features of the whole image, then those of
    /// its tiles row by row, or a newline if the image is not cut into tiles.
    pub(crate) fn forward(&self, pixels: &Tensor, sizes: &Tensor, cache: &FeatureCache, is_cut: impl Fn(usize) -> bool) -> Result<Tensor> {
        let (images, most, ..) = pixels.dims5()?;
        let sizes = sizes.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        if sizes.len() != images {
            return Err(Error::Inputs { reason: format!("pixel_values are of {images} images, image_sizes of {}", sizes.len()) });
        }
        let ImageFeatures { image_size, side, .. } = self.features;
        let mut pieces = Vec::new();
        for (image, size) in sizes.iter().enumerate() {
            let size = extent(size)?;
            let pixels = pixels.get(image)?;
            let features = |input: usize| {
                let features = cache.of_each(&pixels.narrow(0, input, 1)?, |pixels| self.features.forward(pixels))?;
                Ok::<_, Error>(features.squeeze(0)?)
            };
            pieces.push(features(0)?);
            if !is_cut(image) {
                pieces.push(self.newline.clone());
                continue;
            }
            let best = self.resolutions.best(size);
            let [rows, columns] = [best.0, best.1].map(|side| usize::try_from(side).unwrap_or(usize::MAX) / image_size);
            let tiles = rows.saturating_mul(columns);
            if tiles >= most {
                let reason = format!("an image of {size:?} pixels takes {tiles} tiles and the whole image, pixel_values have {most}");
                return Err(Error::Inputs { reason });
            }
            let grid = TileGrid::new(size, (rows, columns), side, self.most_tiles);
            if grid.tokens() > 0 {
                // Images with fewer tiles are padded with zeros, which are left out here.
                let tiles = Tensor::cat(&(1..=tiles).map(features).collect::<Result<Vec<_>>>()?, 0)?;
                pieces.push(grid.features(&tiles, &self.newline)?);
            }
        }
        if pieces.is_empty() {
            return Err(Error::Inputs { reason: "pixel_values are of no image".to_owned() });
        }
        Ok(Tensor::cat(&pieces, 0)?)
    }
}

/// The image tokens of a tiled image: one for each feature, and one at the end of each row of features of the tiles; of
/// an image that is not cut into tiles, one for each feature and one at the end.
#[derive(Debug)]
pub(crate) struct TiledImageText {
    pub(crate) token: String,
    /// The number of features along the side of a tile.
    pub(crate) side: usize,
    pub(crate) most_tiles: Option<usize>,
}

impl ImageText for TiledImageText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, image: &ImageLayout) -> String {
        let tiles = if image.rows == 0 {
            1
        } else {
            TileGrid::new((image.height, image.width), (image.rows, image.cols), self.side, self.most_tiles).tokens()
        };
        self.token.repeat(self.side * self.side + tiles)
    }
}

/// The grid of the features of an image's tiles.
#[derive(Debug, PartialEq)]
struct TileGrid {
    /// The numbers of rows and columns of tiles.
    tiles: (usize, usize),
    /// The number of features along the side of a tile.
    side: usize,
    /// The rows and columns of features that show the image.
    shown: (Range<usize>, Range<usize>),
    /// The height and width to which they are reduced.
    reduced: (usize, usize),
}

impl TileGrid {
    fn new(size: (u32, u32), tiles: (usize, usize), side: usize, most_tiles: Option<usize>) -> Self {
        let shown = unpadded(size, (tiles.0 * side, tiles.1 * side));
        let whole = (shown.0.len(), shown.1.len());
        let reduced = most_tiles.map_or(whole, |most| reduced(whole, most.saturating_mul(side * side)));
        Self { tiles, side, shown, reduced }
    }

    fn tokens(&self) -> usize {
        self.reduced.0 * (self.reduced.1 + 1)
    }

    /// Lays out the features of the tiles `[tiles * side * side, hidden]`, tile by tile, as `[tokens, hidden]` with
    /// newlines `[1, hidden]`.
    fn features(&self, tiles: &Tensor, newline: &Tensor) -> Result<Tensor> {
        let (rows, columns) = self.tiles;
        let (side, hidden) = (self.side, tiles.dim(1)?);
        let grid = tiles.reshape((rows, columns, side, side, hidden))?.transpose(1, 2)?.contiguous()?;
        let grid = grid.reshape((rows * side, columns * side, hidden))?;
        let (rows, columns) = &self.shown;
        let grid = grid.narrow(0, rows.start, rows.len())?.narrow(1, columns.start, columns.len())?.contiguous()?;
        let grid = interpolated(&interpolated(&grid, 1, self.reduced.1)?, 0, self.reduced.0)?;
        let newlines = newline.to_dtype(grid.dtype())?.unsqueeze(0)?.expand((self.reduced.0, 1, hidden))?;
        Ok(Tensor::cat(&[&grid, &newlines], 1)?.flatten_to(1)?)
    }
}

/// Resamples a dimension of `x` linearly to `count` points, with the positions of torch's `interpolate`.
fn interpolated(x: &Tensor, dim: usize, count: usize) -> Result<Tensor> {
    let given = x.dim(dim)?;
    if given == count {
        return Ok(x.clone());
    }
    let (mut low, mut high, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "small, and in f32 as in torch"
    )]
    for to in 0..count {
        let at = (given as f32 / count as f32 * (to as f32 + 0.5) - 0.5).max(0.0);
        let below = (at as u32).min(given as u32 - 1);
        low.push(below);
        high.push((below + 1).min(given as u32 - 1));
        beyond.push((at - below as f32).clamp(0.0, 1.0));
    }
    let mut shape = vec![1; x.rank()];
    if let Some(along) = shape.get_mut(dim) {
        *along = count;
    }
    let beyond = Tensor::from_vec(beyond, shape, x.device())?.to_dtype(x.dtype())?;
    let at = |index: Vec<u32>| x.index_select(&Tensor::new(index, x.device())?, dim);
    Ok((at(low)?.broadcast_mul(&beyond.affine(-1.0, 1.0)?)? + at(high)?.broadcast_mul(&beyond)?)?)
}

/// Parses a height and width of `image_sizes`.
fn extent(size: &[i64]) -> Result<(u32, u32)> {
    let side = |n: &i64| u32::try_from(*n).ok().filter(|n| *n > 0);
    match size {
        [height, width] => side(height).zip(side(width)),
        _ => None,
    }
    .ok_or_else(|| Error::Inputs { reason: format!("image_sizes have {size:?}, expected a height and a width in pixels") })
}

/// The rows and columns of a grid of features that show the image, without those that show only padding.
///
/// The reference computes quotients of floats, rounded to seven decimals, and truncates them. For sides below a million
/// pixels, the integer quotients here are equal.
fn unpadded((height, width): (u32, u32), (rows, columns): (usize, usize)) -> (Range<usize>, Range<usize>) {
    let shown = |side: u32, across: usize, other: u32| {
        let product = u64::from(side).saturating_mul(u64::try_from(across).unwrap_or(u64::MAX));
        usize::try_from(product / u64::from(other.max(1))).unwrap_or(usize::MAX)
    };
    let middle = |all: usize, shown: usize| {
        let padding = all.saturating_sub(shown) / 2;
        padding..all - padding
    };
    // The number of rows of the image when it is as wide as the grid.
    let fitting = shown(height, columns, width);
    if fitting < rows { (middle(rows, fitting), 0..columns) } else { (0..rows, middle(columns, shown(width, rows, height))) }
}

/// The size of a grid in proportion to `height` and `width`, if they come to over 1.1 squared times `most` features.
fn reduced((height, width): (usize, usize), most: usize) -> (usize, usize) {
    let ratio = (height as f64 * width as f64 / most as f64).sqrt();
    if ratio <= 1.1 {
        return (height, width);
    }
    // Python's floor division, which subtracts the remainder first.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "smaller than a usize")]
    let divided = |n: usize| ((n as f64 - n as f64 % ratio) / ratio).round() as usize;
    (divided(height), divided(width))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn features_of_padding_are_removed() {
        // A wide image in a square grid: half of the rows are padding, above and below.
        assert_eq!(unpadded((336, 672), (48, 48)), (12..36, 0..48));
        assert_eq!(unpadded((672, 336), (48, 48)), (0..48, 12..36));
        assert_eq!(unpadded((500, 500), (48, 48)), (0..48, 0..48));
        // With an odd number of rows of padding, one row less is removed.
        assert_eq!(unpadded((335, 672), (48, 48)), (12..36, 0..48));
        assert_eq!(unpadded((350, 672), (48, 48)), (11..37, 0..48));
        // A line leaves no features of the tiles.
        assert_eq!(unpadded((1, 5000), (24, 72)), (12..12, 0..72));
    }

    #[test]
    fn an_image_has_one_token_per_feature_and_per_row() {
        let tokens = |side, most_tiles, height, width, rows, cols| {
            let tiled = TiledImageText { token: "<image>".to_owned(), side, most_tiles };
            tiled.expansion(&ImageLayout { height, width, rows, cols }).len() / "<image>".len()
        };
        // The count of transformers for 640x480, which LLaVA-NeXT tiles at 672x672.
        assert_eq!(tokens(24, None, 480, 640, 2, 2), 24 * 24 + 36 * (48 + 1));
        assert_eq!(tokens(24, None, 1, 5000, 1, 3), 24 * 24);
        // The counts of LlavaOnevisionProcessor with 27 by 27 features of a tile and at most 9 tiles of them.
        assert_eq!(tokens(27, Some(9), 480, 640, 2, 2), 2929);
        assert_eq!(tokens(27, Some(9), 1000, 3000, 2, 6), 7215);
        assert_eq!(tokens(27, Some(9), 2304, 2304, 6, 6), 7371);
        assert_eq!(tokens(27, Some(9), 3000, 1999, 6, 4), 7362);
        assert_eq!(tokens(27, Some(9), 1, 5000, 1, 1), 757);
        // One of several images of a prompt.
        assert_eq!(tokens(27, Some(9), 480, 640, 0, 0), 27 * 27 + 1);
    }

    #[test]
    fn interpolation_is_that_of_torch() {
        let x = Tensor::new(&[[0f32, 3.0, 6.0, 12.0, 9.0, 0.0]], &Device::Cpu).unwrap();
        let to = |count| interpolated(&x, 1, count).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(to(6), [0.0, 3.0, 6.0, 12.0, 9.0, 0.0]);
        assert_eq!(to(4), [0.75, 5.25, 11.25, 2.25]);
        assert_eq!(to(1), [9.0]);
    }
}
