//! Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, and positions in time, height and width.

use candle_core::Tensor;

use crate::auto::{Embedded, Family, Parts};
use crate::cache::{Order, Positions};
use crate::checkpoint::Checkpoint;
use crate::decoder::Decoder;
use crate::decoder_config::DecoderConfig;
use crate::image_processor::{ImageLayout, ImageProcessor};
use crate::image_tokens::{ImageText, embed_with_features, place};
use crate::linear::Weights;
use crate::model::ModelInputs;
use crate::processor::{Images, Processor};
use crate::qwen_grid::Grid;
use crate::qwen_vision::{Generation, QwenVision, QwenVisionConfig};
use crate::{Error, Result, TokenKind};

const LANGUAGE: [&str; 2] = ["model.language_model", "model"];
const VISION: [&str; 2] = ["model.visual", "visual"];

#[derive(Debug)]
struct QwenVl {
    tower: QwenVision,
    image_token: u32,
}

/// Loads a `Qwen2VL...`, `Qwen2_5_VL...` or `Qwen3VLForConditionalGeneration` checkpoint, with the tensor names of the
/// hub or of transformers' module tree, and with the text model's configuration in its own section or at the root.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<Parts> {
    let config = checkpoint.config();
    let (generation, text_type) = match checkpoint.architecture()? {
        "Qwen2VLForConditionalGeneration" => (Generation::Qwen2, "qwen2_vl_text"),
        "Qwen2_5_VLForConditionalGeneration" => (Generation::Qwen2_5, "qwen2_5_vl_text"),
        _ => (Generation::Qwen3, "qwen3_vl_text"),
    };
    let section = if config.get("text_config").is_some() { config.section("text_config")? } else { config.clone() };
    let mut text = DecoderConfig::from_section(&section, text_type)?;
    let tied = config.bool("tie_word_embeddings")?.unwrap_or(false);
    text.tied = tied || generation != Generation::Qwen3 && text.tied;

    let vision_section = config.section("vision_config")?;
    let vision = QwenVisionConfig::from_section(&vision_section, generation)?;
    if vision.output != text.hidden {
        let key = if generation == Generation::Qwen2 { "hidden_size" } else { "out_hidden_size" };
        return Err(vision_section.error(key, format!("{} is not the text model's hidden_size {}", vision.output, text.hidden)));
    }
    let tower = QwenVision::new(&vision, &weights.first(&VISION, "patch_embed.proj.weight", "vision tower")?)?;
    let image_token = config.u32("image_token_id")?.unwrap_or(151_655);
    let patches = vision.merge * vision.merge;
    let images = Images {
        processor: ImageProcessor::load(checkpoint, 0)?,
        token: image_token,
        text: Box::new(move |token| Box::new(GridText { token, patches })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = Decoder::new(&text, &weights.first(&LANGUAGE, "embed_tokens.weight", "language model")?, weights)?;
    Ok(Parts { text, decoder, processor, family: Box::new(QwenVl { tower, image_token }) })
}

/// An image becomes as many image tokens as it needs.
#[derive(Debug)]
struct GridText {
    token: String,
    /// Patches of a token.
    patches: usize,
}

impl ImageText for GridText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, image: &ImageLayout) -> String {
        self.token.repeat(image.rows * image.cols / self.patches)
    }
}

impl Family for QwenVl {
    fn embed(&self, decoder: &Decoder, inputs: &ModelInputs) -> Result<Embedded> {
        let (batch, tokens) = inputs.dims()?;
        let pixels = inputs.tensors.get("pixel_values");
        let grids = match pixels {
            Some(_) => Grid::read(inputs.tensor("image_grid_thw")?, self.tower.merge())?,
            None => Vec::new(),
        };
        let positions = positions(&inputs.kinds, &grids)?;
        let features = pixels.map(|pixels| self.tower.forward(pixels, &grids)).transpose()?;
        let embeddings = embed_with_features(decoder, inputs, self.image_token, features.as_ref().map(|f| &f.tokens))?;
        let nothing = embeddings.zeros_like()?.flatten_to(1)?;
        let ids = inputs.input_ids.flatten_all()?.to_vec1::<u32>()?;
        let in_place =
            |features: &Tensor| -> Result<Tensor> { Ok(place(&nothing, features, &ids, self.image_token)?.reshape((batch, tokens, ()))?) };
        let after = features.iter().flat_map(|f| &f.deepstack).map(in_place).collect::<Result<_>>()?;
        Ok(Embedded { embeddings, order: Order { positions, prefix: false }, after })
    }
}

