//! LLaVA-1.5 and models like it: a CLIP or SigLIP tower, a two-layer projector, and a decoder.

use candle_core::Tensor;
use candle_nn::Module;

use crate::checkpoint::model_files::Checkpoint;
use crate::checkpoint::section::Section;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::{embed_with_features, image_token};
use crate::layers::activation::Activation;
use crate::layers::linear::{Linear, Weights};
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::chat_template;
use crate::processor::image_text::FixedLengthText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::model_inputs::ModelInputs;
use crate::vision::clip_siglip::{VisionConfig, VisionTower, select_features};
use crate::vision::feature_cache::FeatureCache;

const LANGUAGE: [&str; 3] = ["language_model.model", "model.language_model", "model"];
/// The possible names of the vision tower.
pub(crate) const VISION: [&str; 5] = [
    "vision_tower.vision_model",
    "vision_tower",
    "model.vision_tower",
    "model.vision_tower.vision_model",
    "model.vision_tower.vision_tower.vision_model",
];
const PROJECTOR: [(&str, &str, &str); 3] = [
    ("multi_modal_projector", "linear_1", "linear_2"),
    ("model.multi_modal_projector", "linear_1", "linear_2"),
    ("model.mm_projector", "0", "2"),
];

/// The defaults of the image features' configuration.
pub(crate) struct FeatureDefaults {
    pub(crate) tower: &'static str,
    pub(crate) layer: i64,
    pub(crate) strategy: &'static str,
}

/// The defaults of LLaVA-1.5 and LLaVA-NeXT.
pub(crate) const DEFAULTS: FeatureDefaults = FeatureDefaults { tower: "clip_vision_model", layer: -2, strategy: "default" };

#[derive(Debug)]
struct Llava {
    features: ImageFeatures,
    image_token: u32,
}

/// Loads a `LlavaForConditionalGeneration` checkpoint, with the tensor names of the hub, of transformers' modules (old
/// and new), or of the first published LLaVA.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    let mut text = DecoderConfig::from_section(&config.section("text_config")?, "llama")?;
    text.tied |= config.bool("tie_word_embeddings")?.unwrap_or(false);
    let features = ImageFeatures::load(config, &text, weights, &DEFAULTS)?;
    let image_token = image_token(config, 32_000)?;
    let per_image = features.per_image;
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, features.image_size)?,
        token: image_token,
        text: Box::new(move |token| Box::new(FixedLengthText { token, features: per_image })),
    };
    let processor = Processor::load(checkpoint, Some(images), Some(chat_template::LLAVA_1_5))?;
    let decoder = load_decoder(&text, weights)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(Llava { features, image_token }) })
}

impl Family for Llava {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => Some(images.of_each(pixels, |pixels| self.features.forward(pixels))?.flatten_to(1)?),
            None => None,
        };
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}

/// Loads the language model of a checkpoint with LLaVA's tensor names.
pub(crate) fn load_decoder(text: &DecoderConfig, weights: &Weights<'_>) -> Result<Decoder> {
    let language = weights.first(&LANGUAGE, "embed_tokens.weight", "language model")?;
    Decoder::new(text, &language, weights)
}

/// The image features: vision tower, selection of layers, and projector.
#[derive(Debug)]
pub(crate) struct ImageFeatures {
    tower: VisionTower,
    layers: Vec<usize>,
    drop_class_token: bool,
    projector: Projector,
    /// The side of the tower's input in pixels.
    pub(crate) image_size: usize,
    /// The number of patches along a side.
    pub(crate) side: usize,
    /// The number of features of one tower input.
    pub(crate) per_image: usize,
}

