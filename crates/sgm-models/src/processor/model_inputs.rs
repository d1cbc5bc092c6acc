//! A batch of token ids and pixels, ready for a model.

use std::collections::BTreeMap;

use candle_core::Tensor;
use sgm_core::TokenKind;

use crate::error::{Error, Result};

/// The name of the tensor of given positions, i64 `[batch, tokens]`; each sequence continues from its last position.
pub(crate) const POSITION_IDS: &str = "position_ids";

/// A batch of model inputs: token ids with their kinds, and pixels.
#[derive(Debug, Clone)]
pub struct ModelInputs {
    /// Token ids u32 `[batch, tokens]`, with images already expanded to one placeholder token per feature.
    pub input_ids: Tensor,
    /// The kind of each position, `[batch][tokens]`; [`TokenKind::Padding`] is not attended to.
    pub kinds: Vec<Vec<TokenKind>>,
    /// The caller's id of each sequence, which is visible to taps.
    pub ids: Vec<usize>,
    /// Pixels and the other outputs of the image processor, by their Hugging Face names. `position_ids` i64 `[batch,
    /// tokens]` may replace the positions of models with consecutive positions.
    pub tensors: BTreeMap<String, Tensor>,
}

impl ModelInputs {
    /// The batch size and the number of tokens of each row.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] if token ids, kinds and sequence ids disagree about them, or there are no tokens.
    pub fn dims(&self) -> Result<(usize, usize)> {
        let (batch, tokens) = self.input_ids.dims2()?;
        let agree = self.kinds.len() == batch && self.ids.len() == batch && self.kinds.iter().all(|k| k.len() == tokens);
        if !agree || batch == 0 || tokens == 0 {
            let kinds = self.kinds.iter().map(Vec::len).collect::<Vec<_>>();
            let reason = format!(
                "token ids are [{batch}, {tokens}], kinds have lengths {kinds:?}, {} sequence ids; all must agree and none be 0",
                self.ids.len()
            );
            return Err(Error::Inputs { reason });
        }
        Ok((batch, tokens))
    }

    /// A required tensor beside the token ids.
    pub(crate) fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::Inputs { reason: format!("this model also needs `{name}`; use its processor") })
    }
}

/// The side of padding in a batch of unequal lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Before the sequence: every row ends with its last token, as generation requires.
    Left,
    /// After the sequence.
    Right,
}
