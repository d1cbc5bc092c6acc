//! InternVL in the layout of transformers: images cut into tiles of the closest aspect ratio, followed by the whole image
//! in one tile.

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::families::llava::load_decoder;
use crate::layers::linear::Weights;
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::feature_cache::FeatureCache;
use crate::vision::internvl::InternVlVision;

const VISION: [&str; 2] = ["vision_tower", "model.vision_tower"];
const PROJECTOR: [&str; 2] = ["multi_modal_projector", "model.multi_modal_projector"];

#[derive(Debug)]
struct InternVl {
    vision: InternVlVision,
    image_token: u32,
}

/// Loads an `InternVLForConditionalGeneration` checkpoint, with the tensor names of the hub or of transformers' modules.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let mut text = DecoderConfig::from_section(&config.section("text_config")?, "qwen2")?;
    text.tied = config.bool("tie_word_embeddings")?.unwrap_or(true);
    let tower = weights.first(&VISION, "embeddings.cls_token", "vision tower")?;
    let projector = weights.first(&PROJECTOR, "linear_1.weight", "projector")?;
    let vision = InternVlVision::load(config, text.hidden, tower.vb(), projector.vb())?;
    let image_token = image_token(config, 151_667)?;
    let named = |name: &str, default: &str| Ok::<_, Error>(checkpoint.special_token(name)?.unwrap_or_else(|| default.to_owned()));
    let (begin, end) = (named("start_image_token", "<img>")?, named("end_image_token", "</img>")?);
    let per_tile = vision.per_tile();
    let images = ImageSupport {
        // InternVLProcessor cuts images into tiles, whatever the image processor's own setting.
        processor: ImageProcessor::load(checkpoint, vision.image_size)?.cropping_to_patches(),
        token: image_token,
        text: Box::new(move |token| Box::new(InternVlImageText { tile: token.repeat(per_tile), token, begin, end })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(InternVl { vision, image_token }) })
}

impl Family for InternVl {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = inputs.tensors.get("pixel_values").map(|pixels| self.vision.forward(pixels, images)).transpose()?;
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}

/// The text of an image: the image tokens of all its tiles, between a begin and an end.
#[derive(Debug)]
struct InternVlImageText {
    token: String,
    /// The image tokens of one tile.
    tile: String,
    begin: String,
    end: String,
}

impl ImageText for InternVlImageText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, image: &ImageLayout) -> String {
        let tiles = image.rows * image.cols;
        let whole_image = usize::from(tiles > 1);
        format!("{}{}{}", self.begin, self.tile.repeat(tiles + whole_image), self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_image_follows_if_there_are_several_tiles() {
        let [token, tile, begin, end] = ["*", "**", "<img>", "</img>"].map(str::to_owned);
        let text = InternVlImageText { token, tile, begin, end };
        let expansion = |rows, cols| text.expansion(&ImageLayout { height: 1, width: 1, rows, cols });
        assert_eq!(expansion(1, 1), "<img>**</img>");
        assert_eq!(expansion(1, 2), "<img>******</img>");
    }
}
