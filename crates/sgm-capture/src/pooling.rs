use std::fmt;
use std::str::FromStr;

use sgm_models::TokenMask;

/// How a neuron's responses to the tokens of a sample become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    /// The arithmetic mean, of a sum in f64 in the order of the tokens.
    Mean,
    /// The maximum.
    Max,
    /// The minimum.
    Min,
    /// The response to the last token.
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

/// A pool over the tokens of a mask; displays as, and parses from, `max/all` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pooling {
    /// How responses are combined.
    pub pool: Pool,
    /// Which tokens are.
    pub mask: TokenMask,
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool.name(), self.mask.name())
    }
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = TokenMask::ALL.into_iter().flat_map(|mask| Pool::ALL.map(|pool| Self { pool, mask }));
        let expected = || "expected mean, max, min, last or maxabs, a slash, and all, text, image, prompt or response".to_owned();
        all.into_iter().find(|p| p.to_string() == text).ok_or_else(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for mask in TokenMask::ALL {
            for pool in Pool::ALL {
                let pooling = Pooling { pool, mask };
                assert_eq!(pooling.to_string().parse(), Ok(pooling));
            }
        }
        assert!("median/all".parse::<Pooling>().is_err());
    }
}
