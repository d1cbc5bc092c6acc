//! Derivatives of log-likelihoods with respect to parameters of an intervention.

use std::fmt;
use std::str::FromStr;

use sgm_core::TokenSelection;

/// A derivative of an answer's log-likelihood with respect to a parameter of the intervention `scale * x + shift` on one neuron `x`, common
/// to some tokens, at `scale` 1 and `shift` 0.
///
/// Displays as, and parses from, `scale/response`, `shift/last` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Derivative {
    /// The parameter.
    pub parameter: Parameter,
    /// The tokens at which the intervention acts.
    pub tokens: TokenSelection,
}

/// A parameter of the intervention on one neuron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parameter {
    /// The factor: the derivative is the sum over tokens of gradient times activation. Reducing the scale by a small `e` changes the
    /// log-likelihood by `-e` times the derivative.
    Scale,
    /// The summand: the derivative is the sum over tokens of the gradient. Its vector over a site's neurons is the direction of steepest
    /// ascent for one steering vector added at all these tokens.
    Shift,
}

impl Parameter {
    /// Both parameters.
    pub const ALL: [Self; 2] = [Self::Scale, Self::Shift];

    /// The name: `scale`, `shift`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scale => "scale",
            Self::Shift => "shift",
        }
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
        let all = TokenSelection::ALL.into_iter().flat_map(|tokens| Parameter::ALL.map(|parameter| Self { parameter, tokens }));
        let expected = || "expected scale or shift, a slash, and all, text, image, prompt, response, prompt-end or last".to_owned();
        all.into_iter().find(|d| d.to_string() == text).ok_or_else(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for tokens in TokenSelection::ALL {
            for parameter in Parameter::ALL {
                let derivative = Derivative { parameter, tokens };
                assert_eq!(derivative.to_string().parse(), Ok(derivative));
            }
        }
        assert!("scale/first".parse::<Derivative>().is_err());
    }
}
