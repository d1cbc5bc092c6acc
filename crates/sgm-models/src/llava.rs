//! LLaVA-1.5: a CLIP or SigLIP tower, a two-layer projector, and a decoder.

use candle_core::Tensor;
use candle_nn::{Linear, Module, VarBuilder};

use crate::activation::Activation;
use crate::checkpoint::Checkpoint;
use crate::config::Section;
use crate::decoder::{Decoder, DecoderConfig};
use crate::model::{Mllm, ModelInfo, ModelInputs};
use crate::vision::{VisionConfig, VisionTower, select_features};
use crate::{Cache, Error, Processor, Result, TapRegistry, TokenKind, TokenSpans};

/// A `LlavaForConditionalGeneration` checkpoint.
///
/// The tensor names of the hub's LLaVA-1.5, of transformers' module tree (old and new) and of the
/// first published LLaVA are all understood, and so are the configurations of transformers 4 and 5.
#[derive(Debug)]
pub struct Llava {
    info: ModelInfo,
    taps: TapRegistry,
    processor: Processor,
    tower: VisionTower,
    feature_layers: Vec<usize>,
    drop_class_token: bool,
    projector: Projector,
    decoder: Decoder,
    image_token: u32,
}

/// The class name in `config.json`.
pub(crate) const ARCHITECTURE: &str = "LlavaForConditionalGeneration";

const LANGUAGE: [&str; 3] = ["language_model.model", "model.language_model", "model"];
const HEAD: [&str; 2] = ["language_model.lm_head", "lm_head"];
const VISION: [&str; 5] = [
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

impl Llava {
    /// Loads a checkpoint.
    ///
    /// # Errors
    ///
    /// Any error of this crate: a missing or damaged file, another architecture, a configuration that
    /// contradicts the weights.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        Self::from_tensors(checkpoint, &checkpoint.tensors()?)
    }

    /// Loads a checkpoint whose tensors come through `vb`, for example with scales folded in as they load.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_tensors(checkpoint: &Checkpoint, vb: &VarBuilder<'_>) -> Result<Self> {
        let mut info = checkpoint.info(ARCHITECTURE)?;
        let config = checkpoint.config();
        let text = DecoderConfig::from_section(&config.section("text_config")?)?;
        let vision = VisionConfig::from_section(&config.section("vision_config")?)?;
        let image_token = match config.u32("image_token_id")? {
            Some(id) => id,
            None => config.u32("image_token_index")?.unwrap_or(32_000),
        };
        let drop_class_token = match config.string("vision_feature_select_strategy")?.unwrap_or("default") {
            "default" => true,
            "full" => false,
            other => return Err(config.error("vision_feature_select_strategy", format!("expected default or full, found {other}"))),
        };
        let feature_layers = feature_layers(config, vision.layers)?;

        let (language, head, tower, projector) = resolve(vb)?;
        let deepest = feature_layers.iter().copied().max().unwrap_or(0);
        let decoder = Decoder::new(&text, &language, head)?;
        let features = vision.patches() + usize::from(vision.has_class_token()) - usize::from(drop_class_token);
        info.sites = text.sites();
        Ok(Self {
            info,
            taps: TapRegistry::default(),
            processor: Processor::load(checkpoint, image_token, features, vision.image_size)?,
            tower: VisionTower::new(&vision, deepest, &tower)?,
            projector: Projector::new(config, vision.hidden * feature_layers.len(), text.hidden, projector)?,
            feature_layers,
            drop_class_token,
            decoder,
            image_token,
        })
    }

    /// Image features `[images, features, hidden]` of pixels `[images, 3, size, size]`, as they enter the token stream.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when the pixels have another size than the tower takes.
    pub fn image_features(&self, pixels: &Tensor) -> Result<Tensor> {
        let states = self.tower.hidden_states(pixels, &self.feature_layers)?;
        self.projector.forward(&select_features(&states, self.drop_class_token)?)
    }

    /// Token embeddings `[batch, tokens, hidden]` with image features in place of the image tokens.
    fn embed(&self, inputs: &ModelInputs) -> Result<Tensor> {
        let (batch, tokens) = inputs.dims()?;
        let ids = inputs.input_ids.flatten_all()?.to_vec1::<u32>()?;
        // The image token may have no row in the embedding table; what stands there is replaced anyway.
        let text: Vec<u32> = ids.iter().map(|id| if *id == self.image_token { 0 } else { *id }).collect();
        let embedded = self.decoder.embed(&Tensor::new(text.as_slice(), self.decoder.device())?)?;
        let placeholders = ids.iter().filter(|id| **id == self.image_token).count();
        let features = match &inputs.pixel_values {
            Some(pixels) => Some(self.image_features(&pixels.to_dtype(embedded.dtype())?)?.flatten_to(1)?),
            None => None,
        };
        let given = features.as_ref().map_or(Ok(0), |f| f.dim(0))?;
        if given != placeholders {
            return Err(Error::Inputs { reason: format!("{placeholders} image tokens but {given} image features") });
        }
        let hidden = embedded.dim(1)?;
        let merged = match features {
            None => embedded,
            Some(features) => {
                let mut next_feature = ids.len()..;
                let index =
                    ids.iter().enumerate().map(|(i, id)| if *id == self.image_token { next_feature.next().unwrap_or(i) } else { i });
                let index = index.map(|i| u32::try_from(i).map_err(|_| Error::Inputs { reason: "more than 2^32 tokens".to_owned() }));
                let index = Tensor::new(index.collect::<Result<Vec<u32>>>()?, embedded.device())?;
                Tensor::cat(&[&embedded, &features], 0)?.index_select(&index, 0)?
            }
        };
        Ok(merged.reshape((batch, tokens, hidden))?)
    }
}

