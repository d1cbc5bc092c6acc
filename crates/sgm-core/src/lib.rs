//! The vocabulary of SGM.
//!
//! SGM finds the neurons of a multimodal LLM that detect toxic input and scales each of them down in proportion to its accuracy as a
//! detector. This crate defines the types of that method and their files; it needs no tensor library:
//!
//! * a [`Site`] is one MLP projection of one decoder layer; its output channels are the *neurons*;
//! * an [`Expertise`] gives every neuron of every site its AUROC as a detector of toxic input;
//! * an [`Intervention`] gives every neuron of every site a scale (and, optionally, a shift);
//! * a [`Metadata`] records the origin of either.
//!
//! ```
//! use sgm_core::{Intervention, Metadata, Projection, Site, SiteIntervention};
//!
//! let site = Site::new(3, Projection::Up);
//! assert_eq!(site.to_string(), "lm.layers.3.mlp.up_proj");
//! assert_eq!("lm.layers.3.mlp.up_proj".parse::<Site>().unwrap(), site);
//! assert_eq!(Site::from_checkpoint_name("language_model.model.layers.3.mlp.up_proj.weight"), Some(site));
//!
//! let mut glasses = Intervention::new(Metadata::default());
//! glasses.insert(site, SiteIntervention::from_scale(vec![1.0, 0.25, 0.0]))?;
//! let file = tempfile::tempdir().unwrap();
//! let path = file.path().join("glasses.sgm.safetensors");
//! glasses.save(&path)?;
//! assert_eq!(Intervention::load(&path)?, glasses);
//! # Ok::<(), sgm_core::Error>(())
//! ```
//!
//! Both files are plain safetensors with string metadata, so Python reads them without this crate. Equal contents give equal bytes.
//!
//! Interventions can be made weaker or stronger, uniformly or by a [`Schedule`] over layers; restricted to some sites; composed, with a
//! report of [`Conflicts`]; compared; described. [`gguf`] reads the headers of GGUF files, [`sha256`] computes digests.
//!
//! ```
//! use sgm_core::{Intervention, Projection, Site, SiteIntervention};
//!
//! let site = Site::new(3, Projection::Up);
//! let mut glasses = Intervention::default();
//! glasses.insert(site, SiteIntervention::from_scale(vec![1.0, 0.5, 0.0]))?;
//! let half = glasses.with_strength(0.5)?;
//! assert_eq!(half.sites()[&site].scale, [1.0, 0.75, 0.5]);
//! let both = Intervention::compose(&[&glasses, &half])?;
//! assert_eq!(both.intervention.sites()[&site].scale, [1.0, 0.375, 0.0]);
//! assert_eq!(both.conflicts.overlaps(), 2);
//! assert_eq!(glasses.diff(&half)?.sites[&site].changed, 2);
//! assert_eq!(glasses.describe().total.silenced, 1);
//! # Ok::<(), sgm_core::Error>(())
//! ```
#![forbid(unsafe_code)]

mod alias;
mod atomic;
mod bad_sample;
mod card;
mod compose;
mod condition;
mod describe;
mod error;
mod expertise;
pub mod gguf;
#[cfg(feature = "image")]
pub mod image_file;
mod intervention;
mod intervention_file;
mod metadata;
mod patch_neuron;
pub mod quantisation;
pub mod sha256;
mod site;
mod strength;
mod tensor_file;
mod tensor_neurons;
mod token_names;
mod tokens;
pub mod torch_file;
#[cfg(feature = "image")]
mod whole_image;

pub use atomic::{TEMPORARY_PREFIX, create_atomically, write_atomically, write_atomically_with};
pub use bad_sample::{OnBadSample, SkippedSample};
pub use compose::{Composition, Conflicts, Contradiction, Diff, SiteDiff};
pub use condition::{Condition, Probe};
pub use describe::{Description, Summary};
pub use error::{Error, Result};
pub use expertise::{Expertise, SiteExpertise};
pub use intervention::{Amplification, Amplify, Intervention, SiteIntervention};
pub use metadata::{Calibration, Metadata, SHORTCUT_AUROC, shortcut_warning};
pub use patch_neuron::PatchNeuron;
pub use site::{Projection, Site, nearest};
pub use strength::Schedule;
pub use tensor_neurons::TensorNeurons;
pub use tokens::{TokenKind, TokenSelection};

/// Runs the examples of the book's page.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/interventions.md")]
pub struct InterventionsPage;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