/// Positions in time, height and width. Text advances in all three; an image stands still in time and spreads from
/// there over rows and columns, and what follows it begins beyond the larger of both.
fn positions(kinds: &[Vec<TokenKind>], grids: &[Grid]) -> Result<Positions> {
    let mismatch =
        || Error::Inputs { reason: format!("the image tokens are not those of {} images as image_grid_thw lays them out", grids.len()) };
    let mut grids = grids.iter();
    let (mut positions, mut nexts) = (Vec::new(), Vec::new());
    for row in kinds {
        let mut of_row = Vec::with_capacity(row.len());
        let mut next = 0u32;
        let mut rest = row.as_slice();
        while let Some((kind, after)) = rest.split_first() {
            rest = match kind {
                TokenKind::Padding => {
                    of_row.push([0; 3]);
                    after
                }
                TokenKind::Image => {
                    let grid = grids.next().ok_or_else(mismatch)?;
                    let run = rest.split_at_checked(grid.tokens()).filter(|(image, _)| image.iter().all(|k| *k == TokenKind::Image));
                    let (_, after) = run.ok_or_else(mismatch)?;
                    of_row.extend(grid.cells().map(|[row, col]| [next, next.saturating_add(row), next.saturating_add(col)]));
                    next = next.saturating_add(grid.rows.max(grid.cols));
                    after
                }
                TokenKind::PromptText | TokenKind::Response => {
                    of_row.push([next; 3]);
                    next = next.saturating_add(1);
                    after
                }
            };
        }
        positions.push(of_row);
        nexts.push(next);
    }
    if grids.next().is_some() {
        return Err(mismatch());
    }
    Ok(Positions::Given { positions, next: nexts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use TokenKind::{Image, Padding, PromptText, Response};

    #[test]
    fn positions_leave_padding_out_and_go_on_beyond_an_image() {
        let kinds = [
            vec![Padding, PromptText, Image, Image, Image, PromptText, Response],
            vec![PromptText, PromptText, PromptText, Image, Image, PromptText, PromptText],
        ];
        let grids = [Grid { rows: 1, cols: 3 }, Grid { rows: 2, cols: 1 }];
        let Positions::Given { positions, next } = positions(&kinds, &grids).unwrap() else { panic!("numbered by the cache") };
        assert_eq!(positions[0], [[0; 3], [0; 3], [1, 1, 1], [1, 1, 2], [1, 1, 3], [4; 3], [5; 3]]);
        assert_eq!(positions[1], [[0; 3], [1; 3], [2; 3], [3, 3, 3], [3, 4, 3], [5; 3], [6; 3]]);
        assert_eq!(next, [6, 7]);
    }

    #[test]
    fn image_tokens_that_are_not_those_of_the_images_are_refused() {
        let grid = |rows, cols| Grid { rows, cols };
        for (kinds, grids) in [
            (vec![PromptText, Image, Image], vec![]),
            (vec![PromptText, Image, Image], vec![grid(1, 3)]),
            (vec![Image, PromptText, Image], vec![grid(2, 1)]),
            (vec![Image, Image, Image], vec![grid(1, 2)]),
            (vec![PromptText], vec![grid(u32::MAX, u32::MAX)]),
        ] {
            assert!(matches!(positions(&[kinds], &grids), Err(Error::Inputs { .. })), "{grids:?}");
        }
    }
}
