//! The groups of candidates that fill the quotas of a plan.

use crate::data::candidate::Candidate;
use crate::datasets::Part;
use crate::{Condition, Split};

/// The candidates that fill a quota.
pub(super) enum Group<'a> {
    Category {
        category: &'a str,
        split: Split,
        /// Whether they have to be in the selection, if there is one.
        is_selected: Option<bool>,
    },
    /// Questions of a published train split.
    Train {
        category: &'a str,
    },
    Attacks,
    Utility,
    Label {
        label: bool,
        /// Whether answers of a published evaluation split are among them.
        evaluation_too: bool,
    },
}

impl Group<'_> {
    /// Whether a candidate may fill the quota.
    pub(super) fn has(&self, candidate: &Candidate) -> bool {
        match self {
            Self::Category { category, split, is_selected } => {
                let other = if *split == Split::Test { Part::Train } else { Part::Evaluation };
                let fits = is_selected.map_or(candidate.part != Some(other), |selected| candidate.selected == selected);
                candidate.is_risky() && candidate.category == *category && fits
            }
            Self::Train { category } => candidate.is_risky() && candidate.category == *category && candidate.part == Some(Part::Train),
            Self::Attacks => candidate.split == Split::Test && candidate.condition == Condition::Adversarial,
            Self::Utility => candidate.split == Split::Utility,
            Self::Label { label, evaluation_too } => {
                let part = *evaluation_too || candidate.part != Some(Part::Evaluation);
                candidate.split == Split::Calibration && candidate.label == Some(*label) && part
            }
        }
    }
}

impl std::fmt::Display for Group<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Category { category, .. } | Self::Train { category } => write!(f, "category `{category}`"),
            Self::Attacks => f.write_str("attacks"),
            Self::Utility => f.write_str("utility"),
            Self::Label { label, .. } => write!(f, "label {}", u8::from(*label)),
        }
    }
}
