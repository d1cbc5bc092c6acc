//! Qwen2-VL, Qwen2.5-VL and Qwen3-VL, also with mixtures of experts: images of any size, and positions in time, height and width.

use candle_core::Tensor;
use sgm_core::TokenKind;

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::pass::{AttentionPattern, Positions, TokenOrder};
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, replace_image_rows};
use crate::layers::linear::Weights;
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::feature_cache::FeatureCache;
use crate::vision::qwen::{QwenGeneration, QwenVision, QwenVisionConfig};
use crate::vision::qwen_grid::Grid;

const LANGUAGE: [&str; 2] = ["model.language_model", "model"];
const VISION: [&str; 2] = ["model.visual", "visual"];

#[derive(Debug)]
struct QwenVl {
    tower: QwenVision,
    image_token: u32,
}

/// Loads a `Qwen2VL...`, `Qwen2_5_VL...` or `Qwen3VLForConditionalGeneration` checkpoint, with the tensor names of the
/// hub or of transformers' modules, and with the text model's configuration in its own section or at the root.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let (generation, text_type) = match checkpoint.architecture()? {
        "Qwen2VLForConditionalGeneration" => (QwenGeneration::Qwen2, "qwen2_vl_text"),
        "Qwen2_5_VLForConditionalGeneration" => (QwenGeneration::Qwen2_5, "qwen2_5_vl_text"),
        "Qwen3VLMoeForConditionalGeneration" => (QwenGeneration::Qwen3, "qwen3_vl_moe_text"),
        _ => (QwenGeneration::Qwen3, "qwen3_vl_text"),
    };
    let section = if config.get("text_config").is_some() { config.section("text_config")? } else { config.clone() };
    let mut text = DecoderConfig::from_section(&section, text_type)?;
    text.tied |= config.bool("tie_word_embeddings")?.unwrap_or(false);

    let vision_section = config.section("vision_config")?;
    let vision = QwenVisionConfig::from_section(&vision_section, generation)?;
    if vision.output != text.hidden {
        let key = if generation == QwenGeneration::Qwen2 { "hidden_size" } else { "out_hidden_size" };
        return Err(vision_section.error(key, format!("{} is not the text model's hidden_size {}", vision.output, text.hidden)));
    }
    let tower = QwenVision::new(&vision, &weights.first(&VISION, "patch_embed.proj.weight", "vision tower")?)?;
    let image_token = config.u32("image_token_id")?.unwrap_or(151_655);
    let patches = vision.merge * vision.merge;
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, 0)?,
        token: image_token,
        text: Box::new(move |token| Box::new(QwenImageText { token, patches })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = Decoder::new(&text, &weights.first(&LANGUAGE, "embed_tokens.weight", "language model")?, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(QwenVl { tower, image_token }) })
}

/// The image tokens of an image, whose number depends on its size.
#[derive(Debug)]
struct QwenImageText {
    token: String,
    /// The number of patches of a token.
    patches: usize,
}

impl ImageText for QwenImageText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, image: &ImageLayout) -> String {
        self.token.repeat(image.rows * image.cols / self.patches)
    }
}

impl Family for QwenVl {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let (batch, tokens) = inputs.dims()?;
        let pixels = inputs.tensors.get("pixel_values");
        let grids = match pixels {
            Some(_) => Grid::read(inputs.tensor("image_grid_thw")?, self.tower.merge())?,
            None => Vec::new(),
        };
        let positions = positions(&inputs.kinds, &grids)?;
        let features = pixels.map(|pixels| self.tower.forward(pixels, &grids, images)).transpose()?;
        let embeddings = embed_with_features(decoder, inputs, self.image_token, features.as_ref().map(|f| &f.tokens))?;
        let nothing = embeddings.zeros_like()?.flatten_to(1)?;
        let ids = inputs.input_ids.flatten_all()?.to_vec1::<u32>()?;
        let in_place = |features: &Tensor| -> Result<Tensor> {
            Ok(replace_image_rows(&nothing, features, &ids, self.image_token)?.reshape((batch, tokens, ()))?)
        };
        let additions = features.iter().flat_map(|f| &f.deepstack).map(in_place).collect::<Result<_>>()?;
        Ok(DecoderInput { embeddings, order: TokenOrder { positions, attention: AttentionPattern::Causal }, additions })
    }
}

/// The positions in time, height and width. Text advances on all three axes. An image has one position in time; its
/// rows and columns count from there, and the next token comes after the larger of both counts.
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
    fn positions_skip_padding_and_continue_after_an_image() {
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
    fn image_tokens_that_do_not_match_the_grids_are_refused() {
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
