//! Idefics3 and SmolVLM: images cut into tiles, followed by the whole image in one tile, and a Llama decoder.

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::Result;
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::embed_with_features;
use crate::layers::linear::Weights;
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::feature_cache::FeatureCache;
use crate::vision::idefics3::Idefics3Vision;

#[derive(Debug)]
struct Idefics3 {
    vision: Idefics3Vision,
    image_token: u32,
}

/// Loads an `Idefics3ForConditionalGeneration` or `SmolVLMForConditionalGeneration` checkpoint.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let mut text = DecoderConfig::from_section(&config.section("text_config")?, "llama")?;
    if config.get("text_config").is_none() {
        text.rms_eps = 1e-5;
    }
    text.tied |= config.bool("tie_word_embeddings")?.unwrap_or(false);
    let language = weights.first(&["model.text_model"], "embed_tokens.weight", "language model")?;
    let tower = weights.first(&["model"], "vision_model.embeddings.patch_embedding.weight", "vision tower")?;
    let vision = Idefics3Vision::load(config, text.hidden, tower.vb())?;
    let image_token = config.u32("image_token_id")?.unwrap_or(128_257);
    let per_tile = vision.per_image();
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, vision.image_size)?,
        token: image_token,
        text: Box::new(move |token| Box::new(Idefics3ImageText { tile: token.repeat(per_tile), token })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = Decoder::new(&text, &language, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(Idefics3 { vision, image_token }) })
}

impl Family for Idefics3 {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => self.vision.forward(pixels, inputs.tensors.get("pixel_attention_mask"), images)?,
            None => None,
        };
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}

const FRAME: &str = "<fake_token_around_image>";

/// The text of an image: its tiles in row-major order, each after a token for its position, then the whole image.
#[derive(Debug)]
struct Idefics3ImageText {
    token: String,
    /// The image tokens of one tile.
    tile: String,
}

impl ImageText for Idefics3ImageText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, image: &ImageLayout) -> String {
        let tile = &self.tile;
        let mut text = String::new();
        for row in 1..=image.rows {
            for col in 1..=image.cols {
                text += &format!("{FRAME}<row_{row}_col_{col}>{tile}");
            }
            text.push('\n');
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text + &format!("{FRAME}<global-img>{tile}{FRAME}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expansion(rows: usize, cols: usize) -> String {
        let layout = ImageLayout { height: 1, width: 1, rows, cols };
        Idefics3ImageText { token: "<image>".to_owned(), tile: "**".to_owned() }.expansion(&layout)
    }

    #[test]
    fn an_unsplit_image_has_a_frame() {
        assert_eq!(expansion(0, 0), "<fake_token_around_image><global-img>**<fake_token_around_image>");
    }

    #[test]
    fn tiles_come_in_rows_followed_by_the_whole_image() {
        let expected = "#<row_1_col_1>**#<row_1_col_2>**\n#<row_2_col_1>**#<row_2_col_2>**\n\n#<global-img>**#";
        assert_eq!(expansion(2, 2), expected.replace('#', FRAME));
    }
}
