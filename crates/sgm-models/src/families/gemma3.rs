//! Gemma 3 with images: a SigLIP tower, whose patches are averaged in squares, and a decoder in which the tokens of an
//! image attend to each other in both directions.

use candle_core::Tensor;
use candle_nn::{LayerNorm, Module};

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::pass::AttentionPattern;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::families::llava::{VISION, load_decoder};
use crate::layers::derivative::RmsNorm;
use crate::layers::linear::Weights;
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::clip_siglip::{VisionConfig, VisionTower};
use crate::vision::feature_cache::FeatureCache;

const PROJECTOR: [&str; 2] = ["multi_modal_projector", "model.multi_modal_projector"];

#[derive(Debug)]
struct Gemma3 {
    tower: VisionTower,
    layers: usize,
    tower_norm: LayerNorm,
    /// The number of patches along the side of an image.
    side: usize,
    /// The number of patches along the side of a square that is averaged.
    pool: usize,
    feature_norm: RmsNorm,
    /// `[vision hidden, hidden]`.
    projection: Tensor,
    image_token: u32,
}

/// Loads a `Gemma3ForConditionalGeneration` checkpoint, with the tensor names of the hub or of transformers' modules.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let mut text = DecoderConfig::from_section(&config.section("text_config")?, "gemma3_text")?;
    text.tied = config.bool("tie_word_embeddings")?.unwrap_or(true);
    let vision = VisionConfig::from_section(&config.section("vision_config")?, "siglip_vision_model")?;
    let features = config.positive("mm_tokens_per_image", 256)?;
    let (side, tokens) = (vision.image_size / vision.patch_size, features.isqrt());
    let pool = side / tokens;
    if vision.has_class_token() || tokens * tokens != features || pool == 0 || side / pool != tokens {
        let reason = format!("{features} tokens are no squares of the {side} by {side} patches of the vision tower");
        return Err(config.error("mm_tokens_per_image", reason));
    }
    let tower = weights.first(&VISION, "embeddings.patch_embedding.weight", "vision tower")?;
    let projector = weights.first(&PROJECTOR, "mm_input_projection_weight", "projector")?;
    let image_token = image_token(config, 262_144)?;
    let family = Gemma3 {
        tower: VisionTower::new(&vision, vision.layers, tower.vb())?,
        layers: vision.layers,
        tower_norm: candle_nn::layer_norm(vision.hidden, vision.eps, tower.vb().pp("post_layernorm"))?,
        side,
        pool,
        feature_norm: projector.rms_norm("mm_soft_emb_norm", vision.hidden, vision.eps, true)?,
        projection: projector.get((vision.hidden, text.hidden), "mm_input_projection_weight")?,
        image_token,
    };
    let named = |name: &str, default: &str| Ok::<_, Error>(checkpoint.special_token(name)?.unwrap_or_else(|| default.to_owned()));
    let (begin, end) = (named("boi_token", "<start_of_image>")?, named("eoi_token", "<end_of_image>")?);
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, vision.image_size)?,
        token: image_token,
        text: Box::new(move |token| {
            let image = format!("\n\n{begin}{}{end}\n\n", token.repeat(features));
            Box::new(Gemma3ImageText { begin, image })
        }),
    };
    let processor = Processor::load(checkpoint, Some(images), None)?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(family) })
}

impl Family for Gemma3 {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => Some(images.of_each(pixels, |pixels| self.features(pixels))?.flatten_to(1)?),
            None => None,
        };
        let mut input = DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?);
        input.order.attention = AttentionPattern::ImageBlocks;
        Ok(input)
    }
}

impl Gemma3 {
    /// Computes the image features `[images, features, hidden]` of pixels `[images, 3, size, size]`.
    fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let states = self.tower.hidden_states(&pixels.to_dtype(self.projection.dtype())?, &[self.layers])?;
        let last = states.first().ok_or_else(|| Error::Inputs { reason: "no image".to_owned() })?;
        let patches = self.tower_norm.forward(last)?.transpose(1, 2)?.contiguous()?;
        let (images, hidden, _) = patches.dims3()?;
        let squares = patches.reshape((images, hidden, self.side, self.side))?.avg_pool2d(self.pool)?;
        let squares = squares.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        Ok(self.feature_norm.forward(&squares)?.broadcast_matmul(&self.projection)?)
    }
}

/// The text of an image: its tokens between a begin and an end, set off by blank lines. The chat template writes the
/// begin alone.
#[derive(Debug)]
struct Gemma3ImageText {
    begin: String,
    image: String,
}

impl ImageText for Gemma3ImageText {
    fn placeholder(&self) -> &str {
        &self.begin
    }

    fn expansion(&self, _: &ImageLayout) -> String {
        self.image.clone()
    }
}
