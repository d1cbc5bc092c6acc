//! Token kinds, and the selections of token positions that poolings, derivatives and interventions use.

use serde::{Deserialize, Serialize};

/// The kind of one token position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Padding, which does not belong to the sequence.
    Padding,
    /// Text of the prompt, including the tokens of the chat template and special tokens.
    PromptText,
    /// One feature of an image.
    Image,
    /// The response, given or generated, including its end-of-sequence token.
    Response,
}

impl TokenKind {
    /// Whether the token belongs to the prompt, as text or image.
    pub fn is_prompt(self) -> bool {
        matches!(self, Self::PromptText | Self::Image)
    }
}

/// A selection of the token positions of a sequence; padding is never selected.
///
/// Poolings, derivatives and interventions use the same selections. Displays as, and parses from, its [`name`](Self::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenSelection {
    /// Every token of the sequence. Only this selection can be folded into weights.
    #[default]
    All,
    /// Text of prompt and response: all tokens but image tokens.
    Text,
    /// Image tokens.
    Image,
    /// The prompt, text and images.
    Prompt,
    /// The response.
    Response,
    /// The last token of the prompt, from which the first token of the response is predicted.
    PromptEnd,
    /// The tokens from which the response is predicted: the last token of the prompt, and the response.
    Last,
}

impl TokenSelection {
    /// All selections, in the order of their definition.
    pub const ALL: [Self; 7] = [Self::All, Self::Text, Self::Image, Self::Prompt, Self::Response, Self::PromptEnd, Self::Last];

    /// The name: `all`, `text`, `image`, `prompt`, `response`, `prompt-end`, `last`.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Text => "text",
            Self::Image => "image",
            Self::Prompt => "prompt",
            Self::Response => "response",
            Self::PromptEnd => "prompt-end",
            Self::Last => "last",
        }
    }

    /// Whether each token of one sequence is selected, in order.
    ///
    /// `kinds` are the tokens of one forward pass: a prompt with or without a response, or further tokens of a response. A pass without
    /// a prompt has no prompt end.
    pub fn selected(self, kinds: &[TokenKind]) -> impl Iterator<Item = bool> {
        let end = match self {
            Self::PromptEnd | Self::Last => kinds.iter().rposition(|kind| kind.is_prompt()),
            _ => None,
        };
        kinds.iter().enumerate().map(move |(position, kind)| self.of_kind(*kind) || end == Some(position))
    }

    /// The selected positions of one sequence, ascending.
    pub fn positions(self, kinds: &[TokenKind]) -> Vec<usize> {
        self.selected(kinds).enumerate().filter(|(_, selected)| *selected).map(|(position, _)| position).collect()
    }

    /// Whether all tokens of a kind are selected, at any position.
    pub fn of_kind(self, kind: TokenKind) -> bool {
        match self {
            Self::All => kind != TokenKind::Padding,
            Self::Text => matches!(kind, TokenKind::PromptText | TokenKind::Response),
            Self::Image => kind == TokenKind::Image,
            Self::Prompt => kind.is_prompt(),
            Self::Response | Self::Last => kind == TokenKind::Response,
            Self::PromptEnd => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TokenKind::{Image, Padding, PromptText, Response};

    #[test]
    fn selections_select_what_their_names_say() {
        let shown = |kinds: &[TokenKind]| {
            TokenSelection::ALL.map(|s| s.selected(kinds).map(|selected| if selected { 'x' } else { '.' }).collect::<String>())
        };
        let whole = [Padding, PromptText, Image, PromptText, Response, Response, Padding];
        assert_eq!(shown(&whole), [".xxxxx.", ".x.xxx.", "..x....", ".xxx...", "....xx.", "...x...", "...xxx."]);
        // A prompt that ends with an image, padded on the right.
        assert_eq!(shown(&[PromptText, Image, Padding]), ["xx.", "x..", ".x.", "xx.", "...", ".x.", ".x."]);
        // Padding between prompt and response, as in a pass over a whole sequence.
        assert_eq!(shown(&[PromptText, PromptText, Padding, Response]), ["xx.x", "xx.x", "....", "xx..", "...x", ".x..", ".x.x"]);
        // One decoded token, and one token of a finished sequence.
        assert_eq!(shown(&[Response]), ["x", "x", ".", ".", "x", ".", "x"]);
        assert_eq!(shown(&[Padding]), [".", ".", ".", ".", ".", ".", "."]);
        assert_eq!(TokenSelection::Last.positions(&whole), [3, 4, 5]);
    }
}
