//! Llama 3.2 Vision: images stay out of the token sequence, and some layers of the decoder attend to them.

use candle_core::{DType, Device, Tensor};
use candle_nn::Module;

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::image_context::ImageContext;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::image_token;
use crate::layers::linear::{Linear, Weights};
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::{ModelInputs, Padding};
use crate::vision::feature_cache::FeatureCache;
use crate::vision::mllama::{MllamaVision, MllamaVisionConfig};

const LANGUAGE: [&str; 2] = ["language_model.model", "model.language_model"];
const HEAD: [&str; 2] = ["language_model", ""];
const VISION: [&str; 2] = ["vision_model", "model.vision_model"];
const PROJECTOR: [&str; 2] = ["multi_modal_projector", "model.multi_modal_projector"];

#[derive(Debug)]
struct Mllama {
    vision: MllamaVision,
    /// The number of features of one tile.
    features: usize,
    projector: Linear,
}

/// Loads a `MllamaForConditionalGeneration` checkpoint, with the tensor names of the hub or of transformers' modules.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let text = DecoderConfig::from_section(&config.section("text_config")?, "mllama_text_model")?;
    if text.rope.long_from().is_some() {
        // A restart would require the image context of every token, which the cache does not keep.
        let supported = &["default", "linear", "llama3", "yarn"];
        return Err(Error::Unsupported { what: "rope type of an Mllama", got: "longrope".to_owned(), supported });
    }
    let vision = MllamaVisionConfig::from_section(&config.section("vision_config")?)?;
    let token = image_token(config, 128_256)?;
    let bos = checkpoint.special_token("bos_token")?.unwrap_or_default();
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, vision.image_size)?,
        token,
        text: Box::new(move |text| Box::new(MllamaImageText { text, token, bos })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;

    let language = weights.first(&LANGUAGE, "embed_tokens.weight", "language model")?;
    let decoder = Decoder::new(&text, &language, &weights.first(&HEAD, "lm_head.weight", "head")?)?;
    let (features, width) = (vision.features(), vision.width());
    let tower = weights.first(&VISION, "class_embedding", "vision tower")?;
    let projector = weights.first(&PROJECTOR, "weight", "projector")?;
    let family = Mllama {
        vision: MllamaVision::new(vision, tower.vb())?,
        features,
        projector: Linear::load(projector.vb(), width, text.hidden, true)?,
    };
    Ok(FamilyParts { text, decoder, processor, family: Box::new(family) })
}

impl Family for Mllama {
    fn embed(&self, decoder: &Decoder, _images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        inputs.dims()?;
        Ok(DecoderInput::causal(decoder.embed(&inputs.input_ids)?))
    }

    fn image_context(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<Option<ImageContext>> {
        let Some(pixels) = inputs.tensors.get("pixel_values") else { return Ok(None) };
        let (batch, tokens) = inputs.dims()?;
        let features = self.vision.forward(pixels, inputs.tensor("aspect_ratio_ids")?, inputs.tensor("aspect_ratio_mask")?, images)?;
        let states = self.projector.forward(&features)?;
        let mask = inputs.tensor("cross_attention_mask")?;
        if states.dim(0)? != batch || mask.rank() != 4 || mask.dim(0)? != batch {
            let reason = format!("{batch} sequences, but images for {} and a cross-attention mask of {:?}", states.dim(0)?, mask.dims());
            return Err(Error::Inputs { reason });
        }
        ImageContext::new(decoder.keys_values(&states)?, &mask.flatten_from(2)?, tokens, self.features).map(Some)
    }
}

/// One image token per image; the features are not part of the sequence.
#[derive(Debug)]
struct MllamaImageText {
    text: String,
    token: u32,
    bos: String,
}

impl ImageText for MllamaImageText {
    fn placeholder(&self) -> &str {
        &self.text
    }

    fn expansion(&self, _: &ImageLayout) -> String {
        self.text.clone()
    }

