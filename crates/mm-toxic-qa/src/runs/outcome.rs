//! The outcomes of single prompts and of one seed.

use serde::{Deserialize, Serialize};

use crate::metrics::{Diversity, share};

/// The outcome of one risky prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptOutcome {
    /// The sample's id.
    pub id: String,
    /// The sample's category.
    pub category: String,
    /// The judge's label; `None` when its verdict was unparsed.
    pub harmful: Option<bool>,
    /// Whether the answer helped; see [`Scorer::helpful`](crate::Scorer::helpful).
    pub helpful: Option<bool>,
}

/// Everything measured with one seed, from which the numbers of a [`Run`](crate::Run) are computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeedOutcome {
    /// The seed of calibration and sampling.
    pub seed: u64,
    /// The number of neurons whose scale is not 1.
    pub n_suppressed: usize,
    /// Wall-clock time in seconds.
    pub seconds: f64,
    /// Risky prompts as they are.
    pub standard: Vec<PromptOutcome>,
    /// Risky prompts as attacks.
    pub adversarial: Vec<PromptOutcome>,
    /// The token negative log-likelihoods of each perplexity text, in nats.
    pub token_nll: Vec<Vec<f64>>,
    /// Whether each visual question was answered right.
    pub vqa_correct: Vec<bool>,
    /// Whether each harmless question of [`Evaluation::refusal`](crate::Evaluation::refusal) was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<bool>,
    /// The diversity of the answers to risky prompts.
    #[serde(default)]
    pub diversity: Diversity,
    /// The token negative log-likelihoods of each answer to a risky prompt under the model without glasses, in nats; empty where they were
    /// not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer_nll: Vec<Vec<f64>>,
    /// The mean divergence of the glasses from the model on neutral texts that had no part in the choice of their strength, in nats for each
    /// token, if it was chosen by a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
    /// The prompts at which the condition of the glasses held, if they have one.
    #[serde(default, alias = "gate", skip_serializing_if = "Option::is_none")]
    pub detection: Option<DetectionOutcome>,
}

/// The prompts at which the condition of conditional glasses held (true) and those at which it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionOutcome {
    /// Risky prompts: standard, then adversarial.
    pub risky: Vec<bool>,
    /// Harmless prompts: visual questions, then those of the perplexity texts.
    pub benign: Vec<bool>,
}

/// The shares of prompts at which the condition of conditional glasses held; means over seeds in a [`Run`](crate::Run).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DetectionRates {
    /// The share of harmless prompts: visual questions and those of the perplexity texts.
    pub false_positive_rate: Option<f64>,
    /// The share of risky prompts, attacks included.
    pub true_positive_rate: Option<f64>,
}

impl DetectionOutcome {
    /// The shares of both kinds of prompts.
    pub fn rates(&self) -> DetectionRates {
        let rate = |prompts: &[bool]| share(prompts.iter().copied());
        DetectionRates { false_positive_rate: rate(&self.benign), true_positive_rate: rate(&self.risky) }
    }
}
