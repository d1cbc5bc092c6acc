use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The token positions an intervention acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Positions {
    /// Every position, padding included. Only this can be folded into weights.
    #[default]
    All,
    /// Text of prompt and response: everything but images.
    Text,
    /// Image tokens.
    Image,
    /// The response.
    Response,
    /// Every position from which a token of the response is predicted: the last one of the prompt, and the response.
    Last,
}

impl Positions {
    /// All choices, in the order of their definition.
    pub const ALL: [Self; 5] = [Self::All, Self::Text, Self::Image, Self::Response, Self::Last];

    /// Their names.
    pub(crate) const NAMES: [&'static str; 5] = ["all", "text", "image", "response", "last"];

    /// The name in an intervention's metadata: `all`, `text`, `image`, `response`, `last`.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Text => "text",
            Self::Image => "image",
            Self::Response => "response",
            Self::Last => "last",
        }
    }

    /// Whether each token of one sequence is acted on, given what they hold in one pass: a prompt with or without a response, or further
    /// tokens of a response.
    #[cfg(feature = "candle")]
    pub(crate) fn chosen(self, kinds: &[sgm_models::TokenKind]) -> impl Iterator<Item = bool> {
        use sgm_models::{TokenKind, TokenMask};
        let (mask, last) = match self {
            Self::All => (None, None),
            Self::Text => (Some(TokenMask::Text), None),
            Self::Image => (Some(TokenMask::Image), None),
            Self::Response => (Some(TokenMask::Response), None),
            Self::Last => {
                let of_prompt = |kind: &TokenKind| TokenMask::Prompt.includes(*kind);
                (Some(TokenMask::Response), kinds.iter().rposition(of_prompt))
            }
        };
        kinds.iter().enumerate().map(move |(at, kind)| mask.is_none_or(|mask| mask.includes(*kind)) || last == Some(at))
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Positions {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| Error::Positions { positions: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        assert_eq!(Positions::ALL.map(Positions::name), Positions::NAMES);
        for positions in Positions::ALL {
            assert_eq!(positions.to_string().parse::<Positions>().unwrap(), positions);
        }
        let message = "prompt".parse::<Positions>().unwrap_err().to_string();
        assert!(message.contains("`prompt`") && message.contains("all, text, image, response, last"), "{message}");
    }

    #[cfg(feature = "candle")]
    #[test]
    fn positions_choose_what_their_names_say() {
        use sgm_models::TokenKind::{Image, Padding, PromptText, Response};
        let chosen = |positions: Positions, kinds: &[_]| -> String { positions.chosen(kinds).map(|c| if c { 'x' } else { '.' }).collect() };
        let whole = [Padding, PromptText, Image, PromptText, Response, Response, Padding];
        assert_eq!(Positions::ALL.map(|p| chosen(p, &whole)), ["xxxxxxx", ".x.xxx.", "..x....", "....xx.", "...xxx."]);
        // A prompt padded on the right, whose image comes last.
        let prompt = [PromptText, Image, Padding];
        assert_eq!(Positions::ALL.map(|p| chosen(p, &prompt)), ["xxx", "x..", ".x.", "...", ".x."]);
        // Padding between prompt and response, as when all is computed anew.
        let anew = [PromptText, PromptText, Padding, Response];
        assert_eq!(chosen(Positions::Last, &anew), ".x.x");
        assert_eq!(Positions::ALL.map(|p| chosen(p, &[Response])), ["x", "x", ".", "x", "x"]);
        assert_eq!(Positions::ALL.map(|p| chosen(p, &[Padding])), ["x", ".", ".", ".", "."]);
    }
}
