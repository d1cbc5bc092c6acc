//! The tokens of one forward pass as taps see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sgm_core::TokenKind;

use crate::taps::sequence_state::SequenceState;

/// The kinds of the tokens in one forward pass, `[batch, tokens]`, and the states of their sequences.
#[derive(Debug)]
pub struct TokenSpans {
    kinds: Vec<TokenKind>,
    tokens: usize,
    ids: Vec<usize>,
    states: Vec<Arc<SequenceState>>,
    pass: u64,
    /// For an expert's sites, whether each token is routed to the expert.
    routed: Option<Vec<bool>>,
}

impl TokenSpans {
    /// Creates the spans of a batch from row-major kinds; `ids` are the caller's ids of the sequences.
    ///
    /// `kinds` must hold the same number of tokens for each row.
    pub(crate) fn new(kinds: Vec<TokenKind>, ids: Vec<usize>, states: Vec<Arc<SequenceState>>) -> Self {
        let tokens = kinds.len().checked_div(ids.len()).unwrap_or(0);
        static PASSES: AtomicU64 = AtomicU64::new(0);
        Self { kinds, tokens, ids, states, pass: PASSES.fetch_add(1, Ordering::Relaxed), routed: None }
    }

    /// The same spans for the sites of an expert; `routed` says for each token whether it is routed there.
    pub(crate) fn of_expert(&self, routed: Vec<bool>) -> Self {
        Self {
            kinds: self.kinds.clone(),
            tokens: self.tokens,
            ids: self.ids.clone(),
            states: self.states.clone(),
            pass: self.pass,
            routed: Some(routed),
        }
    }

    /// The same spans with `count` tokens of prompt text before those of every row: for tokens that were run before, by
    /// [`Mllm::share_prefix`](crate::Mllm::share_prefix).
    #[must_use]
    pub fn after_prefix(&self, count: usize) -> Self {
        let rows = (0..self.batch()).flat_map(|row| std::iter::repeat_n(TokenKind::PromptText, count).chain(self.row(row).iter().copied()));
        Self {
            kinds: rows.collect(),
            tokens: count + self.tokens,
            ids: self.ids.clone(),
            states: self.states.clone(),
            pass: self.pass,
            routed: None,
        }
    }

    /// The kinds of one batch row's tokens, in order; empty if the row does not exist.
    pub fn row(&self, index: usize) -> &[TokenKind] {
        self.kinds.get(index * self.tokens..(index + 1) * self.tokens).unwrap_or_default()
    }

    /// Whether each token of one batch row is routed to the expert whose site a tap is called for; `None` at sites that all
    /// tokens pass.
    pub fn routed(&self, index: usize) -> Option<&[bool]> {
        self.routed.as_ref().map(|routed| routed.get(index * self.tokens..(index + 1) * self.tokens).unwrap_or_default())
    }

    /// The caller's id of the sequence in each batch row. A sequence keeps its id from prefill to its last token.
    pub fn ids(&self) -> &[usize] {
        &self.ids
    }

    /// The number of the pass, unique within the process.
    pub fn pass(&self) -> u64 {
        self.pass
    }

    /// The state of the sequence in one batch row; `None` if the row does not exist.
    pub fn state(&self, index: usize) -> Option<&SequenceState> {
        self.states.get(index).map(Arc::as_ref)
    }

    /// The number of batch rows.
    pub fn batch(&self) -> usize {
        self.ids.len()
    }

    /// The number of tokens in each row, padding included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}
