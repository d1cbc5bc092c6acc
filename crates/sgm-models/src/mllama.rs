//! Llama 3.2 Vision: the images stay beside the text, and some layers of the decoder attend to them.

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module};

use crate::auto::{Embedded, Family, Parts};
use crate::checkpoint::Checkpoint;
use crate::cross_attention::Sight;
use crate::decoder::Decoder;
use crate::decoder_config::DecoderConfig;
use crate::image_processor::{ImageLayout, ImageProcessor};
use crate::image_tokens::ImageText;
use crate::linear::Weights;
use crate::llava::image_token;
use crate::mllama_vision::{MllamaVision, MllamaVisionConfig};
use crate::model::ModelInputs;
use crate::processor::{Images, Padding, Processor};
use crate::{Error, Result};

const LANGUAGE: [&str; 2] = ["language_model.model", "model.language_model"];
const HEAD: [&str; 2] = ["language_model", ""];
const VISION: [&str; 2] = ["vision_model", "model.vision_model"];
const PROJECTOR: [&str; 2] = ["multi_modal_projector", "model.multi_modal_projector"];

#[derive(Debug)]
struct Mllama {
    vision: MllamaVision,
    /// Features of one tile.
    features: usize,
    projector: Linear,
}

/// Loads a `MllamaForConditionalGeneration` checkpoint, under the tensor names of the hub or of transformers' modules.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<Parts> {
    let config = checkpoint.config();
    let text = DecoderConfig::from_section(&config.section("text_config")?, "mllama_text_model")?;
    if text.rope.changes_at().is_some() {
        // To begin anew, the cache would have to keep what every token sees.
        let supported = &["default", "linear", "llama3", "yarn"];
        return Err(Error::Unsupported { what: "rope type of an Mllama", got: "longrope".to_owned(), supported });
    }
    let vision = MllamaVisionConfig::from_section(&config.section("vision_config")?)?;
    let token = image_token(config, 128_256)?;
    let bos = checkpoint.special_token("bos_token")?.unwrap_or_default();
    let images = Images {
        processor: ImageProcessor::load(checkpoint, vision.image_size)?,
        token,
        text: Box::new(move |text| Box::new(Beside { text, token, bos })),
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
        projector: candle_nn::linear(width, text.hidden, projector.vb().clone())?,
    };
    Ok(Parts { text, decoder, processor, family: Box::new(family) })
}

impl Family for Mllama {
    fn embed(&self, decoder: &Decoder, inputs: &ModelInputs) -> Result<Embedded> {
        inputs.dims()?;
        Ok(Embedded::causal(decoder.embed(&inputs.input_ids)?))
    }

    fn sight(&self, decoder: &Decoder, inputs: &ModelInputs) -> Result<Option<Sight>> {
        let Some(pixels) = inputs.tensors.get("pixel_values") else { return Ok(None) };
        let (batch, tokens) = inputs.dims()?;
        let features = self.vision.forward(pixels, inputs.tensor("aspect_ratio_ids")?, inputs.tensor("aspect_ratio_mask")?)?;
        let states = self.projector.forward(&features)?;
        let mask = inputs.tensor("cross_attention_mask")?;
        if states.dim(0)? != batch || mask.rank() != 4 || mask.dim(0)? != batch {
            let reason = format!("{batch} sequences, but images for {} and a cross-attention mask of {:?}", states.dim(0)?, mask.dims());
            return Err(Error::Inputs { reason });
        }
        Sight::new(decoder.keys_values(&states)?, &mask.flatten_from(2)?, tokens, self.features).map(Some)
    }
}

/// An image is one token in the text, wherever its features are.
#[derive(Debug)]
struct Beside {
    text: String,
    token: u32,
    bos: String,
}

impl ImageText for Beside {
    fn placeholder(&self) -> &str {
        &self.text
    }

    fn expansion(&self, _: &ImageLayout) -> String {
        self.text.clone()
    }

    /// The beginning of the sequence goes behind images that begin the text.
    fn frame(&self, text: &str) -> Option<String> {
        let rest = text.trim_start_matches(&self.text);
        let images = text.strip_suffix(rest).unwrap_or_default();
        Some(if text.contains(&self.bos) { text.to_owned() } else { format!("{images}{}{rest}", self.bos) })
    }

    /// Adds `cross_attention_mask [batch, tokens, images, tiles]`, 1 where a token sees a tile: an image is seen from its
    /// token to the next one, and images in a row are seen as far as the last of them.
    fn finish(&self, inputs: &mut ModelInputs, rows: &[(String, usize)], _: Padding) -> Result<()> {
        let (Some(counts), Some(present)) = (inputs.tensors.remove("num_tiles"), inputs.tensors.get("aspect_ratio_mask")) else {
            return Ok(());
        };
        let (batch, images, tiles) = present.dims3()?;
        let counts = counts.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        let mut mask = Vec::new();
        let ids = inputs.input_ids.to_vec2::<u32>()?;
        let tokens = inputs.dims()?.1;
        for ((ids, counts), (_, shown)) in ids.iter().zip(&counts).zip(rows) {
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

impl Beside {
    /// The tokens that see each image.
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

    fn beside() -> Beside {
        Beside { text: "<|image|>".to_owned(), token: 9, bos: "<bos>".to_owned() }
    }

    #[test]
    fn an_image_is_seen_until_the_next_one_and_neighbours_together() {
        let ranges = |ids: &[u32]| beside().ranges(ids).into_iter().map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert!(ranges(&[1, 2]).is_empty());
        assert_eq!(ranges(&[1, 9, 2, 3]), [(1, 4)]);
        assert_eq!(ranges(&[1, 2, 9]), [(2, 3)]);
        assert_eq!(ranges(&[9, 1, 9, 2, 3]), [(0, 2), (2, 5)]);
        assert_eq!(ranges(&[9, 9, 1, 2, 9, 9, 9, 3]), [(0, 4), (1, 4), (4, 8), (5, 8), (6, 8)]);
    }

    #[test]
    fn the_sequence_begins_behind_leading_images() {
        let frame = |text: &str| beside().frame(text).unwrap();
        assert_eq!(frame("What?"), "<bos>What?");
        assert_eq!(frame("<|image|><|image|>What? <|image|>"), "<|image|><|image|><bos>What? <|image|>");
        assert_eq!(frame("<|image|>"), "<|image|><bos>");
        assert_eq!(frame(""), "<bos>");
        assert_eq!(frame("user: <bos>What?"), "user: <bos>What?");
    }
}
