//! LLaVA-OneVision: the whole image and tiles of it, with a limit on the features of the tiles; several images in one
//! prompt are not cut into tiles.

use candle_core::DType;

use crate::checkpoint::model_files::Checkpoint;
use crate::checkpoint::section::Section;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::families::llava::{FeatureDefaults, ImageFeatures, load_decoder};
use crate::families::tiled_features::{TiledFeatures, TiledImageText};
use crate::layers::linear::Weights;
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::images::anyres::Resolutions;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::feature_cache::FeatureCache;

const DEFAULTS: FeatureDefaults = FeatureDefaults { tower: "siglip_vision_model", layer: -1, strategy: "full" };

#[derive(Debug)]
struct LlavaOneVision {
    features: TiledFeatures,
    image_token: u32,
    video_token: u32,
}

/// Loads a `LlavaOnevisionForConditionalGeneration` checkpoint, with the tensor names of the hub or of transformers'
/// modules.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let mut text = DecoderConfig::from_section(&config.section("text_config")?, "qwen2")?;
    text.tied |= config.bool("tie_word_embeddings")?.unwrap_or(false);
    let features = ImageFeatures::load(config, &text, weights, &DEFAULTS)?;
    let (image_size, side, most_tiles) = (features.image_size, features.side, Some(most_tiles(config)?));
    let features = TiledFeatures::load(config, features, Resolutions::one_vision(), most_tiles, text.hidden, weights)?;
    let image_token = image_token(config, 151_646)?;
    let video_token = match config.u32("video_token_id")? {
        Some(id) => id,
        None => config.u32("video_token_index")?.unwrap_or(151_647),
    };
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, image_size)?,
        token: image_token,
        text: Box::new(move |token| Box::new(TiledImageText { token, side, most_tiles })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(LlavaOneVision { features, image_token, video_token }) })
}

/// The largest number of tiles of features that are kept, from `vision_aspect_ratio`.
fn most_tiles(config: &Section) -> Result<usize> {
    const KEY: &str = "vision_aspect_ratio";
    let given = config.string(KEY)?.unwrap_or("anyres_max_9");
    let most = given.strip_prefix("anyres_max_").and_then(|most| most.parse().ok()).filter(|most| (1..=1 << 20).contains(most));
    most.ok_or_else(|| config.error(KEY, format!("expected anyres_max_ and a number of tiles, found {given}")))
}

impl Family for LlavaOneVision {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let ids = inputs.input_ids.flatten_all()?.to_vec1::<u32>()?;
        if ids.contains(&self.video_token) || inputs.tensors.contains_key("pixel_values_videos") {
            return Err(Error::Inputs { reason: "video is not supported; show frames of it as images".to_owned() });
        }
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => {
                let sizes = inputs.tensor("image_sizes")?;
                let alone = match inputs.tensors.get("batch_num_images") {
                    Some(counts) => alone(&counts.to_dtype(DType::I64)?.to_vec1()?, sizes.dim(0)?)?,
                    None => vec![true; sizes.dim(0)?],
                };
                Some(self.features.forward(pixels, sizes, images, |image| alone.get(image) == Some(&true))?)
            }
            None => None,
        };
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}

/// Whether each image is the only one of its prompt, given the numbers of images of the prompts that have any.
fn alone(counts: &[i64], images: usize) -> Result<Vec<bool>> {
    let of_prompt = |count: &i64| usize::try_from(*count).ok().filter(|count| *count <= images).map(|count| vec![count == 1; count]);
    let alone = counts.iter().map(of_prompt).collect::<Option<Vec<_>>>().map(|alone| alone.concat());
    alone.filter(|alone| alone.len() == images).ok_or_else(|| {
        let reason = format!("batch_num_images are {counts:?}, image_sizes are of {images} images");
        Error::Inputs { reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_alone_in_their_prompts_or_not() {
        assert_eq!(alone(&[1, 2, 1], 4).unwrap(), [true, false, false, true]);
        for counts in [&[1, 2][..], &[-1, 5], &[i64::MAX], &[]] {
            assert!(matches!(alone(counts, 4), Err(Error::Inputs { .. })), "{counts:?}");
        }
    }

    #[test]
    fn the_limit_is_read_from_the_name_of_the_method() {
        let most = |json: &str| most_tiles(&Section::parse("config.json", json.as_bytes()).unwrap());
        assert_eq!(most("{}").unwrap(), 9);
        assert_eq!(most(r#"{"vision_aspect_ratio": "anyres_max_4"}"#).unwrap(), 4);
        for other in ["anyres", "pad", "anyres_max_", "anyres_max_0", "anyres_max_99999999999"] {
            assert!(most(&format!(r#"{{"vision_aspect_ratio": "{other}"}}"#)).is_err(), "{other}");
        }
    }
}
