use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use tokenizers::{Encoding, Tokenizer};

use crate::chat_template::ChatTemplate;
use crate::checkpoint::Checkpoint;
use crate::image_processor::{ImageProcessor, ProcessedImages};
use crate::image_tokens::ImageText;
use crate::model::ModelInputs;
use crate::prompt::{Message, Prompt, Role, answered};
use crate::{Error, Result, TokenKind};

/// Where padding goes in a batch of unequal lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Before the sequence: every row ends with its last token, as generation wants it.
    Left,
    /// After the sequence.
    Right,
}

/// A model's tokenizer, chat template and, if it takes images, image processor.
#[derive(Debug)]
pub struct Processor {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    images: Option<(ImageProcessor, Box<dyn ImageText>)>,
    image_token: Option<u32>,
    bos: Option<String>,
    pad: u32,
    eos: Option<u32>,
}

/// How a family's images become tokens and tensors.
pub(crate) struct Images {
    pub(crate) processor: ImageProcessor,
    /// The token that stands for an image feature.
    pub(crate) token: u32,
    /// The image's place in text, given how the tokenizer writes that token.
    pub(crate) text: Box<dyn FnOnce(String) -> Box<dyn ImageText>>,
}

/// The token ids of one sequence with what each of them is.
struct Sequence {
    ids: Vec<u32>,
    kinds: Vec<TokenKind>,
}

