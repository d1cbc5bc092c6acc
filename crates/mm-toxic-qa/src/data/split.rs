//! The two splits of risky prompts.

use std::fmt;
use std::str::FromStr;

use crate::Split;

/// The split of risky prompts that a model is evaluated on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvaluationSplit {
    /// The development split, on which settings are chosen.
    Dev,
    /// The test split, which is reported once settings are chosen.
    Test,
}

impl EvaluationSplit {
    /// Its name in files: `dev` or `test`.
    pub fn name(self) -> &'static str {
        Split::from(self).name()
    }
}

impl From<EvaluationSplit> for Split {
    fn from(split: EvaluationSplit) -> Self {
        match split {
            EvaluationSplit::Dev => Self::Dev,
            EvaluationSplit::Test => Self::Test,
        }
    }
}

impl fmt::Display for EvaluationSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EvaluationSplit {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = [Self::Dev, Self::Test].into_iter().find(|split| split.name() == name);
        found.ok_or_else(|| format!("`{name}` is not an evaluation split; expected dev or test"))
    }
}
