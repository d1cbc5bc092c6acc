//! The processor: prompts, images and responses become a batch of model inputs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use sgm_core::TokenKind;
use tokenizers::{Encoding, Tokenizer};

use crate::checkpoint::model_files::Checkpoint;
use crate::error::{Error, Result};
use crate::processor::chat_template::ChatTemplate;
use crate::processor::image_text::ImageText;
use crate::processor::images::image_processor::ImageProcessor;
use crate::processor::images::layout::ProcessedImages;
use crate::processor::model_inputs::{ModelInputs, Padding};
use crate::processor::prompt::{Message, Prompt, Role, join_answer};

/// The tokenizer, the chat template and, for models that take images, the image processor of a model.
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

/// The image settings of a family.
pub(crate) struct ImageSupport {
    pub(crate) processor: ImageProcessor,
    /// The id of the token that stands for an image feature.
    pub(crate) token: u32,
    /// Makes the image text of the family, given the text of that token.
    pub(crate) text: Box<dyn FnOnce(String) -> Box<dyn ImageText>>,
}

/// The token ids of one sequence with their kinds.
struct Sequence {
    ids: Vec<u32>,
    kinds: Vec<TokenKind>,
}

impl Processor {
    /// Loads the tokenizer and the chat template; `template` is for checkpoints without one.
    pub(crate) fn load(checkpoint: &Checkpoint, images: Option<ImageSupport>, template: Option<&str>) -> Result<Self> {
        let tokenizer = checkpoint.tokenizer()?;
        let image_token = images.as_ref().map(|i| i.token);
        let images = match images {
            None => None,
            Some(images) => {
                let token = tokenizer.id_to_token(images.token).ok_or_else(|| Error::Tokenizer {
                    reason: format!("it has no token {}, which config.json names as the image token", images.token),
                })?;
                let writer = (images.text)(token);
                if let Some(missing) = writer.special_tokens().iter().find(|token| tokenizer.token_to_id(token).is_none()) {
                    return Err(Error::Tokenizer { reason: format!("it has no token {missing}, which the text of images needs") });
                }
                Some((images.processor, writer))
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
            template: ChatTemplate::load(checkpoint, images.as_ref().map(|(_, text)| text.placeholder()), template)?,
            images,
            image_token,
            bos: named("bos_token")?.filter(|bos| !bos.is_empty()),
            pad: pad.or(eos).unwrap_or(0),
            eos,
            tokenizer,
        })
    }

    /// The image processor; `None` for models that take no images.
    pub fn images(&self) -> Option<&ImageProcessor> {
        self.images.as_ref().map(|(processor, _)| processor)
    }

    /// The end-of-sequence token that follows a response.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Renders the text of a prompt as the model sees it, with one placeholder for each image.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] if the template refuses the conversation; [`Error::MessageLost`] if what a user or the system says is not in
    /// the text.
    pub fn render(&self, prompt: &Prompt) -> Result<String> {
        let (text, start) = self.split_answer_start(prompt)?;
        Ok(start.map_or_else(|| text.clone(), |start| join_answer(&text, &start)))
    }

    /// The text up to the model's turn, and the start of the model's answer if the prompt has one.
    fn split_answer_start(&self, prompt: &Prompt) -> Result<(String, Option<String>)> {
        match prompt {
            Prompt::Raw { text, .. } => Ok((text.clone(), None)),
            Prompt::Chat(messages) => match messages.split_last() {
                Some((last, before)) if last.role == Role::Assistant => {
                    let start = last.text();
                    Ok((self.chat_template()?.render_whole(before, true)?, Some(start).filter(|start| !start.is_empty())))
                }
                _ => Ok((self.chat_template()?.render_whole(messages, true)?, None)),
            },
        }
    }

    /// Renders the text of a conversation, with the opening of the model's turn if `add_generation_prompt`: what transformers'
    /// `apply_chat_template` returns, even if a message is left out.
    ///
    /// # Errors
    ///
    /// [`Error::ChatTemplate`] if there is no template or it refuses the conversation.
    pub fn apply_chat_template(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.chat_template()?.render(messages, add_generation_prompt)
    }

