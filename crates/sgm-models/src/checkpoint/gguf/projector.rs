//! The projectors of vision towers in `mmproj` files, and the configuration of the multimodal model that each makes of
//! a language model.

use serde_json::{Value, json};

use crate::checkpoint::gguf::architecture::Architecture;
use crate::checkpoint::gguf::config::PrefixedKeys;
use crate::checkpoint::gguf::header::Gguf;
use crate::checkpoint::gguf::tokenizer;
use crate::error::{Error, Result};

/// The projector from the features of a vision tower to token embeddings, which tells the family of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projector {
    /// LLaVA-1.5.
    Llava,
    Qwen2Vl,
    Qwen2_5Vl,
    /// Idefics3 and SmolVLM.
    Idefics3,
}

/// The values of `clip.projector_type`.
const PROJECTORS: [(&str, Projector); 4] = [
    ("mlp", Projector::Llava),
    ("qwen2vl_merger", Projector::Qwen2Vl),
    ("qwen2.5vl_merger", Projector::Qwen2_5Vl),
    ("idefics3", Projector::Idefics3),
];
const NAMES: &[&str] = &["mlp", "qwen2vl_merger", "qwen2.5vl_merger", "idefics3"];

/// The pixels of an image, in tokens, where a file of Qwen-VL does not say: those of the published processors.
const QWEN_TOKENS: (usize, usize) = (4, 16_384);

impl Projector {
    pub(crate) fn of(mmproj: &Gguf) -> Result<Self> {
        let clip = mmproj.metadata();
        if clip.string("general.architecture")? != Some("clip") {
            return Err(mmproj.error("it is no vision tower; its general.architecture should be `clip`"));
        }
        if clip.bool("clip.has_vision_encoder")? == Some(false) {
            return Err(mmproj.error("it is no vision tower: clip.has_vision_encoder is false"));
        }
        let name = match clip.string("clip.projector_type")? {
            Some(name) => name,
            None => clip.string("clip.vision.projector_type")?.unwrap_or("mlp"),
        };
        let known = PROJECTORS.into_iter().find(|(known, _)| *known == name);
        let (_, projector) = known.ok_or_else(|| Error::Unsupported { what: "GGUF projector", got: name.to_owned(), supported: NAMES })?;
        // LLaVA-NeXT, which splits images into tiles, has another value here.
        match clip.string("clip.vision.mm_patch_merge_type")?.unwrap_or("flat") {
            "flat" => Ok(projector),
            other => Err(Error::Unsupported { what: "GGUF patch merging", got: other.to_owned(), supported: &["flat"] }),
        }
    }

    /// The value of `clip.projector_type`.
    pub(crate) fn name(self) -> &'static str {
        PROJECTORS.into_iter().find(|(_, projector)| *projector == self).map_or("mlp", |(name, _)| name)
    }

    /// Whether language models of an architecture can have this projector.
    pub(crate) fn suits(self, architecture: &Architecture) -> bool {
        match self {
            // Gemma 3 and Qwen2-VL have projectors of their own.
            Self::Llava => !architecture.is_qwen2_vl() && architecture.name != "gemma3",
            Self::Qwen2Vl | Self::Qwen2_5Vl => architecture.is_qwen2_vl(),
            Self::Idefics3 => architecture.name == "llama",
        }
    }

    /// The text of the token that stands for an image.
    pub(crate) fn image_token(self) -> &'static str {
        match self {
            Self::Qwen2Vl | Self::Qwen2_5Vl => "<|image_pad|>",
            Self::Llava | Self::Idefics3 => "<image>",
        }
    }

    /// Whether the vocabulary of the language model must have the image token. That of the first LLaVA has none.
    pub(crate) fn needs_image_token(self) -> bool {
        self != Self::Llava
    }

    /// The width of the projector's output.
    ///
    /// It is read from the projector's last matrix, as llama.cpp does: files of LLaVA-1.5 have in
    /// `clip.vision.projection_dim` what the tower projected to for CLIP.
    pub(crate) fn width(self, mmproj: &Gguf) -> Result<usize> {
        let last = if self == Self::Idefics3 { "mm.model.fc.weight" } else { "mm.2.weight" };
        let rows = mmproj.tensor(last).map(|tensor| tensor.rows());
        rows.ok_or_else(|| mmproj.error(format!("it has no {last}, the last matrix of the projector {}", self.name())))
    }

    /// Derives the configurations of the multimodal model and of its image processor from the language model's
    /// configuration and the two files.
    pub(crate) fn configure(self, text: &Gguf, language: Value, mmproj: &Gguf) -> Result<(Value, Value)> {
        let tower = Tower { mmproj, keys: PrefixedKeys { metadata: mmproj.metadata(), prefix: "clip.vision" } };
        match self {
            Self::Llava => tower.llava(text, language),
            Self::Qwen2Vl | Self::Qwen2_5Vl => tower.qwen_vl(self, text, language),
            Self::Idefics3 => tower.idefics3(text, language),
        }
    }
}

