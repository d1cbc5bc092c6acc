use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Memory;

/// What a token position of a batch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Padding: no part of the sequence.
    Padding,
    /// Text of the prompt, including the tokens of the chat template and special tokens.
    PromptText,
    /// One feature of an image.
    Image,
    /// The response, given or generated, including its end-of-sequence token.
    Response,
}

/// A choice of token positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenMask {
    /// Every token of the sequence; padding is never chosen.
    All,
    /// Text of prompt and response: everything but the image.
    Text,
    /// Image tokens.
    Image,
    /// The prompt, text and image.
    Prompt,
    /// The response.
    Response,
}

impl TokenMask {
    /// All masks, in the order of their definition.
    pub const ALL: [Self; 5] = [Self::All, Self::Text, Self::Image, Self::Prompt, Self::Response];

    /// The mask's name: `all`, `text`, `image`, `prompt`, `response`.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Text => "text",
            Self::Image => "image",
            Self::Prompt => "prompt",
            Self::Response => "response",
        }
    }

    /// Whether the mask chooses positions of this kind.
    pub fn includes(self, kind: TokenKind) -> bool {
        match (self, kind) {
            (_, TokenKind::Padding) => false,
            (Self::All, _) => true,
            (Self::Text, kind) => kind != TokenKind::Image,
            (Self::Image, kind) => kind == TokenKind::Image,
            (Self::Prompt, kind) => kind != TokenKind::Response,
            (Self::Response, kind) => kind == TokenKind::Response,
        }
    }
}

/// The kinds of the tokens that one forward pass processes, `[batch, tokens]`, and what taps remember of their sequences.
#[derive(Debug)]
pub struct TokenSpans {
    kinds: Vec<TokenKind>,
    tokens: usize,
    rows: Vec<usize>,
    memories: Vec<Arc<Memory>>,
    pass: u64,
}

impl TokenSpans {
    /// The spans of a batch from row-major kinds; `rows` are the caller's numbers of the batch rows.
    ///
    /// `kinds` must hold the same number of tokens for each row.
    pub(crate) fn new(kinds: Vec<TokenKind>, rows: Vec<usize>, memories: Vec<Arc<Memory>>) -> Self {
        let tokens = kinds.len().checked_div(rows.len()).unwrap_or(0);
        static PASSES: AtomicU64 = AtomicU64::new(0);
        Self { kinds, tokens, rows, memories, pass: PASSES.fetch_add(1, Ordering::Relaxed) }
    }

    /// The kinds of one batch row's tokens in order; empty when there is no such row.
    pub fn row(&self, index: usize) -> &[TokenKind] {
        self.kinds.get(index * self.tokens..(index + 1) * self.tokens).unwrap_or_default()
    }

    /// The caller's number of each batch row, which stays with a sequence from prefill to its last token.
    pub fn rows(&self) -> &[usize] {
        &self.rows
    }

    /// A number that no other forward pass of this process has.
    pub fn pass(&self) -> u64 {
        self.pass
    }

    /// What taps remember of the sequence in one batch row; none when there is no such row.
    pub fn memory(&self, index: usize) -> Option<&Memory> {
        self.memories.get(index).map(Arc::as_ref)
    }

    /// The number of batch rows.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// The number of tokens in each row, padding included.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_choose_what_their_names_say() {
        use TokenKind::*;
        let kinds = [Padding, PromptText, Image, Response];
        let chosen = |mask: TokenMask| kinds.map(|k| mask.includes(k));
        assert_eq!(chosen(TokenMask::All), [false, true, true, true]);
        assert_eq!(chosen(TokenMask::Text), [false, true, false, true]);
        assert_eq!(chosen(TokenMask::Image), [false, false, true, false]);
        assert_eq!(chosen(TokenMask::Prompt), [false, true, true, false]);
        assert_eq!(chosen(TokenMask::Response), [false, false, false, true]);
    }
}
