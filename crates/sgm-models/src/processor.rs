use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use tokenizers::Tokenizer;

use crate::chat_template::{self, ChatTemplate};
use crate::checkpoint::Checkpoint;
use crate::image_processor::ImageProcessor;
use crate::model::ModelInputs;
use crate::prompt::{Message, Prompt};
use crate::{Error, Result, TokenKind};

/// Where padding goes in a batch of unequal lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Before the sequence: every row ends with its last token, as generation wants it.
    Left,
    /// After the sequence.
    Right,
}

/// A model's tokenizer, chat template and image processor.
#[derive(Debug)]
pub struct Processor {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    images: ImageProcessor,
    image_token: u32,
    image_text: String,
    features_per_image: usize,
    pad: u32,
    eos: Option<u32>,
}

/// The token ids of one sequence with what each of them is.
struct Sequence {
    ids: Vec<u32>,
    kinds: Vec<TokenKind>,
}

impl Processor {
    pub(crate) fn load(checkpoint: &Checkpoint, image_token: u32, features_per_image: usize, image_size: usize) -> Result<Self> {
        let bytes = checkpoint.read("tokenizer.json")?;
        let bytes = bytes.ok_or_else(|| {
            checkpoint.missing("tokenizer.json (convert a slow tokenizer with transformers' AutoTokenizer and save_pretrained)")
        })?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(tokenizer_error)?;
        // Batches are padded here, where token kinds are known; a file's own settings would interfere.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(tokenizer_error)?;
        let image_text = tokenizer.id_to_token(image_token).ok_or_else(|| Error::Tokenizer {
            reason: format!("it has no token {image_token}, which config.json names as the image token"),
        })?;
        let named = |name: &str| -> Result<Option<u32>> {
            let Some(config) = checkpoint.json("tokenizer_config.json")? else { return Ok(None) };
            let token = config.get(name).and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
            Ok(token.and_then(|t| tokenizer.token_to_id(t)))
        };
        let eos = named("eos_token")?;
        let pad = match named("pad_token")? {
            Some(id) => Some(id),
            None => checkpoint.config().u32("pad_token_id")?,
        };
        Ok(Self {
            template: ChatTemplate::load(checkpoint, chat_template::LLAVA_1_5)?,
            images: ImageProcessor::load(checkpoint, image_size)?,
            image_token,
            image_text,
            features_per_image,
            pad: pad.or(eos).unwrap_or(0),
            eos,
            tokenizer,
        })
    }

    /// The image processor.
    pub fn images(&self) -> &ImageProcessor {
        &self.images
    }

    /// The text of a prompt as the model sees it, with one placeholder for each image.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] when the template refuses the conversation.
    pub fn render(&self, prompt: &Prompt) -> Result<String> {
        match prompt {
            Prompt::Raw { text, .. } => Ok(text.clone()),
            Prompt::Chat(messages) => self.apply_chat_template(messages, true),
        }
    }

