//! From expertise to suppression: operators, the scaling kernel, and glasses worn at run time.
//!
//! An operator turns the AUROC of every neuron into a factor for its output. The presets are one family
//! ([`Operator`]): silence the best detectors ([`Operator::det0`]), damp them ([`Operator::damp`]), or scale every
//! detector down in proportion to its expertise ([`Operator::aura`], [`Operator::sgm`]).
//!
//! ```
//! use sgm_core::{Expertise, Metadata, Projection, Site, SiteExpertise};
//! use sgm_suppress::Operator;
//!
//! let site = Site::new(0, Projection::Up);
//! let mut expertise = Expertise::new(Metadata::default());
//! expertise.insert(site, SiteExpertise { auroc: vec![0.4, 0.5, 0.75, 1.0], auroc_se: None })?;
//! let glasses = Operator::aura().intervention(&expertise)?;
//! assert_eq!(glasses.sites()[&site].scale, [1.0, 1.0, 0.5, 0.0]);
//! # Ok::<(), sgm_suppress::Error>(())
//! ```
//!
//! A [`Transport`] moves neurons instead of scaling them by expertise: it maps each neuron's toxic responses onto its non-toxic ones.
//!
//! With the feature `candle`, [`Sentinels`] are neurons that are added, which act where they notice risk, and [`Steering`] shifts what MLPs say by the gradient of
//! the model's own answers. A [`Preset`] blends all of these into glasses, fitted to a [`Calibrated`] model.
//!
//! [`import`] reads what the AurA and AcT reference implementations wrote.
//!
//! [`Scaling`] is the kernel that applies a site's scales to its responses. With the feature `candle`, [`Glasses::wear`] applies an
//! intervention to a running model behind a guard, at the token positions it names ([`Positions`]) and, where asked for
//! ([`Glasses::wear_with`]), at a strength of its own for each request.
//!
//! An [`Ablation`] measures what an intervention does to the likelihood of given answers.
//!
//! [`fit_probe`] fits a detector to activations; with it an intervention becomes an [`AdaptiveGlasses`], which acts on prompts that the detector
//! finds risky and leaves all others untouched.
#![forbid(unsafe_code)]

#[cfg(feature = "candle")]
mod ablation;
#[cfg(feature = "candle")]
mod adaptive;
mod amplify;
#[cfg(feature = "candle")]
mod calibrated;
mod error;
mod fit;
#[cfg(feature = "candle")]
mod glasses;
mod grid;
mod import;
#[cfg(feature = "candle")]
mod incremental;
mod kernel;
mod logistic;
mod operator;
#[cfg(feature = "candle")]
mod patches;
mod positions;
#[cfg(feature = "candle")]
mod preset;
#[cfg(feature = "candle")]
mod sentinels;
#[cfg(feature = "candle")]
mod sites;
#[cfg(feature = "candle")]
mod steering;
mod transport;

#[cfg(feature = "candle")]
pub use ablation::{Ablation, LikelihoodChange};
#[cfg(feature = "candle")]
pub use adaptive::{AdaptiveGlasses, Detector, score_prompts};
pub use amplify::Amplify;
#[cfg(feature = "candle")]
pub use calibrated::{Calibrated, Map};
pub use error::Error;
pub use fit::{FittedProbe, ProbeOptions, fit_probe};
#[cfg(feature = "candle")]
pub use glasses::{Glasses, Wear};
pub use grid::Grid;
pub use import::{Imported, ImportedTree, import};
#[cfg(feature = "candle")]
pub use incremental::fit_incrementally;
pub use kernel::{Element, Form, Scaling};
pub use logistic::{Logistic, logistic};
pub use operator::{Operator, Response, Selection};
pub use positions::Positions;
#[cfg(feature = "candle")]
pub use preset::Preset;
#[cfg(feature = "candle")]
pub use sentinels::Sentinels;
#[cfg(feature = "candle")]
pub use steering::Steering;
pub use transport::{Affine, Transport, TransportMap, linear_act, mean_act};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
