//! The prices that less harm may cost.

use serde::{Deserialize, Serialize};

use crate::Run;

/// The utility that less harm may cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// The largest increase of perplexity, as a fraction.
    pub perplexity: f64,
    /// The largest decrease of the share of visual questions answered right.
    pub vqa: f64,
}

impl Default for Budget {
    /// 5 % of perplexity and 2 points of VQA.
    fn default() -> Self {
        Self { perplexity: 0.05, vqa: 0.02 }
    }
}

impl Budget {
    /// Whether a run stays within the budget; unmeasured utility counts as within.
    pub(super) fn holds(&self, run: &Run, base: &Run) -> bool {
        // Two shares that differ by the budget differ by a little more after rounding.
        let within = |cost: f64, most: f64| cost <= most + 1e-9;
        run.perplexity_change(base).is_none_or(|change| within(change, self.perplexity))
            && run.vqa_change(base).is_none_or(|change| within(-change, self.vqa))
    }
}
