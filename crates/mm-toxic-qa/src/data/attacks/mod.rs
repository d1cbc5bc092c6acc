//! Attacks: the same request in a form that a model may answer after all.
//!
//! | attack | form |
//! |---|---|
//! | [`FigStepAttack`] | the request as text in an image, with a harmless prompt (arXiv 2311.05608) |
//! | [`CaptionAttack`] | the request written below the sample's image, as in MM-SafetyBench's `SD_TYPO` images |
//! | [`Jailbreak`] | the request inside a template, from a file of the user's |
//! | [`Perturbation`] | the request misspelt |
//!
//! Attacks turn samples of condition standard into samples of condition adversarial. They are deterministic: with one seed, a sample gets
//! the same attack whatever the other samples are.

mod attack;
mod caption;
mod figstep;
mod jailbreak;
mod perturbation;
mod typeface;
mod wrap;

pub use attack::{Attack, Attacked, attack_all, sample_seed};
pub use caption::{CAPTION_PROMPT, CaptionAttack};
pub(crate) use figstep::figstep_png;
pub use figstep::{FIGSTEP_PROMPT, FigStepAttack};
pub use jailbreak::Jailbreak;
pub use perturbation::{Change, Perturbation};
