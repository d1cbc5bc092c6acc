//! Tokens that several prompts begin with, run once.

use crate::decoder::cache::Cache;
use crate::error::{Error, Result};
use crate::processor::model_inputs::{ModelInputs, POSITION_IDS};
use sgm_core::TokenKind;

/// The tokens that several prompts begin with, such as a system prompt, with their keys and values.
/// [`Mllm::share_prefix`](crate::Mllm::share_prefix) makes it.
#[derive(Debug, Clone)]
pub struct SharedPrefix {
    pub(crate) ids: Vec<u32>,
    /// Of one sequence, with the keys and values of the tokens.
    pub(crate) cache: Cache,
}

impl SharedPrefix {
    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Whether every sequence of a batch begins with these tokens, all of them text of the prompt, and has more.
    ///
    /// # Errors
    ///
    /// candle's errors.
    pub fn begins(&self, inputs: &ModelInputs) -> Result<bool> {
        let (_, tokens) = inputs.dims()?;
        let text = |kinds: &Vec<TokenKind>| kinds.iter().take(self.tokens()).all(|kind| *kind == TokenKind::PromptText);
        if tokens <= self.tokens() || !inputs.kinds.iter().all(text) || inputs.tensors.contains_key(POSITION_IDS) {
            return Ok(false);
        }
        let ids = inputs.input_ids.narrow(1, 0, self.tokens())?.to_vec2::<u32>()?;
        Ok(ids.iter().all(|ids| *ids == self.ids))
    }

    /// An error unless [`begins`](Self::begins).
    pub(crate) fn check(&self, inputs: &ModelInputs) -> Result<()> {
        if self.begins(inputs)? {
            return Ok(());
        }
        let reason =
            format!("not every sequence begins with the {} tokens of the shared prefix, without padding, and goes on", self.tokens());
        Err(Error::Inputs { reason })
    }
}
