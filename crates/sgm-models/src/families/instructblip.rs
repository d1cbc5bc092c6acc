//! InstructBLIP with Vicuna: a vision tower, a Q-Former that reads image and instruction, and a decoder that gets the
//! few tokens of the Q-Former before the text.

use std::fmt;

use candle_core::{Device, Tensor};
use candle_nn::Module;
use sgm_core::TokenKind;
use tokenizers::Tokenizer;

use crate::checkpoint::model_files::Checkpoint;
use crate::decoder::config::DecoderConfig;
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::image_tokens::embed_with_features;
use crate::layers::linear::{Linear, Weights};
use crate::processor::batch::{ImageSupport, Processor};
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ImageLayout;
use crate::processor::model_inputs::{ModelInputs, Padding};
use crate::vision::blip::{BlipVision, BlipVisionConfig};
use crate::vision::feature_cache::FeatureCache;
use crate::vision::qformer::{QFormer, QFormerConfig};

/// A template for the published models, which have none: the prompt is the instruction.
const TEMPLATE: &str = "{% for message in messages %}\
{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}\
{% if not loop.last %}{{ '\\n' }}{% endif %}\
{% endfor %}";

#[derive(Debug)]
struct InstructBlip {
    tower: BlipVision,
    qformer: QFormer,
    projection: Linear,
    image_token: u32,
}

/// Loads an `InstructBlipForConditionalGeneration` checkpoint whose language model is a decoder.
pub(crate) fn load(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let config = checkpoint.config();
    // The default text model of transformers, which is not supported and is named in the error.
    let text = DecoderConfig::from_section(&config.section("text_config")?, "opt")?;
    let vision = BlipVisionConfig::from_section(&config.section("vision_config")?)?;
    let queries = config.positive("num_query_tokens", 32)?;
    let qformer = QFormerConfig::from_section(&config.section("qformer_config")?, queries)?;
    let image_token = match config.u32("image_token_index")? {
        Some(id) => Some(id),
        None => config.u32("image_token_id")?,
    };
    let image_token = image_token.ok_or_else(|| config.error("image_token_index", "expected the id of the image token"))?;

    let instruction = InstructBlipImageText::load(checkpoint, image_token, queries)?;
    let images = ImageSupport {
        processor: ImageProcessor::load(checkpoint, vision.image_size)?,
        token: image_token,
        text: Box::new(move |_| Box::new(instruction)),
    };
    let processor = Processor::load(checkpoint, Some(images), Some(TEMPLATE))?;
    let language = weights.first(&["language_model"], "model.embed_tokens.weight", "language model")?;
    // Only the queries leave the last layer.
    let last = weights.pp("qformer.encoder.layer").pp(qformer.layers - 1);
    ["intermediate", "output"].iter().for_each(|name| last.leave_out(name));
    let family = InstructBlip {
        tower: BlipVision::new(&vision, &weights.vb().pp("vision_model"))?,
        projection: Linear::load(&weights.vb().pp("language_projection"), qformer.hidden, text.hidden, true)?,
        qformer: QFormer::new(&qformer, vision.hidden, weights.vb())?,
        image_token,
    };
    let decoder = Decoder::new(&text, &language.pp("model"), &language)?;
    Ok(FamilyParts { text, decoder, processor, family: Box::new(family) })
}

impl Family for InstructBlip {
    fn embed(&self, decoder: &Decoder, images: &FeatureCache, inputs: &ModelInputs) -> Result<DecoderInput> {
        let features = match inputs.tensors.get("pixel_values") {
            Some(pixels) => {
                let (ids, mask) = (inputs.tensor("qformer_input_ids")?, inputs.tensor("qformer_attention_mask")?);
                let queries = self.qformer.forward(&images.of_each(pixels, |pixels| self.tower.forward(pixels))?, ids, mask)?;
                Some(self.projection.forward(&queries)?.flatten_to(1)?)
            }
            None => None,
        };
        Ok(DecoderInput::causal(embed_with_features(decoder, inputs, self.image_token, features.as_ref())?))
    }
}

/// The instruction in the tokens of the Q-Former, which has its own tokenizer. No text stands for the image: its tokens
/// precede everything, even padding.
struct InstructBlipImageText {
    image_token: u32,
    queries: usize,
    tokenizer: Tokenizer,
    pad: u32,
    /// The side of padding; `None` for that of the batch.
    padding: Option<Padding>,
}