    fn chat_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::ChatTemplate {
            reason: "the checkpoint has none; give the prompt as raw text, or add a chat_template.jinja".to_owned(),
        })
    }

    /// The token ids of a text with special tokens; images are not expanded.
    ///
    /// If the text starts with the beginning-of-sequence token, as some chat templates write it, no second one is
    /// added.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`].
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode(text, !self.starts_with_bos(text))?.get_ids().to_vec())
    }

    /// The text to tokenise, and whether the tokenizer adds special tokens to it.
    fn with_special_tokens<'a>(&self, text: &'a str) -> (Cow<'a, str>, bool) {
        let with_special_tokens = self.images.as_ref().and_then(|(_, writer)| writer.add_special_tokens(text));
        with_special_tokens.map_or_else(
            || (Cow::Borrowed(text), !self.starts_with_bos(text)),
            |with_special_tokens| (Cow::Owned(with_special_tokens), false),
        )
    }

    fn starts_with_bos(&self, text: &str) -> bool {
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

    /// Makes a batch from token ids that were prepared elsewhere, with images already expanded.
    ///
    /// `input_ids` and `attention_mask` are integers `[batch, tokens]`; positions whose mask is 0 are padding.
    /// `tensors` holds pixels and the other outputs of the model's image processor, by their Hugging Face names.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] if the two differ in shape or an id is negative.
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
            ids: (0..ids.len()).collect(),
            input_ids: Tensor::new(ids, &Device::Cpu)?,
            tensors,
        })
    }

    /// Makes a batch of prompts, ready for generation. The [start of an answer](Prompt::with_answer_start) is part of
    /// the response.
    ///
    /// # Errors
    ///
    /// [`Error::Prompt`], which names the first bad prompt: [`Error::ImageCount`] if the number of placeholders in it is not
    /// the number of its images; [`Error::MessageLost`] if the chat template leaves a message out; otherwise the error of the
    /// template, tokenizer or image processor.
    pub fn prompts<'a>(&self, prompts: impl IntoIterator<Item = &'a Prompt>, padding: Padding) -> Result<ModelInputs> {
        self.batch(prompts.into_iter().map(|p| (p, None)), padding)
    }

    /// Makes a batch of prompts with given responses, each followed by the end-of-sequence token.
    ///
    /// A response is separated from the prompt by a space, as chat models write it, unless the prompt ends or the
    /// response begins with white space. If the prompt has the start of an answer, the response continues it, and the
    /// tokens of both are response tokens.
    ///
    /// # Errors
    ///
    /// As [`prompts`](Self::prompts).
    pub fn responses<'a>(&self, examples: impl IntoIterator<Item = (&'a Prompt, &'a str)>, padding: Padding) -> Result<ModelInputs> {
        self.batch(examples.into_iter().map(|(p, r)| (p, Some(r))), padding)
    }

    /// Checks that the model can be shown a prompt, alone or with a given response.
    ///
    /// # Errors
    ///
    /// As [`prompts`](Self::prompts), without the number of the prompt.
    pub fn check(&self, prompt: &Prompt, response: Option<&str>) -> Result<()> {
        match self.batch(std::iter::once((prompt, response)), Padding::Right) {
            Ok(_) => Ok(()),
            Err(Error::Prompt { source, .. }) => Err(*source),
            Err(other) => Err(other),
        }
    }

    fn batch<'a>(&self, examples: impl Iterator<Item = (&'a Prompt, Option<&'a str>)>, padding: Padding) -> Result<ModelInputs> {
        let examples: Vec<_> = examples.collect();
        let shown: Vec<Vec<Arc<RgbImage>>> = examples.iter().map(|(prompt, _)| prompt.images()).collect();
        let counts: Vec<usize> = shown.iter().map(Vec::len).collect();
        let processed = match (&self.images, counts.iter().position(|n| *n > 0)) {
            (_, None) => ProcessedImages::default(),
            (None, Some(prompt)) => {
                return Err(Error::Inputs { reason: "it shows an image, but this model takes text only".to_owned() }.of_prompt(prompt));
            }
            (Some((processor, _)), _) => {
                let rows: Vec<Vec<&RgbImage>> = shown.iter().map(|row| row.iter().map(AsRef::as_ref).collect()).collect();
                processor.process(&rows).map_err(|error| {
                    let fails = |row: &Vec<&RgbImage>| !row.is_empty() && processor.process(std::slice::from_ref(row)).is_err();
                    match rows.iter().position(fails) {
                        Some(prompt) => error.of_prompt(prompt),
                        None => error,
                    }
                })?
            }
        };
        let mut layouts = processed.images.as_slice();
        let (mut sequences, mut rows) = (Vec::new(), Vec::new());
        for (index, ((prompt, response), count)) in examples.iter().zip(&counts).enumerate() {
            let (own, rest) = layouts.split_at_checked(*count).unwrap_or((layouts, &[]));
            layouts = rest;
            let (text, start) = self.split_answer_start(prompt).map_err(|e| e.of_prompt(index))?;
            let (text, add_special_tokens) = self.with_special_tokens(&text);
            let text = match &self.images {
                None => text.into_owned(),
                Some((_, writer)) => {
                    let wrong = |placeholders| Error::ImageCount { placeholders, images: *count }.of_prompt(index);
                    writer.expand(&text, own).map_err(wrong)?
                }
            };
            let answer = match (start, response) {
                (Some(start), Some(response)) => Some(join_answer(&start, response)),
                (start, response) => start.or_else(|| response.map(str::to_owned)),
            };
            let sequence = self.sequence(&text, answer.as_deref(), response.is_some(), add_special_tokens);
            sequences.push(sequence.map_err(|e| e.of_prompt(index))?);
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
            ids: (0..batch).collect(),
            tensors: processed.tensors,
        };
        if let Some((_, writer)) = &self.images {
            writer.complete_inputs(&mut inputs, &rows, padding)?;
        }
        Ok(inputs)
    }

    /// The tokens of a prompt with an answer; a `closed` answer ends with the end-of-sequence token.
    fn sequence(&self, prompt: &str, answer: Option<&str>, closed: bool, add_special_tokens: bool) -> Result<Sequence> {
        let text = answer.map_or_else(|| prompt.to_owned(), |answer| join_answer(prompt, answer));
        // Byte offsets locate the end of the prompt, whatever the tokenizer merges.
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
        let in_answer =
            |(id, (start, end)): &(&u32, &(usize, usize))| Some(**id) == self.image_token && *start >= prompt.len() && end > start;
        if ids.iter().zip(encoding.get_offsets()).any(|token| in_answer(&token)) {
            return Err(Error::Inputs { reason: "the answer has an image placeholder, and answers are text; take it out".to_owned() });
        }
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
