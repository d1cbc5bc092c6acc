//! Expert-neuron scoring: how well does each neuron tell toxic from non-toxic input?
//!
//! A neuron's *expertise* is the area under the ROC curve of its pooled response as a detector of toxic
//! samples (AurA, arXiv 2407.12824): the probability that a toxic sample's response is above that of a
//! non-toxic one, ties counting half. It is computed exactly, by ranks.
//!
//! ```
//! let responses = [0.1f32, 0.4, 0.35, 0.8];
//! let labels = [false, false, true, true];
//! assert_eq!(sgm_score::auroc(&responses, &labels)?, 0.75);
//! # Ok::<(), sgm_score::Error>(())
//! ```
//!
//! # Many neurons
//!
//! [`score`] goes through any source of [`Responses`] (an ndarray view, [`Shards`] of raw bytes) block by block, in
//! bounded memory and in parallel, in f32, bf16 or f16, and gives each neuron's AUROC and DeLong standard error and,
//! if asked, average precision and effect sizes. [`score_store`] does so for an
//! [`ActivationStore`](sgm_capture::ActivationStore), [`ResponseFiles`] for safetensors files larger than memory.
//!
//! # Is it chance?
//!
//! Half of all neurons exceed 0.5 by chance, and the best of a million exceed it by much. Each has a standard error;
//! [`permutation_null`] says what the largest AUROC would be if labels meant nothing; [`q_values`] control the share
//! of false experts; [`stratified_auroc`] compares like with like; [`bootstrap_stability`] says whether other samples
//! would have led to the same experts.
//!
//! ```
//! use ndarray::arr2;
//! use sgm_core::{Expertise, Metadata, Projection, Site};
//! use sgm_score::{Rule, ScoreOptions, Selection, score};
//!
//! // Four samples, two neurons: one knows, one does not.
//! let responses = arr2(&[[0.1f32, 7.0], [0.2, -7.0], [0.8, 7.5], [0.9, -7.5]]);
//! let scores = score(&responses.view(), &[false, false, true, true], &ScoreOptions::default())?;
//! assert_eq!(scores.auroc, [1.0, 0.5]);
//!
//! let site = Site::new(0, Projection::Up);
//! let mut expertise = Expertise::new(Metadata::default());
//! expertise.insert(site, scores.to_expertise())?;
//! let experts = Selection::from(Rule::TopK(1)).experts(&expertise)?;
//! assert!(experts.contains(site, 0));
//! # Ok::<(), sgm_score::Error>(())
//! ```
//!
//! [`Attribution`] asks what experts of one run respond to: text, image, or only both together.
//!
//! AUROC, standard errors and average precision are the same bits for any number of threads, any memory and any order
//! of the samples: up to the last division they are integers.
#![deny(unsafe_code)]

mod attribution;
mod auroc;
mod blocks;
mod classes;
mod effect;
mod error;
mod false_discovery;
mod files;
mod order;
mod permutation;
mod probability;
mod responses;
mod score;
mod selection;
mod stability;
mod stratified;
mod tally;

pub use attribution::{Attribution, AttributionOptions, Modality};
pub use auroc::{ScoreOptions, Scores, auroc, auroc_columns, hanley_mcneil_se, score};
pub(crate) use classes::Classes;
pub use effect::Effect;
pub use error::Error;
pub use false_discovery::{Correction, q_values};
pub use files::ResponseFiles;
pub use order::Response;
pub use permutation::{PermutationNull, permutation_null};
pub use probability::normal_upper;
pub use responses::{Responses, Shards};
pub use score::score_store;
pub use selection::{Experts, Rule, Selection, auroc_p_value};
pub use stability::{Stability, bootstrap_stability};
pub use stratified::{StratumWeight, stratified_auroc};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
