//! Suppression of neurons: rules, the scaling kernel, glasses for running models, and their fitting.
//!
//! A [`SuppressionRule`] turns the AUROC of every neuron into a scale of its output. The presets silence the best detectors
//! ([`SuppressionRule::det0`]), multiply them by a factor ([`SuppressionRule::damp`]), or scale each detector down in proportion to its
//! expertise ([`SuppressionRule::aura`], [`SuppressionRule::sgm`]).
//!
//! ```
//! use sgm_core::{Expertise, Metadata, Projection, Site, SiteExpertise};
//! use sgm_suppress::SuppressionRule;
//!
//! let site = Site::new(0, Projection::Up);
//! let mut expertise = Expertise::new(Metadata::default());
//! expertise.insert(site, SiteExpertise { auroc: vec![0.4, 0.5, 0.75, 1.0], auroc_se: None })?;
//! let glasses = SuppressionRule::aura().intervention(&expertise)?;
//! assert_eq!(glasses.sites()[&site].scale, [1.0, 1.0, 0.5, 0.0]);
//! # Ok::<(), sgm_suppress::Error>(())
//! ```
//!
//! A [`Transport`] maps each neuron's toxic responses onto its non-toxic ones. [`import`] reads the files of the AurA and AcT reference
//! implementations. [`Scaling`] applies a site's scales and shifts to its responses.
//!
//! # Running models
//!
//! The feature `candle` adds glasses for running models, and their fitting:
//!
//! * [`Glasses::wear`] applies an intervention at its selected tokens until it is dropped, and [`Glasses::wear_with`] at a separate
//!   strength for each request; [`ConditionalGlasses`] check the intervention's condition first and leave all other sequences unchanged;
//! * a [`ModelWithGlasses`] wears either kind, while the model itself goes without;
//! * a [`Preset`] combines components that a [`Calibrator`] fits: suppression rules, transports fitted [at once](Transport::intervention)
//!   or [layer by layer](fit_incrementally), [`CausalExperts`], [`CausalSteering`] and [`ConditionalPatches`];
//! * a [`Budget`] limits what glasses may change in a model; [`Calibrator::within`] finds the largest strength within it;
//! * [`Ablation`] measures the effect of an intervention on the likelihood of given answers.
#![forbid(unsafe_code)]

mod error;
#[cfg(feature = "candle")]
mod fitting;
mod kernel;
mod rules;
#[cfg(feature = "candle")]
mod runtime;

pub use error::{Error, Result};
#[cfg(feature = "candle")]
pub use fitting::{
    Ablation, Budget, Calibrator, CausalEffect, CausalEffects, CausalExperts, CausalSteering, Component, ConditionalPatches, Dose,
    DosePoint, DoseSearch, LikelihoodChange, Preset, Spent, StrengthWithin, fit_incrementally,
};
pub use kernel::{Element, ScaleLayout, Scaling};
pub use rules::{
    Affine, ExpertScale, Grid, Imported, ImportedTree, SuppressionRule, Transport, TransportMap, import, linear_act, mean_act,
};
#[cfg(feature = "candle")]
pub use runtime::{ConditionalGlasses, Detector, Glasses, ModelWithGlasses, WearOptions, score_prompts};
pub use sgm_core::Amplify;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
