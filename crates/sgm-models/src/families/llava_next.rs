//! LLaVA-NeXT, also called LLaVA-1.6: LLaVA's tower over the whole image and over tiles of it.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::families::llava::{ImageFeatures, load_decoder};
use crate::layers::linear::Weights;
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::anyres::{RESOLUTIONS, Resolutions};
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::ModelInputs;

#[derive(Debug)]
struct LlavaNext {
    features: ImageFeatures,
    /// The embedding at the end of each row of features, `[1, hidden]`.
    newline: Tensor,
    resolutions: Resolutions,
    image_token: u32,
}

/// Loads a `LlavaNextForConditionalGeneration` checkpoint, with the tensor names of the hub or of transformers'
/// modules.
///
/// There is no default chat template, because the published models use the formats of Vicuna, Mistral, ChatML and Llama
/// 3.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let text = DecoderConfig::from_section(&config.section("text_config")?, "llama")?;
    let features = ImageFeatures::load(config, &text, weights)?;
    let ImageFeatures { image_size, side, per_image, .. } = features;
    if per_image != side * side {
        let reason = format!("it leaves {per_image} features of an image of {side}x{side} patches, which are no grid of tiles");
        return Err(config.error("vision_feature_select_strategy", reason));
    }
    let resolutions = Resolutions::from_config(config)?;
    let whole_tiles = |side: u32| usize::try_from(side).is_ok_and(|side| side.is_multiple_of(image_size));
    if let Some((height, width)) = resolutions.iter().find(|(height, width)| !whole_tiles(*height) || !whole_tiles(*width)) {
        return Err(config.error(RESOLUTIONS, format!("{height}x{width} pixels are not whole tiles of {image_size}x{image_size}")));
    }
    let image_token = image_token(config, 32_000)?;
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, image_size)?,
        token: image_token,
        text: Box::new(move |token| Box::new(LlavaNextImageText { token, side })),
    };
    let newline = weights.first(&["", "model"], "image_newline", "newline of image features")?.get(text.hidden, "image_newline")?;
    let family = LlavaNext { features, newline: newline.unsqueeze(0)?, resolutions, image_token };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(family) })
}

impl Family for LlavaNext {
    fn embed(&self, decoder: &Decoder, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => Some(self.features(pixels, inputs.tensor("image_sizes")?)?),
            None => None,
        };
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}

impl LlavaNext {
    /// Computes the image features `[features, hidden]` of pixels `[images, 1 + tiles, 3, size, size]`, given the
    /// original heights and widths of the images `[images, 2]`: first the features of the whole image, then those of
    /// its tiles row by row.
    fn features(&self, pixels: &Tensor, sizes: &Tensor) -> Result<Tensor> {
        let (images, most, ..) = pixels.dims5()?;
        let sizes = sizes.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        if sizes.len() != images {
            return Err(Error::Inputs { reason: format!("pixel_values are of {images} images, image_sizes of {}", sizes.len()) });
        }
        let ImageFeatures { image_size, side, .. } = self.features;
        // Row 0 of the table that `order` indexes is the newline; the features follow.
        let (mut shown, mut order, mut next) = (Vec::new(), Vec::new(), 1);
        for (image, size) in sizes.iter().enumerate() {
            let size = extent(size)?;
            let best = self.resolutions.best(size);
            let [rows, columns] = [best.0, best.1].map(|side| usize::try_from(side).unwrap_or(usize::MAX) / image_size);
            let own = rows.saturating_mul(columns).saturating_add(1);
            if own > most {
                let reason = format!("an image of {size:?} pixels takes {own} tower inputs, pixel_values have {most}");
                return Err(Error::Inputs { reason });
            }
            // Images with fewer tiles are padded with zeros.
            shown.push(pixels.get(image)?.narrow(0, 0, own)?);
            order.extend(next..next + side * side);
            let tiles = next + side * side;
            let (height, width) = unpadded(size, (rows * side, columns * side));
            for y in height {
                let in_tile = |x: usize| tiles + ((y / side * columns + x / side) * side + y % side) * side + x % side;
                order.extend(width.clone().map(in_tile).chain([0]));
            }
            next += own * side * side;
        }
        if shown.is_empty() {
            return Err(Error::Inputs { reason: "pixel_values are of no image".to_owned() });
        }
        let features = self.features.forward(&Tensor::cat(&shown, 0)?)?.flatten_to(1)?;
        let order =
            order.into_iter().map(|i| u32::try_from(i).map_err(|_| Error::Inputs { reason: "more than 2^32 image features".to_owned() }));
        let order = Tensor::new(order.collect::<Result<Vec<u32>>>()?, features.device())?;
        Ok(Tensor::cat(&[&self.newline, &features], 0)?.index_select(&order, 0)?)
    }
}

/// The image tokens of a tiled image: one for each feature, and one at the end of each row of features of the tiles.
#[derive(Debug)]
struct LlavaNextImageText {
    token: String,
    /// The number of features along the side of a tile.
    side: usize,
}

impl ImageText for LlavaNextImageText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, image: &ImageLayout) -> String {
        let (rows, columns) = unpadded((image.height, image.width), (image.rows * self.side, image.cols * self.side));
        self.token.repeat(self.side * self.side + rows.len() * (columns.len() + 1))
    }
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

#[cfg(test)]
mod tests {
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
        let tiled = LlavaNextImageText { token: "<image>".to_owned(), side: 24 };
        let tokens = |height, width, rows, cols| tiled.expansion(&ImageLayout { height, width, rows, cols }).len() / "<image>".len();
        // The count of transformers for 640x480, which is tiled at 672x672.
        assert_eq!(tokens(480, 640, 2, 2), 24 * 24 + 36 * (48 + 1));
        assert_eq!(tokens(1, 5000, 1, 3), 24 * 24);
    }
}