impl Mllm for Llava {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn taps(&self) -> &TapRegistry {
        &self.taps
    }

    fn processor(&self) -> &Processor {
        &self.processor
    }

    fn new_cache(&self) -> Cache {
        self.decoder.new_cache()
    }

    fn prefill(&self, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor> {
        let embeddings = self.embed(inputs)?;
        let attended = inputs.kinds.iter().map(|row| row.iter().map(|k| *k != TokenKind::Padding).collect()).collect();
        let pass = cache.begin(attended, inputs.rows.clone(), self.decoder.window(), self.decoder.device())?;
        let taps = self.taps.for_pass(|| TokenSpans::new(inputs.kinds.concat(), inputs.rows.clone()));
        self.decoder.forward(embeddings, &pass, cache, &taps)
    }

    fn decode(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        if tokens.len() != cache.batch() || tokens.is_empty() {
            let reason =
                format!("{} tokens for a cache of {} sequences; prefill first, then give one token each", tokens.len(), cache.batch());
            return Err(Error::Inputs { reason });
        }
        let embeddings = self.decoder.embed(&Tensor::new(tokens, self.decoder.device())?.unsqueeze(1)?)?;
        let pass = cache.extend(self.decoder.window(), self.decoder.device())?;
        let taps = self.taps.for_pass(|| cache.response_spans());
        self.decoder.forward(embeddings, &pass, cache, &taps)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.decoder.logits(hidden)
    }
}

/// The feature layers as numbers of layers run: 0 is the tower's input, -1 its last layer.
fn feature_layers(config: &Section, layers: usize) -> Result<Vec<usize>> {
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
        _ => Ok(vec![resolve(config.i64(KEY)?.unwrap_or(-2))?]),
    }
}

type Parts<'a> = (VarBuilder<'a>, Option<VarBuilder<'a>>, VarBuilder<'a>, [VarBuilder<'a>; 2]);

/// Finds the four parts of the model, each under whichever name the checkpoint has for it.
fn resolve<'a>(vb: &VarBuilder<'a>) -> Result<Parts<'a>> {
    let find = |part: &'static str, prefixes: &[&'static str], tensor: &str| {
        prefixes
            .iter()
            .find(|p| vb.contains_tensor(&format!("{p}.{tensor}")))
            .copied()
            .ok_or_else(|| Error::MissingTensor { part, names: prefixes.iter().map(|p| format!("{p}.{tensor}")).collect() })
    };
    let language = find("language model", &LANGUAGE, "embed_tokens.weight")?;
    let head = HEAD.iter().find(|p| vb.contains_tensor(&format!("{p}.weight"))).map(|p| vb.pp(p));
    let tower = find("vision tower", &VISION, "embeddings.patch_embedding.weight")?;
    let (projector, first, second) =
        PROJECTOR.into_iter().find(|(prefix, first, _)| vb.contains_tensor(&format!("{prefix}.{first}.weight"))).ok_or_else(|| {
            Error::MissingTensor { part: "projector", names: PROJECTOR.iter().map(|(p, f, _)| format!("{p}.{f}.weight")).collect() }
        })?;
    let projector = vb.pp(projector);
    Ok((vb.pp(language), head, vb.pp(tower), [projector.pp(first), projector.pp(second)]))
}

/// From vision features to token embeddings.
#[derive(Debug)]
struct Projector {
    first: Linear,
    activation: Activation,
    second: Linear,
}

impl Projector {
    fn new(config: &Section, inputs: usize, hidden: usize, [first, second]: [VarBuilder<'_>; 2]) -> Result<Self> {
        let bias = config.bool("multimodal_projector_bias")?.unwrap_or(true);
        Ok(Self {
            first: candle_nn::linear_b(inputs, hidden, bias, first)?,
            activation: Activation::from_name(config.string("projector_hidden_act")?.unwrap_or("gelu"))?,
            second: candle_nn::linear_b(hidden, hidden, bias, second)?,
        })
    }

    fn forward(&self, features: &Tensor) -> Result<Tensor> {
        Ok(self.second.forward(&self.activation.forward(&self.first.forward(features)?)?)?)
    }
}