impl fmt::Debug for InstructBlipImageText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstructBlipImageText")
            .field("image_token", &self.image_token)
            .field("queries", &self.queries)
            .finish_non_exhaustive()
    }
}

impl InstructBlipImageText {
    fn load(checkpoint: &Checkpoint, image_token: u32, queries: usize) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer_in("qformer_tokenizer/")?;
        let pad = checkpoint.special_token_in("qformer_tokenizer/", "pad_token")?;
        let side = |file: &str| -> Result<Option<Padding>> {
            let Some(settings) = checkpoint.json(file)? else { return Ok(None) };
            Ok(settings.string("padding_side")?.map(|side| if side == "left" { Padding::Left } else { Padding::Right }))
        };
        // In transformers, a setting of the first tokenizer overrides that of the second.
        let padding = match side("tokenizer_config.json")? {
            Some(_) => None,
            None => Some(side("qformer_tokenizer/tokenizer_config.json")?.unwrap_or(Padding::Right)),
        };
        Ok(Self { image_token, queries, pad: pad.and_then(|pad| tokenizer.token_to_id(&pad)).unwrap_or(0), padding, tokenizer })
    }

    /// The token ids and mask `[texts, tokens]`.
    fn encode(&self, texts: &[&str], padding: Padding) -> Result<(Tensor, Tensor)> {
        let error = |e: tokenizers::Error| Error::Tokenizer { reason: format!("that of the Q-Former: {e}") };
        let encode = |text: &&str| Ok(self.tokenizer.encode(*text, true).map_err(error)?.get_ids().to_vec());
        let rows: Vec<Vec<u32>> = texts.iter().map(encode).collect::<Result<_>>()?;
        let tokens = rows.iter().map(Vec::len).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in &rows {
            let missing = tokens - row.len();
            let (before, after) = if padding == Padding::Left { (missing, 0) } else { (0, missing) };
            let padded = |own: Vec<i64>, pad: i64| [vec![pad; before], own, vec![pad; after]].concat();
            ids.extend(padded(row.iter().map(|id| i64::from(*id)).collect(), i64::from(self.pad)));
            mask.extend(padded(vec![1; row.len()], 0));
        }
        let table = |values: Vec<i64>| Tensor::from_vec(values, (rows.len(), tokens), &Device::Cpu);
        Ok((table(ids)?, table(mask)?))
    }
}

impl ImageText for InstructBlipImageText {
    fn placeholder(&self) -> &str {
        ""
    }

    fn expansion(&self, _: &ImageLayout) -> String {
        String::new()
    }

    fn expand(&self, text: &str, images: &[ImageLayout]) -> std::result::Result<String, usize> {
        if images.len() > 1 { Err(1) } else { Ok(text.to_owned()) }
    }

    /// Puts the image tokens in front, and adds the Q-Former's inputs for rows with an image.
    ///
    /// As in the reference, padding on the left counts in the positions of the Q-Former, so an instruction yields
    /// slightly different results next to a longer one. Rows without an image, which transformers does not support, get
    /// padding in front and are answered by the language model alone.
    fn complete_inputs(&self, inputs: &mut ModelInputs, rows: &[(String, usize)], padding: Padding) -> Result<()> {
        let instructions: Vec<&str> = rows.iter().filter(|(_, images)| *images > 0).map(|(text, _)| text.as_str()).collect();
        if instructions.is_empty() {
            return Ok(());
        }
        let (ids, mask) = self.encode(&instructions, self.padding.unwrap_or(padding))?;
        inputs.tensors.insert("qformer_input_ids".to_owned(), ids);
        inputs.tensors.insert("qformer_attention_mask".to_owned(), mask);
        for (kinds, (_, images)) in inputs.kinds.iter_mut().zip(rows) {
            let kind = if *images > 0 { TokenKind::Image } else { TokenKind::Padding };
            kinds.splice(..0, std::iter::repeat_n(kind, self.queries));
        }
        let tokens = inputs.input_ids.to_vec2::<u32>()?;
        let in_front = |images: usize| std::iter::repeat_n(if images > 0 { self.image_token } else { 0 }, self.queries);
        let tokens = rows.iter().zip(tokens).map(|((_, images), row)| in_front(*images).chain(row).collect());
        inputs.input_ids = Tensor::new(tokens.collect::<Vec<Vec<u32>>>(), &Device::Cpu)?;
        Ok(())
    }
}
