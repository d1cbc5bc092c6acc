//! Glasses: interventions on running models.
//!
//! Taps scale the outputs of sites and add the contributions of patch neurons, always or under a condition that a probe checks for each
//! sequence. Dropping the glasses restores the model.

mod conditional_glasses;
mod glasses;
mod model_with_glasses;
mod patches;
mod sites;

pub use conditional_glasses::{ConditionalGlasses, Detector, score_prompts};
pub use glasses::{Glasses, WearOptions};
pub use model_with_glasses::ModelWithGlasses;
pub(crate) use model_with_glasses::Worn;
