//! Labelled calibration samples.

use std::fmt;

use sgm_core::TokenKind;
use sgm_core::sha256::Sha256Hex;
use sgm_models::{Content, Mllm, ModelInputs, Padding, Prompt};

use crate::{Error, Result};

/// A labelled calibration sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The sample's id.
    pub id: String,
    /// The prompt.
    pub prompt: Prompt,
    /// The response, whose tokens follow the prompt's.
    pub response: String,
    /// Whether the sample is toxic.
    pub toxic: bool,
    /// Whether the response was cut off before its end. The end-of-sequence token then neither follows it nor counts for its likelihood.
    pub unfinished: bool,
}

impl Example {
    /// The number of images and of bytes of text.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (images, text) = self.prompt.size();
        (images, text + self.response.len())
    }
}

/// The reason why a sample cannot be loaded.
type Reason = Box<dyn std::error::Error + Send + Sync>;

/// The samples of a capture in order. Each is loaded when it is run, so that images need not fit into memory together.
pub struct Examples<'a> {
    len: usize,
    sha256: String,
    make: Box<dyn Fn(usize) -> std::result::Result<Example, Reason> + Sync + 'a>,
}

impl<'a> Examples<'a> {
    /// `len` samples that `make` loads by index. `sha256` must cover their contents and order: a store is only resumed with samples of the
    /// same hash.
    pub fn new(len: usize, sha256: String, make: impl Fn(usize) -> std::result::Result<Example, Reason> + Sync + 'a) -> Self {
        Self { len, sha256, make: Box::new(make) }
    }

    /// Samples in memory; their hash covers ids, labels, texts and pixels.
    pub fn from_slice(examples: &'a [Example]) -> Self {
        let make = |number: usize| examples.get(number).cloned().ok_or_else(|| "there is no such sample".into());
        Self::new(examples.len(), sha256(examples), make)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The hash of the samples.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The sample of a number.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] when it cannot be made.
    pub fn get(&self, number: usize) -> Result<Example> {
        (self.make)(number).map_err(|source| Error::Source { number, source })
    }
}

/// The samples of these numbers, and the batch that they make; an error names the sample.
pub(crate) fn batch<M: Mllm + ?Sized>(model: &M, examples: &Examples<'_>, numbers: &[usize]) -> Result<(ModelInputs, Vec<Example>)> {
    let batch = numbers.iter().map(|number| examples.get(*number)).collect::<Result<Vec<_>>>()?;
    let inputs = model.processor().responses(batch.iter().map(|e| (&e.prompt, e.response.as_str())), Padding::Right);
    let mut inputs = inputs.map_err(|error| match error {
        sgm_models::Error::Prompt { prompt, source } => match batch.get(prompt) {
            Some(example) => Error::Shown { sample: example.id.clone(), source },
            None => Error::Model(*source),
        },
        other => Error::Model(other),
    })?;
    inputs.ids = numbers.to_vec();
    if let Some(end) = model.processor().eos()
        && batch.iter().any(|example| example.unfinished)
    {
        let ids = inputs.input_ids.to_vec2::<u32>().map_err(sgm_models::Error::from)?;
        for ((kinds, ids), _) in inputs.kinds.iter_mut().zip(ids).zip(&batch).filter(|(_, example)| example.unfinished) {
            // Nothing attends to the last token.
            let last = kinds.iter_mut().zip(ids).rfind(|(kind, _)| **kind == TokenKind::Response);
            last.into_iter().filter(|(_, id)| *id == end).for_each(|(kind, _)| *kind = TokenKind::Padding);
        }
    }
    Ok((inputs, batch))
}

impl fmt::Debug for Examples<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Examples({} samples, {})", self.len, self.sha256)
    }
}

fn sha256(examples: &[Example]) -> String {
    let mut hash = Sha256Hex::default();
    // Each field is preceded by its length, so that no byte can move from one field to the next unnoticed.
    let mut add = |bytes: &[u8]| {
        hash.update(bytes.len().to_string());
        hash.update(":");
        hash.update(bytes);
    };
    for example in examples {
        add(example.id.as_bytes());
        add(&[u8::from(example.toxic) + 2 * u8::from(example.unfinished)]);
        add(example.response.as_bytes());
        match &example.prompt {
            Prompt::Raw { text, .. } => add(text.as_bytes()),
            Prompt::Chat(messages) => {
                for message in messages {
                    add(message.role.name().as_bytes());
                    for content in &message.content {
                        match content {
                            Content::Text(text) => add(text.as_bytes()),
                            Content::Image(_) => add(b"<image>"),
                        }
                    }
                }
            }
        }
        for image in example.prompt.images() {
            add(format!("{}x{}", image.width(), image.height()).as_bytes());
            add(image.as_raw());
        }
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_sample_is_hashed() {
        let example = |id: &str, question: &str, response: &str, toxic| Example {
            id: id.to_owned(),
            prompt: Prompt::user(question, None),
            response: response.to_owned(),
            toxic,
            unfinished: false,
        };
        let hash = |examples: &[Example]| Examples::from_slice(examples).sha256().to_owned();
        let base = [example("a", "b", "c", true), example("d", "e", "f", false)];
        let [first, second] = base.clone();
        let raw = Example { prompt: Prompt::Raw { text: "b".to_owned(), images: Vec::new() }, ..first.clone() };
        for other in [
            vec![example("a", "bc", "", true), second.clone()],
            vec![example("a", "b", "c", false), second.clone()],
            vec![example("x", "b", "c", true), second.clone()],
            vec![example("a", "b", "x", true), second.clone()],
            vec![raw, second.clone()],
            vec![Example { unfinished: true, ..first.clone() }, second.clone()],
            vec![second, first.clone()],
            vec![first],
        ] {
            assert_ne!(hash(&base), hash(&other));
        }
        assert_eq!(hash(&base), hash(&base.clone()));
    }
}
