use std::fmt;
use std::str::FromStr;

use sgm_models::{TokenKind, TokenMask};

/// What an answer's log-likelihood is differentiated by: a parameter of the intervention `scale * x + shift` on one neuron `x`, the same at
/// some tokens, at `scale` 1 and `shift` 0.
///
/// Displays as, and parses from, `scale/response`, `shift/last` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Derivative {
    /// Which parameter.
    pub parameter: Parameter,
    /// The tokens at which the intervention acts.
    pub tokens: ActsAt,
}

/// A parameter of the intervention on one neuron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parameter {
    /// The factor: the derivative is the sum over tokens of gradient times activation. Suppressing the neuron by a small `e` changes the
    /// log-likelihood by `-e` times as much.
    Scale,
    /// What is added: the derivative is the sum over tokens of the gradient. Its vector over a site's neurons is the direction of steepest
    /// ascent for one steering vector added at all these tokens.
    Shift,
}

impl Parameter {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Scale, Self::Shift];

    /// Its name: `scale`, `shift`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Shift => "shift",
        }
    }
}

/// Tokens at which an intervention acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ActsAt {
    /// Those of a mask. What is folded into weights acts at [`TokenMask::All`].
    Mask(TokenMask),
    /// The last token of the prompt, which the first one of the response is predicted from.
    PromptEnd,
    /// The tokens that the response is predicted from: the last one of the prompt, and the response.
    Last,
}

impl ActsAt {
    /// All choices.
    pub const ALL: [Self; 7] = [
        Self::Mask(TokenMask::All),
        Self::Mask(TokenMask::Text),
        Self::Mask(TokenMask::Image),
        Self::Mask(TokenMask::Prompt),
        Self::Mask(TokenMask::Response),
        Self::PromptEnd,
        Self::Last,
    ];

    /// The name: a mask's, or `prompt-end`, `last`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mask(mask) => mask.name(),
            Self::PromptEnd => "prompt-end",
            Self::Last => "last",
        }
    }

    /// The chosen tokens of a sequence, by their places.
    pub(crate) fn places(self, kinds: &[TokenKind]) -> Vec<usize> {
        let end = kinds.iter().rposition(|kind| TokenMask::Prompt.includes(*kind));
        let chosen = |(place, kind): &(usize, &TokenKind)| match self {
            Self::Mask(mask) => mask.includes(**kind),
            Self::PromptEnd => end == Some(*place),
            Self::Last => end == Some(*place) || TokenMask::Response.includes(**kind),
        };
        kinds.iter().enumerate().filter(chosen).map(|(place, _)| place).collect()
    }
}

impl fmt::Display for Derivative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.parameter.name(), self.tokens.name())
    }
}

impl FromStr for Derivative {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = ActsAt::ALL.into_iter().flat_map(|tokens| Parameter::ALL.map(|parameter| Self { parameter, tokens }));
        let expected = || "expected scale or shift, a slash, and all, text, image, prompt, response, prompt-end or last".to_owned();
        all.into_iter().find(|d| d.to_string() == text).ok_or_else(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for tokens in ActsAt::ALL {
            for parameter in Parameter::ALL {
                let derivative = Derivative { parameter, tokens };
                assert_eq!(derivative.to_string().parse(), Ok(derivative));
            }
        }
        assert!("scale/first".parse::<Derivative>().is_err());
    }

    #[test]
    fn places_are_those_of_the_tokens() {
        use TokenKind::{Image, Padding, PromptText, Response};
        let kinds = [Padding, PromptText, Image, PromptText, Response, Response, Padding];
        let places = |tokens: ActsAt| tokens.places(&kinds);
        assert_eq!(places(ActsAt::Mask(TokenMask::All)), [1, 2, 3, 4, 5]);
        assert_eq!(places(ActsAt::Mask(TokenMask::Prompt)), [1, 2, 3]);
        assert_eq!(places(ActsAt::PromptEnd), [3]);
        assert_eq!(places(ActsAt::Last), [3, 4, 5]);
        assert_eq!(ActsAt::Last.places(&kinds[4..]), [0, 1]);
        assert!(ActsAt::PromptEnd.places(&kinds[4..]).is_empty());
    }
}