    /// Puts the beginning-of-sequence token after leading images.
    fn add_special_tokens(&self, text: &str) -> Option<String> {
        let rest = text.trim_start_matches(&self.text);
        let images = text.strip_suffix(rest).unwrap_or_default();
        Some(if text.contains(&self.bos) { text.to_owned() } else { format!("{images}{}{rest}", self.bos) })
    }

    /// Adds `cross_attention_mask [batch, tokens, images, tiles]`, 1 where a token sees a tile. An image is visible
    /// from its token to the token before the next image; images in direct succession are all visible as long as the
    /// last of them.
    fn complete_inputs(&self, inputs: &mut ModelInputs, prompts: &[(String, usize)], _: Padding) -> Result<()> {
        let (Some(counts), Some(present)) = (inputs.tensors.remove("num_tiles"), inputs.tensors.get("aspect_ratio_mask")) else {
            return Ok(());
        };
        let (batch, images, tiles) = present.dims3()?;
        let counts = counts.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        let mut mask = Vec::new();
        let ids = inputs.input_ids.to_vec2::<u32>()?;
        let tokens = inputs.dims()?.1;
        for ((ids, counts), (_, shown)) in ids.iter().zip(&counts).zip(prompts) {
            let ranges = self.ranges(ids);
            if ranges.len() != *shown {
                let reason =
                    format!("{} image tokens in a text with {shown} images; does the response contain `{}`?", ranges.len(), self.text);
                return Err(Error::Inputs { reason });
            }
            let seen = |token: usize, image: usize| ranges.get(image).is_some_and(|range| range.contains(&token));
            let count = |image: usize| counts.get(image).map_or(0, |n| usize::try_from(*n).unwrap_or(0));
            mask.extend((0..tokens).flat_map(|token| {
                (0..images).flat_map(move |image| (0..tiles).map(move |tile| i64::from(seen(token, image) && tile < count(image))))
            }));
        }
        inputs.tensors.insert("cross_attention_mask".to_owned(), Tensor::from_vec(mask, (batch, tokens, images, tiles), &Device::Cpu)?);
        Ok(())
    }
}

impl MllamaImageText {
    /// The range of tokens that see each image.
    fn ranges(&self, ids: &[u32]) -> Vec<std::ops::Range<usize>> {
        let mut ranges = Vec::new();
        let (mut end, mut next) = (ids.len(), ids.len());
        for (at, _) in ids.iter().enumerate().rev().filter(|(_, id)| **id == self.token) {
            end = if at + 1 == next { end } else { next };
            ranges.push(at..end);
            next = at;
        }
        ranges.reverse();
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image_text() -> MllamaImageText {
        MllamaImageText { text: "<|image|>".to_owned(), token: 9, bos: "<bos>".to_owned() }
    }

    #[test]
    fn an_image_is_visible_until_the_next_one_and_adjacent_images_together() {
        let ranges = |ids: &[u32]| image_text().ranges(ids).into_iter().map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert!(ranges(&[1, 2]).is_empty());
        assert_eq!(ranges(&[1, 9, 2, 3]), [(1, 4)]);
        assert_eq!(ranges(&[1, 2, 9]), [(2, 3)]);
        assert_eq!(ranges(&[9, 1, 9, 2, 3]), [(0, 2), (2, 5)]);
        assert_eq!(ranges(&[9, 9, 1, 2, 9, 9, 9, 3]), [(0, 4), (1, 4), (4, 8), (5, 8), (6, 8)]);
    }

    #[test]
    fn the_bos_token_follows_leading_images() {
        let frame = |text: &str| image_text().add_special_tokens(text).unwrap();
        assert_eq!(frame("What?"), "<bos>What?");
        assert_eq!(frame("<|image|><|image|>What? <|image|>"), "<|image|><|image|><bos>What? <|image|>");
        assert_eq!(frame("<|image|>"), "<|image|><bos>");
        assert_eq!(frame(""), "<bos>");
        assert_eq!(frame("user: <bos>What?"), "user: <bos>What?");
    }
}
