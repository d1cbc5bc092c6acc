//! PaliGemma 1 and 2: a SigLIP tower, a linear projector, and Gemma or Gemma 2 with attention in both directions over
//! the prompt.

use candle_core::Tensor;
use candle_nn::{LayerNorm, Module};

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::pass::{AttentionPattern, Positions, TokenOrder};
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::families::llava::{VISION, load_decoder};
use crate::layers::linear::{Linear, Weights};
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::clip_siglip::{VisionConfig, VisionTower};
use crate::vision::feature_cache::FeatureCache;

const PROJECTOR: [&str; 2] = ["multi_modal_projector.linear", "model.multi_modal_projector.linear"];

/// A template for the published models, which have none: a prompt is its images and a task, such as `caption en`.
const TEMPLATE: &str = "{% for message in messages %}\
{% for part in message.content if part.type == 'image' %}<image>{% endfor %}\
{% endfor %}\
{% for message in messages %}\
{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}\
{% if not loop.last %}{{ '\\n' }}{% endif %}\
{% endfor %}";

#[derive(Debug)]
struct PaliGemma {
    tower: VisionTower,
    layers: usize,
    tower_norm: LayerNorm,
    projector: Linear,
    image_token: u32,
}

/// Loads a `PaliGemmaForConditionalGeneration` checkpoint of either version, with the tensor names of the hub or of
/// transformers' modules.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let mut text = DecoderConfig::from_section(&config.section("text_config")?, "gemma")?;
    text.tied = config.bool("tie_word_embeddings")?.unwrap_or(true);
    let vision = VisionConfig::from_section(&config.section("vision_config")?, "siglip_vision_model")?;
    let tower = weights.first(&VISION, "embeddings.patch_embedding.weight", "vision tower")?;
    let projector = weights.first(&PROJECTOR, "weight", "projector")?;
    let image_token = image_token(config, 256_000)?;
    let family = PaliGemma {
        tower: VisionTower::new(&vision, vision.layers, tower.vb())?,
        layers: vision.layers,
        tower_norm: candle_nn::layer_norm(vision.hidden, vision.eps, tower.vb().pp("post_layernorm"))?,
        projector: Linear::load(projector.vb(), vision.hidden, text.hidden, true)?,
        image_token,
    };
    let bos = checkpoint.special_token("bos_token")?.unwrap_or_else(|| "<bos>".to_owned());
    let features = vision.patches();
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, vision.image_size)?,
        token: image_token,
        text: Box::new(move |token| Box::new(PaliGemmaImageText { token, features, bos })),
    };
    let processor = Processor::load(checkpoint, Some(images), Some(TEMPLATE))?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(family) })
}

impl Family for PaliGemma {
    fn attends_to_later_text(&self) -> bool {
        true
    }

    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => Some(images.of_each(pixels, |pixels| self.features(pixels))?.flatten_to(1)?),
            None => None,
        };
        Ok(DecoderInput {
            embeddings: embed_with_features(decoder, inputs, self.image_token, features.as_ref())?,
            order: TokenOrder { positions: Positions::Consecutive(1), attention: AttentionPattern::PrefixLm },
            additions: Vec::new(),
        })
    }
}

impl PaliGemma {
    /// Computes the image features `[images, patches, hidden]` of pixels `[images, 3, size, size]`.
    fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let states = self.tower.hidden_states(&pixels.to_dtype(self.projector.dtype())?, &[self.layers])?;
        let last = states.first().ok_or_else(|| Error::Inputs { reason: "no image".to_owned() })?;
        Ok(self.projector.forward(&self.tower_norm.forward(last)?)?)
    }
}

/// The text of a prompt: the image tokens, the beginning-of-sequence token, the task, a newline.
#[derive(Debug)]
struct PaliGemmaImageText {
    token: String,
    features: usize,
    bos: String,
}

impl ImageText for PaliGemmaImageText {
    fn placeholder(&self) -> &str {
        &self.token
    }

    fn expansion(&self, _: &ImageLayout) -> String {
        self.token.repeat(self.features)
    }

    fn add_special_tokens(&self, text: &str) -> Option<String> {
        let after_images = text.rfind(&self.token).map_or(0, |last| last + self.token.len());
        let (images, task) = text.split_at_checked(after_images)?;
        Some(format!("{images}{}{task}\n", self.bos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_its_images_then_its_text_between_bos_and_newline() {
        let prefix = PaliGemmaImageText { token: "<image>".to_owned(), features: 2, bos: "<bos>".to_owned() };
        let framed = |text: &str| prefix.add_special_tokens(text).unwrap();
        assert_eq!(framed("<image>caption en"), "<image><bos>caption en\n");
        assert_eq!(framed("<image><image>"), "<image><image><bos>\n");
        assert_eq!(framed("caption en"), "<bos>caption en\n");
        let layout = ImageLayout { height: 10, width: 20, rows: 1, cols: 1 };
        assert_eq!(prefix.expand(&framed("<image>caption en"), &[layout]).unwrap(), "<image><image><bos>caption en\n");
    }
}