impl Processor {
    /// Loads tokenizer and chat template; `template` serves checkpoints that bring none.
    pub(crate) fn load(checkpoint: &Checkpoint, images: Option<Images>, template: Option<&str>) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let image_token = images.as_ref().map(|i| i.token);
        let images = match images {
            None => None,
            Some(images) => {
                let token = tokenizer.id_to_token(images.token).ok_or_else(|| Error::Tokenizer {
                    reason: format!("it has no token {}, which config.json names as the image token", images.token),
                })?;
                Some((images.processor, (images.text)(token)))
            }
        };
        let named = |name: &str| checkpoint.special_token(name);
        let id = |token: Option<String>| token.and_then(|t| tokenizer.token_to_id(&t));
        let eos = id(named("eos_token")?);
        let pad = match id(named("pad_token")?) {
            Some(id) => Some(id),
            None => checkpoint.config().u32("pad_token_id")?,
        };
        Ok(Self {
            template: ChatTemplate::load(checkpoint, template)?,
            images,
            image_token,
            bos: named("bos_token")?.filter(|bos| !bos.is_empty()),
            pad: pad.or(eos).unwrap_or(0),
            eos,
            tokenizer,
        })
    }

    /// The image processor; none for models that take no images.
    pub fn images(&self) -> Option<&ImageProcessor> {
        self.images.as_ref().map(|(processor, _)| processor)
    }

    /// The end-of-sequence token.
    pub(crate) fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The text of a prompt as the model sees it, with one placeholder for each image.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] when the template refuses the conversation.
    pub fn render(&self, prompt: &Prompt) -> Result<String> {
        let (text, start) = self.turns(prompt)?;
        Ok(start.map_or_else(|| text.clone(), |start| answered(&text, &start)))
    }

    /// The text up to the model's turn, and the beginning of that if the prompt has one.
    fn turns(&self, prompt: &Prompt) -> Result<(String, Option<String>)> {
        match prompt {
            Prompt::Raw { text, .. } => Ok((text.clone(), None)),
            Prompt::Chat(messages) => match messages.split_last() {
                Some((last, before)) if last.role == Role::Assistant => {
                    let start = last.text();
                    Ok((self.apply_chat_template(before, true)?, Some(start).filter(|start| !start.is_empty())))
                }
                _ => Ok((self.apply_chat_template(messages, true)?, None)),
            },
        }
    }

    /// The text of a conversation, with the opening of the model's turn if `add_generation_prompt`.
    ///
    /// # Errors
    ///
    /// As [`render`](Self::render).
    pub fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.template.as_ref().ok_or_else(|| Error::ChatTemplate {
            reason: "the checkpoint has none; give the prompt as raw text, or add a chat_template.jinja".to_owned(),
        })?;
        template.render(messages, add_generation_prompt, self.images.is_some())
    }

    /// Token ids of a text with special tokens, images not expanded.
    ///
    /// A text that begins with the beginning-of-sequence token itself, as some chat templates write it, gets no second one.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`].
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode(text, !self.begins_itself(text))?.get_ids().to_vec())
    }

    /// The text that is tokenised, and whether the tokenizer adds special tokens to it.
    fn framed<'a>(&self, text: &'a str) -> (Cow<'a, str>, bool) {
        let framed = self.images.as_ref().and_then(|(_, writer)| writer.frame(text));
        framed.map_or_else(|| (Cow::Borrowed(text), !self.begins_itself(text)), |framed| (Cow::Owned(framed), false))
    }

    fn begins_itself(&self, text: &str) -> bool {
        self.bos.as_ref().is_some_and(|bos| text.starts_with(bos))
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoding> {
        self.tokenizer.encode(text, add_special_tokens).map_err(tokenizer_error)
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
    /// `input_ids` and `attention_mask` are integers `[batch, tokens]`; positions whose mask is 0 are padding. `tensors`
    /// has pixels and what else the model's image processor makes, by their Hugging Face names.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when the two differ in shape or an id is negative.
    pub fn tokens(&self, input_ids: &Tensor, attention_mask: &Tensor, tensors: BTreeMap<String, Tensor>) -> Result<ModelInputs> {
        if input_ids.dims() != attention_mask.dims() {
            let reason = format!("input_ids are {:?}, attention_mask {:?}", input_ids.dims(), attention_mask.dims());
            return Err(Error::Inputs { reason });
        }
        let ids = input_ids.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        let mask = attention_mask.to_dtype(DType::I64)?.to_vec2::<i64>()?;
        let kind = |id: &u32, mask: &i64| match mask {
            0 => TokenKind::Padding,
            _ if Some(*id) == self.image_token => TokenKind::Image,
            _ => TokenKind::PromptText,
        };
        let id = |id: &i64| u32::try_from(*id).map_err(|_| Error::Inputs { reason: format!("{id} is not a token id") });
        let ids: Vec<Vec<u32>> = ids.iter().map(|row| row.iter().map(id).collect()).collect::<Result<_>>()?;
        Ok(ModelInputs {
            kinds: ids.iter().zip(&mask).map(|(ids, mask)| ids.iter().zip(mask).map(|(i, m)| kind(i, m)).collect()).collect(),
            rows: (0..ids.len()).collect(),
            input_ids: Tensor::new(ids, &Device::Cpu)?,
            tensors,
        })
    }

    /// Makes a batch of prompts, ready for generation. The [beginning of an answer](Prompt::with_answer_start) is part of the
    /// response.
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
    /// chat models write it. If the prompt has the beginning of an answer, the response is what follows, and the tokens of both
    /// are the response's.
    ///
    /// # Errors
    ///
    /// As [`prompts`](Self::prompts).
    pub fn responses<'a>(&self, examples: impl IntoIterator<Item = (&'a Prompt, &'a str)>, padding: Padding) -> Result<ModelInputs> {
        self.batch(examples.into_iter().map(|(p, r)| (p, Some(r))), padding)
    }

    fn batch<'a>(&self, examples: impl Iterator<Item = (&'a Prompt, Option<&'a str>)>, padding: Padding) -> Result<ModelInputs> {
        let examples: Vec<_> = examples.collect();
        let shown: Vec<Vec<Arc<RgbImage>>> = examples.iter().map(|(prompt, _)| prompt.images()).collect();
        let counts: Vec<usize> = shown.iter().map(Vec::len).collect();
        let processed = match (&self.images, counts.iter().position(|n| *n > 0)) {
            (_, None) => ProcessedImages::default(),
            (None, Some(prompt)) => {
                return Err(Error::Inputs { reason: format!("prompt {prompt} shows an image, but this model takes text only") });
            }
            (Some((processor, _)), _) => {
                processor.process(&shown.iter().map(|row| row.iter().map(AsRef::as_ref).collect()).collect::<Vec<_>>())?
            }
        };
        let mut layouts = processed.images.as_slice();
        let (mut sequences, mut rows) = (Vec::new(), Vec::new());
        for (index, ((prompt, response), count)) in examples.iter().zip(&counts).enumerate() {
            let (own, rest) = layouts.split_at_checked(*count).unwrap_or((layouts, &[]));
            layouts = rest;
            let (text, start) = self.turns(prompt)?;
            let (text, add_special_tokens) = self.framed(&text);
            let text = match &self.images {
                None => text.into_owned(),
                Some((_, writer)) => {
                    writer.expand(&text, own).map_err(|placeholders| Error::ImageCount { prompt: index, placeholders, images: *count })?
                }
            };
            let answer = match (start, response) {
                (Some(start), Some(response)) => Some(answered(&start, response)),
                (start, response) => start.or_else(|| response.map(str::to_owned)),
            };
            sequences.push(self.sequence(&text, answer.as_deref(), response.is_some(), add_special_tokens)?);
            rows.push((text, *count));
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
        let mut inputs = ModelInputs {
            input_ids: Tensor::from_vec(ids, (batch, tokens), &Device::Cpu)?,
            kinds,
            rows: (0..batch).collect(),
            tensors: processed.tensors,
        };
        if let Some((_, writer)) = &self.images {
            writer.finish(&mut inputs, &rows, padding)?;
        }
        Ok(inputs)
    }

    /// The tokens of a prompt and an answer, or the beginning of one that is not `closed`.
    fn sequence(&self, prompt: &str, answer: Option<&str>, closed: bool, add_special_tokens: bool) -> Result<Sequence> {
        let text = answer.map_or_else(|| prompt.to_owned(), |answer| answered(prompt, answer));
        // Offsets in bytes tell where the prompt ends, whatever the tokenizer merges.
        let encoding = self.encode(&text, add_special_tokens)?;
        let kind = |id: u32, (start, end): (usize, usize)| {
            if Some(id) == self.image_token {
                TokenKind::Image
            } else if answer.is_some() && start >= prompt.len() && end > start {
                TokenKind::Response
            } else {
                TokenKind::PromptText
            }
        };
        let mut ids = encoding.get_ids().to_vec();
        let mut kinds: Vec<_> = ids.iter().zip(encoding.get_offsets()).map(|(id, offsets)| kind(*id, *offsets)).collect();
        if let (true, Some(eos)) = (closed, self.eos)
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