    /// The text of a conversation, with the opening of the model's turn if `add_generation_prompt`.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    pub fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.template.render(messages, add_generation_prompt)
    }

    /// Token ids of a text with special tokens, images not expanded.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`].
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, true).map_err(tokenizer_error)?.get_ids().to_vec())
    }

    /// The text of generated tokens, without special tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.tokenizer.decode(tokens, true).map_err(tokenizer_error)
    }

    /// Makes a batch of token ids that were prepared elsewhere, images already expanded.
    ///
    /// `input_ids` and `attention_mask` are integers `[batch, tokens]`; positions whose mask is 0 are padding.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when the two differ in shape or an id is negative.
    pub fn tokens(&self, input_ids: &Tensor, attention_mask: &Tensor, pixel_values: Option<Tensor>) -> Result<ModelInputs> {
        if input_ids.dims() != attention_mask.dims() {
            let reason = format!("input_ids are {:?}, attention_mask {:?}", input_ids.dims(), attention_mask.dims());
            return Err(Error::Inputs { reason });
        }
        let ids = input_ids.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        let mask = attention_mask.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        let kind = |id: &u32, mask: &i64| match mask {
            0 => TokenKind::Padding,
            _ if *id == self.image_token => TokenKind::Image,
            _ => TokenKind::PromptText,
        };
        let id = |id: &i64| u32::try_from(*id).map_err(|_| Error::Inputs { reason: format!("{id} is not a token id") });
        let ids: Vec<Vec<u32>> = ids.iter().map(|row| row.iter().map(id).collect()).collect::<Result<_>>()?;
        Ok(ModelInputs {
            kinds: ids.iter().zip(&mask).map(|(ids, mask)| ids.iter().zip(mask).map(|(i, m)| kind(i, m)).collect()).collect(),
            rows: (0..ids.len()).collect(),
            input_ids: Tensor::new(ids, &Device::Cpu)?,
            pixel_values,
            extras: Default::default(),
        })
    }

    /// Makes a batch of prompts, ready for generation.
    ///
    /// # Errors
    ///
    /// [`Error::ImageCount`] when a prompt's placeholders are not as many as its images, and what
    /// template, tokenizer and image processor report.
    pub fn prompts<'a>(&self, prompts: impl IntoIterator<Item = &'a Prompt>, padding: Padding) -> Result<ModelInputs> {
        self.batch(prompts.into_iter().map(|p| (p, None)), padding)
    }

    /// Makes a batch of prompts with their given responses, each closed by the end-of-sequence token.
    ///
    /// A response is set off from the prompt by a space where the prompt does not end in one, as
    /// chat models write it.
    ///
    /// # Errors
    ///
    /// As [`prompts`](Self::prompts).
    pub fn responses<'a>(&self, examples: impl IntoIterator<Item = (&'a Prompt, &'a str)>, padding: Padding) -> Result<ModelInputs> {
        self.batch(examples.into_iter().map(|(p, r)| (p, Some(r))), padding)
    }

    fn batch<'a>(&self, examples: impl Iterator<Item = (&'a Prompt, Option<&'a str>)>, padding: Padding) -> Result<ModelInputs> {
        let mut sequences = Vec::new();
        let mut images: Vec<Arc<RgbImage>> = Vec::new();
        for (index, (prompt, response)) in examples.enumerate() {
            let text = self.render(prompt)?;
            let own = prompt.images();
            let placeholders = text.matches(&self.image_text).count();
            if placeholders != own.len() {
                return Err(Error::ImageCount { prompt: index, placeholders, images: own.len() });
            }
            sequences.push(self.sequence(&text, response)?);
            images.extend(own);
        }
        let tokens = sequences.iter().map(|s| s.ids.len()).max().unwrap_or(0);
        let (mut ids, mut kinds) = (Vec::new(), Vec::new());
        for sequence in sequences {
            let missing = tokens - sequence.ids.len();
            let pad = (vec![self.pad; missing], vec![TokenKind::Padding; missing]);
            let parts = match padding {
                Padding::Left => [(pad.0, pad.1), (sequence.ids, sequence.kinds)],
                Padding::Right => [(sequence.ids, sequence.kinds), (pad.0, pad.1)],
            };
            let [(ids1, kinds1), (ids2, kinds2)] = parts;
            ids.extend(ids1.into_iter().chain(ids2));
            kinds.push([kinds1, kinds2].concat());
        }
        let batch = kinds.len();
        let images: Vec<&RgbImage> = images.iter().map(AsRef::as_ref).collect();
        let pixel_values = if images.is_empty() { None } else { self.images.process(&[images])?.tensors.remove("pixel_values") };
        Ok(ModelInputs {
            input_ids: Tensor::from_vec(ids, (batch, tokens), &Device::Cpu)?,
            kinds,
            rows: (0..batch).collect(),
            pixel_values,
            extras: Default::default(),
        })
    }

    fn sequence(&self, prompt: &str, response: Option<&str>) -> Result<Sequence> {
        let text = match response {
            None => prompt.to_owned(),
            Some(response) => format!("{prompt}{}{response}", if prompt.ends_with(char::is_whitespace) { "" } else { " " }),
        };
        // Offsets in bytes tell where the prompt ends, whatever the tokenizer merges.
        let encoding = self.tokenizer.encode(text, true).map_err(tokenizer_error)?;
        let (mut ids, mut kinds) = (Vec::new(), Vec::new());
        for (id, (start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            let kind =
                if response.is_some() && *start >= prompt.len() && end > start { TokenKind::Response } else { TokenKind::PromptText };
            if *id == self.image_token {
                ids.extend(std::iter::repeat_n(*id, self.features_per_image));
                kinds.extend(std::iter::repeat_n(TokenKind::Image, self.features_per_image));
            } else {
                ids.push(*id);
                kinds.push(kind);
            }
        }
        if let (Some(_), Some(eos)) = (response, self.eos)
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
            kinds.push(TokenKind::Response);
        }
        Ok(Sequence { ids, kinds })
    }
}

fn tokenizer_error(error: tokenizers::Error) -> Error {
    Error::Tokenizer { reason: error.to_string() }
}
