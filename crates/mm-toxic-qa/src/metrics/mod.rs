//! The metrics as pure functions.
//!
//! Rates are fractions from 0 to 1. A metric of nothing is `None`, never NaN. [`scoring`] has the rules for right and
//! helpful answers; the other files hold rates, intervals, tests and comparisons.

mod bootstrap;
mod diversity;
mod harm;
mod kappa;
mod mcnemar;
mod mean;
mod pareto;
mod perplexity;
mod rates;
pub mod scoring;
mod toxicity;

pub use bootstrap::{RESAMPLES, bootstrap_ci95};
pub use diversity::Diversity;
pub use harm::{Harm, HarmfulRate, harm_of_records, harmful_rate};
pub use kappa::{cohen_kappa, cohen_kappa_ci95};
pub use mcnemar::{McNemar, mcnemar};
pub use mean::{mean, share};
pub use pareto::pareto_front;
pub use perplexity::{corpus_perplexity, perplexity};
pub use rates::{Rate, help_rate, mm_vet_total, refusal_rate};
pub use toxicity::Toxicity;
