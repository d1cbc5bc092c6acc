//! Poolings: a pool over a selection of tokens.

use std::fmt;
use std::str::FromStr;

use sgm_core::TokenSelection;

/// The reduction of a neuron's responses over tokens to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    /// The arithmetic mean; the sum is in f64, in the order of the tokens.
    Mean,
    /// The maximum.
    Max,
    /// The minimum.
    Min,
    /// The response at the last token.
    Last,
    /// The maximum of the absolute values.
    MaxAbs,
}

impl Pool {
    /// All pools.
    pub const ALL: [Self; 5] = [Self::Mean, Self::Max, Self::Min, Self::Last, Self::MaxAbs];

    /// The pool's name: `mean`, `max`, `min`, `last`, `maxabs`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Min => "min",
            Self::Last => "last",
            Self::MaxAbs => "maxabs",
        }
    }
}

/// A pool over a selection of tokens; displays as, and parses from, `max/all` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pooling {
    /// The reduction.
    pub pool: Pool,
    /// The tokens.
    pub tokens: TokenSelection,
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool.name(), self.tokens.name())
    }
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = TokenSelection::ALL.into_iter().flat_map(|tokens| Pool::ALL.map(|pool| Self { pool, tokens }));
        let expected =
            || "expected mean, max, min, last or maxabs, a slash, and all, text, image, prompt, response, prompt-end or last".to_owned();
        all.into_iter().find(|p| p.to_string() == text).ok_or_else(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for tokens in TokenSelection::ALL {
            for pool in Pool::ALL {
                let pooling = Pooling { pool, tokens };
                assert_eq!(pooling.to_string().parse(), Ok(pooling));
            }
        }
        assert!("median/all".parse::<Pooling>().is_err());
    }
}
