//! The fitting of interventions to running models.
//!
//! A calibrator holds labelled samples and fits the components of presets to them: suppression rules, transports, causal experts and
//! steering, and conditional patch neurons. A budget limits what they may change. Ablation measures the effect of an intervention on the
//! likelihood of given answers.

mod ablation;
mod budget;
mod calibrator;
mod causal_effects;
mod causal_experts;
mod causal_steering;
mod conditional_patches;
mod dose;
mod held_out;
mod incremental;
mod linear_algebra;
mod metadata;
mod neutral_texts;
mod preset;
mod without_rise;

pub use ablation::{Ablation, LikelihoodChange};
pub use budget::{Budget, StrengthWithin};
pub use calibrator::{Calibrator, Component};
pub use causal_effects::{CausalEffect, CausalEffects};
pub use causal_experts::CausalExperts;
pub use causal_steering::CausalSteering;
pub use conditional_patches::ConditionalPatches;
pub use dose::{Dose, DosePoint, DoseSearch, Spent};
pub use incremental::fit_incrementally;
pub use preset::Preset;