impl ImageFeatures {
    pub(crate) fn load(config: &Section, text: &DecoderConfig, weights: &Weights<'_>, defaults: &FeatureDefaults) -> Result<Self> {
        let vision = VisionConfig::from_section(&config.section("vision_config")?, defaults.tower)?;
        let drop_class_token = match config.string("vision_feature_select_strategy")?.unwrap_or(defaults.strategy) {
            "default" => true,
            "full" => false,
            other => return Err(config.error("vision_feature_select_strategy", format!("expected default or full, found {other}"))),
        };
        let layers = feature_layers(config, vision.layers, defaults.layer)?;
        let tower = weights.first(&VISION, "embeddings.patch_embedding.weight", "vision tower")?;
        // Norm and head of the whole tower, and layers after those whose states are used.
        ["post_layernorm", "head"].iter().for_each(|name| tower.leave_out(name));
        (deepest(&layers)..vision.layers).for_each(|layer| tower.leave_out(&format!("encoder.layers.{layer}")));
        Ok(Self {
            tower: VisionTower::new(&vision, deepest(&layers), tower.vb())?,
            projector: Projector::load(config, vision.hidden * layers.len(), text.hidden, true, weights)?,
            layers,
            drop_class_token,
            image_size: vision.image_size,
            side: vision.image_size / vision.patch_size,
            per_image: vision.patches() + usize::from(vision.has_class_token()) - usize::from(drop_class_token),
        })
    }

    /// Computes the image features `[images, features, hidden]` of pixels `[images, 3, size, size]`.
    pub(crate) fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let states = self.tower.hidden_states(&pixels.to_dtype(self.projector.dtype())?, &self.layers)?;
        self.projector.forward(&select_features(&states, self.drop_class_token)?)
    }
}

/// The feature layers as numbers of layers run: 0 is the input of the first layer; negative numbers count from the end,
/// where -1 is the output of the last layer. `default` stands in for a missing setting.
pub(crate) fn feature_layers(config: &Section, layers: usize, default: i64) -> Result<Vec<usize>> {
    const KEY: &str = "vision_feature_layer";
    let resolve = |layer: i64| {
        let from_end = i64::try_from(layers).unwrap_or(i64::MAX) + 1;
        let index = if layer < 0 { layer + from_end } else { layer };
        usize::try_from(index)
            .ok()
            .filter(|i| *i <= layers)
            .ok_or_else(|| config.error(KEY, format!("{layer} is not a hidden state of a tower with {layers} layers")))
    };
    match config.get(KEY) {
        Some(serde_json::Value::Array(list)) if !list.is_empty() => {
            list.iter().map(|v| resolve(v.as_i64().ok_or_else(|| config.error(KEY, "expected whole numbers"))?)).collect()
        }
        _ => Ok(vec![resolve(config.i64(KEY)?.unwrap_or(default))?]),
    }
}

/// The number of layers to run.
pub(crate) fn deepest(layers: &[usize]) -> usize {
    layers.iter().copied().max().unwrap_or(0)
}

/// The projector from vision features to token embeddings.
#[derive(Debug)]
pub(crate) struct Projector {
    first: Linear,
    activation: Activation,
    second: Linear,
}

impl Projector {
    /// Loads the projector from `inputs` to `hidden` features; `bias` stands in for a missing setting.
    pub(crate) fn load(config: &Section, inputs: usize, hidden: usize, bias: bool, weights: &Weights<'_>) -> Result<Self> {
        let (prefix, first, second) =
            PROJECTOR.into_iter().find(|(prefix, first, _)| weights.has(&format!("{prefix}.{first}.weight"))).ok_or_else(|| {
                Error::MissingTensor { part: "projector", names: PROJECTOR.iter().map(|(p, f, _)| format!("{p}.{f}.weight")).collect() }
            })?;
        let below = weights.vb().pp(prefix);
        let (first, second) = (below.pp(first), below.pp(second));
        let bias = config.bool("multimodal_projector_bias")?.unwrap_or(bias);
        Ok(Self {
            first: Linear::load(&first, inputs, hidden, bias)?,
            activation: Activation::from_name(config.string("projector_hidden_act")?.unwrap_or("gelu"))?,
            second: Linear::load(&second, hidden, hidden, bias)?,
        })
    }

    fn dtype(&self) -> candle_core::DType {
        self.first.dtype()
    }

    /// Projects features `[.., inputs]` to `[.., hidden]`.
    pub(crate) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        Ok(self.second.forward(&self.activation.forward(&self.first.forward(features)?)?)?)
    }
}
