//! LLaVA-NeXT, also called LLaVA-1.6: LLaVA's tower over the whole image and over tiles of it.

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::Result;
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::families::llava::{DEFAULTS, ImageFeatures, load_decoder};
use crate::families::tiled_features::{TiledFeatures, TiledImageText};
use crate::layers::linear::Weights;
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::images::anyres::Resolutions;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::feature_cache::FeatureCache;

#[derive(Debug)]
struct LlavaNext {
    features: TiledFeatures,
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
    let features = ImageFeatures::load(config, &text, weights, &DEFAULTS)?;
    let (image_size, side) = (features.image_size, features.side);
    let features = TiledFeatures::load(config, features, Resolutions::next(), None, text.hidden, weights)?;
    let image_token = image_token(config, 32_000)?;
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, image_size)?,
        token: image_token,
        text: Box::new(move |token| Box::new(TiledImageText { token, side, most_tiles: None })),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(LlavaNext { features, image_token }) })
}

impl Family for LlavaNext {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => Some(self.features.forward(pixels, inputs.tensor("image_sizes")?, images, |_| true)?),
            None => None,
        };
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}
