//! The options of a generation.

use crate::error::{Error, Result};

/// The choice of the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The most probable token.
    Greedy,
    /// A random token from the model's distribution.
    Random {
        /// The divisor of the logits; above 0.
        temperature: f64,
        /// Samples from the smallest set of most probable tokens whose probabilities add up to this number, above 0 and
        /// at most 1. With `top_k`, the probabilities are still those among all tokens.
        top_p: Option<f64>,
        /// Samples from this many most probable tokens.
        top_k: Option<usize>,
    },
}

/// The treatment of end-of-sequence tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EosPolicy {
    /// The token ends the answer.
    #[default]
    Stop,
    /// The token is treated like any other: every answer has `max_new_tokens` tokens.
    Ignore,
    /// The token is never chosen: every answer has `max_new_tokens` tokens.
    Suppress,
}

/// The options of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The maximum length of an answer in tokens.
    pub max_new_tokens: usize,
    /// The choice of the next token.
    pub sampling: Sampling,
    /// The seed of random sampling. Prompt `i` of a call draws from its own stream, derived from the seed and `i`, or
    /// from its id in `ids`, so its answer does not depend on the other prompts.
    pub seed: u64,
    /// The number of prompts that run together. As many batches run in parallel as rayon has threads.
    pub batch_size: usize,
    /// The treatment of end-of-sequence tokens.
    pub eos: EosPolicy,
    /// A text that ends the answer as well: the first token that ends with it, apart from trailing white space, is the
    /// last one of the answer.
    pub stop: Option<String>,
    /// The caller's id of each prompt, which determines its random stream and is visible to taps; `None` for 0, 1, 2
    /// and so on.
    ///
    /// With the same ids, a call for some prompts of another call gives the same answers.
    pub ids: Option<Vec<usize>>,
}

impl GenerateOptions {
    /// The id of the prompt at an index.
    pub fn id(&self, index: usize) -> usize {
        self.ids.as_ref().map_or(index, |ids| ids.get(index).copied().unwrap_or(index))
    }

    /// The options for a call with only the prompts at some indices of this call, with the same ids.
    pub fn for_prompts(&self, indices: &[usize]) -> Self {
        Self { ids: Some(indices.iter().map(|index| self.id(*index)).collect()), ..self.clone() }
    }

    /// Checks that all settings are in range.
    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Inputs { reason: reason.to_owned() });
        if self.batch_size == 0 {
            return refuse("batch_size must not be 0");
        }
        if self.stop.as_deref() == Some("") {
            return refuse("stop must not be an empty text");
        }
        match self.sampling {
            Sampling::Random { temperature, .. } if !(temperature.is_finite() && temperature > 0.0) => {
                refuse("temperature must be a number above 0; use greedy sampling for the most probable answer")
            }
            Sampling::Random { top_p: Some(p), .. } if !(p > 0.0 && p <= 1.0) => refuse("top_p must be above 0 and at most 1"),
            Sampling::Random { top_k: Some(0), .. } => refuse("top_k must not be 0"),
            _ => Ok(()),
        }
    }
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 256, sampling: Sampling::Greedy, seed: 0, batch_size: 32, eos: EosPolicy::Stop, stop: None, ids: None }
    }
}
