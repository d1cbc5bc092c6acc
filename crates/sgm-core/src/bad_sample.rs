//! The treatment of samples that cannot be used.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The treatment of a sample that a model cannot be shown: whose image cannot be read, or whose prompt does not fit the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadSample {
    /// The sample is an error.
    #[default]
    Refuse,
    /// The sample is left out; manifests and reports name it.
    Skip,
}

/// A sample that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SkippedSample {
    /// The sample's id.
    pub id: String,
    /// The fault of the sample.
    pub reason: String,
}

impl fmt::Display for OnBadSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Skip => "skip",
        })
    }
}

impl FromStr for OnBadSample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Refuse, Self::Skip].into_iter().find(|policy| policy.to_string() == text).ok_or_else(|| "expected refuse or skip".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_names() {
        for policy in [OnBadSample::Refuse, OnBadSample::Skip] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        assert!("drop".parse::<OnBadSample>().is_err());
        assert_eq!(OnBadSample::default(), OnBadSample::Refuse);
    }
}