/// An object with further fields, which replace those of the same name.
fn with_fields(object: Value, fields: Value) -> Value {
    match (object, fields) {
        (Value::Object(mut object), Value::Object(fields)) => {
            object.extend(fields);
            Value::Object(object)
        }
        (object, _) => object,
    }
}

/// The file of a vision tower with its settings.
struct Tower<'a> {
    mmproj: &'a Gguf,
    keys: PrefixedKeys<'a>,
}

impl Tower<'_> {
    fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.keys.metadata.bool(key)?.unwrap_or(false))
    }

    /// The number of blocks, each of which has tensors of its own.
    fn blocks(&self) -> Result<usize> {
        let blocks = self.keys.size("block_count")?;
        if blocks > self.mmproj.names().count() {
            return Err(self.keys.error("block_count", format!("the file has fewer tensors than {blocks} blocks")));
        }
        Ok(blocks)
    }

    /// The activation function; `gelu` is the name for the one that the file calls GELU.
    fn activation(&self, gelu: &'static str) -> Result<&'static str> {
        Ok(if self.flag("clip.use_gelu")? {
            gelu
        } else if self.flag("clip.use_silu")? {
            "silu"
        } else {
            "quick_gelu"
        })
    }

    /// The settings of a tower of transformers' CLIP and SigLIP classes.
    fn vision(&self, activation: &str) -> Result<Value> {
        let keys = &self.keys;
        Ok(json!({
            "hidden_size": keys.size("embedding_length")?,
            "intermediate_size": keys.size("feed_forward_length")?,
            "num_hidden_layers": self.blocks()?,
            "num_attention_heads": keys.size("attention.head_count")?,
            "image_size": keys.size("image_size")?,
            "patch_size": keys.size("patch_size")?,
            "layer_norm_eps": keys.required("attention.layer_norm_epsilon", keys.number("attention.layer_norm_epsilon")?)?,
            "hidden_act": activation,
        }))
    }

    /// The settings that every image processor has, after its own.
    fn preprocessor(&self, kind: &str, own: Value) -> Result<Value> {
        let numbers = |key: &str| self.mmproj.numbers(&self.keys.key(key));
        let all = json!({ "image_processor_type": kind, "image_mean": numbers("image_mean")?, "image_std": numbers("image_std")? });
        Ok(with_fields(own, all))
    }

    fn llava(&self, text: &Gguf, language: Value) -> Result<(Value, Value)> {
        // SigLIP's tower, unlike CLIP's, has no class token.
        let has_class_token = self.mmproj.tensor("v.class_embd").is_some();
        let layers = self.blocks()?;
        let size = self.keys.size("image_size")?;
        // A file contains only layers whose output is used. (llama.cpp itself skips one more.)
        let features = self.mmproj.numbers("clip.vision.feature_layer")?.filter(|layers| !layers.is_empty());
        let feature_layer = match features {
            None => json!(layers),
            #[allow(clippy::cast_possible_truncation, reason = "an integer in the file; out of range it is refused as a layer")]
            Some(features) => json!(features.into_iter().map(|layer| layer as i64).collect::<Vec<_>>()),
        };
        let kind = if has_class_token { "clip_vision_model" } else { "siglip_vision_model" };
        let vision = with_fields(self.vision(self.activation("gelu")?)?, json!({ "model_type": kind }));
        let config = json!({
            "architectures": ["LlavaForConditionalGeneration"],
            "text_config": language,
            "vision_config": vision,
            "image_token_index": tokenizer::token_or_next(text, Projector::Llava.image_token())?,
            "vision_feature_layer": feature_layer,
            "vision_feature_select_strategy": if has_class_token { "default" } else { "full" },
            "projector_hidden_act": "gelu",
        });
        let square = json!({ "height": size, "width": size });
        let own = json!({ "size": if has_class_token { json!({ "shortest_edge": size }) } else { square.clone() }, "crop_size": square });
        Ok((config, self.preprocessor(if has_class_token { "CLIPImageProcessor" } else { "SiglipImageProcessor" }, own)?))
    }

    /// The rows of a matrix of the first block: the number of its outputs.
    fn outputs(&self, matrix: &str) -> Result<usize> {
        let name = format!("v.blk.0.{matrix}.weight");
        self.mmproj.tensor(&name).map(|tensor| tensor.rows()).ok_or_else(|| self.mmproj.error(format!("it has no {name}")))
    }

    fn qwen_vl(&self, projector: Projector, text: &Gguf, language: Value) -> Result<(Value, Value)> {
        let keys = &self.keys;
        let (hidden, layers, patch) = (keys.size("embedding_length")?, self.blocks()?, keys.size("patch_size")?);
        let merge = keys.count("spatial_merge_size")?.filter(|merge| *merge > 0).unwrap_or(2);
        let width = projector.width(self.mmproj)?;
        let temporal_patch = if self.mmproj.tensor("v.patch_embd.weight.1").is_some() { 2 } else { 1 };
        let vision = json!({
            "depth": layers,
            "num_heads": keys.size("attention.head_count")?,
            "patch_size": patch,
            "spatial_merge_size": merge,
            "temporal_patch_size": temporal_patch,
            "hidden_act": self.activation("gelu_pytorch_tanh")?,
        });
        let (class, model_type, own) = if projector == Projector::Qwen2Vl {
            // The converter writes the width of the language model into feed_forward_length.
            let intermediate = self.outputs("ffn_up")?;
            if !intermediate.is_multiple_of(hidden) {
                return Err(self.mmproj.error(format!("v.blk.0.ffn_up has {intermediate} outputs, which is no multiple of {hidden}")));
            }
            let own = json!({ "embed_dim": hidden, "hidden_size": width, "mlp_ratio": intermediate / hidden });
            ("Qwen2VLForConditionalGeneration", "qwen2_vl_text", own)
        } else {
            // Every block attends within windows but each n-th, n = n_wa_pattern.
            let pattern = keys.size("n_wa_pattern")?;
            let own = json!({
                "hidden_size": hidden,
                "out_hidden_size": width,
                "intermediate_size": self.outputs("ffn_up")?,
                "window_size": keys.count("window_size")?.unwrap_or(112),
                "fullatt_block_indexes": (pattern.saturating_sub(1)..layers).step_by(pattern.max(1)).collect::<Vec<_>>(),
            });
            ("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl_text", own)
        };
        let config = json!({
            "architectures": [class],
            "tie_word_embeddings": language.get("tie_word_embeddings"),
            "text_config": with_fields(language, json!({ "model_type": model_type })),
            "vision_config": with_fields(vision, own),
            "image_token_id": tokenizer::token_or_next(text, projector.image_token())?,
        });
        let token = patch.saturating_mul(merge).saturating_mul(patch).saturating_mul(merge);
        let pixels = |key: &str, tokens: usize| Ok::<_, Error>(keys.count(key)?.unwrap_or(token.saturating_mul(tokens)));
        let own = json!({
            "min_pixels": pixels("image_min_pixels", QWEN_TOKENS.0)?,
            "max_pixels": pixels("image_max_pixels", QWEN_TOKENS.1)?,
            "patch_size": patch,
            "merge_size": merge,
            "temporal_patch_size": temporal_patch,
        });
        Ok((config, self.preprocessor("Qwen2VLImageProcessor", own)?))
    }

    fn idefics3(&self, text: &Gguf, language: Value) -> Result<(Value, Value)> {
        let size = self.keys.size("image_size")?;
        let config = json!({
            "architectures": ["Idefics3ForConditionalGeneration"],
            "tie_word_embeddings": language.get("tie_word_embeddings"),
            "text_config": language,
            "vision_config": self.vision(self.activation("gelu_pytorch_tanh")?)?,
            "scale_factor": self.keys.count("projector.scale_factor")?.unwrap_or(2),
            "image_token_id": tokenizer::token_or_next(text, Projector::Idefics3.image_token())?,
        });
        let largest = json!({ "max_image_size": { "longest_edge": size } });
        let own = match self.keys.count("preproc_image_size")?.filter(|longest| *longest > 0) {
            Some(longest) => with_fields(largest, json!({ "size": { "longest_edge": longest } })),
            None => largest,
        };
        Ok((config, self.preprocessor("Idefics3ImageProcessor", own)?))
    }
}
