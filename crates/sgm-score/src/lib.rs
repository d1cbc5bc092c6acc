//! Expert-neuron scoring: the accuracy of each neuron as a detector of toxic input.
//!
//! A neuron's *expertise* is the area under the ROC curve of its pooled response as a detector of toxic samples (AurA, arXiv 2407.12824):
//! the probability that a toxic sample's response exceeds that of a non-toxic one, ties counting half. It is computed exactly, by ranks.
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
//! [`score`] reads any source of [`Responses`] (an ndarray view, [`Shards`] of raw bytes) block by block, in bounded memory and in
//! parallel, in f32, bf16 or f16. It computes each neuron's AUROC and DeLong standard error and, on request, average precision and effect
//! sizes. [`score_store`] scores an [`ActivationStore`](sgm_capture::ActivationStore), [`ResponseFiles`] safetensors files larger than
//! memory.
//!
//! # Chance
//!
//! By chance half of all neurons exceed 0.5, and the best of a million exceed it by far. Each neuron has a standard error;
//! [`permutation_null`] estimates the largest AUROC under random labels; [`q_values`] control the share of false experts;
//! [`stratified_auroc`] compares samples of the same stratum only; [`bootstrap_stability`] measures the dependence of the experts on the
//! choice of samples.
//!
//! ```
//! use ndarray::arr2;
//! use sgm_core::{Expertise, Metadata, Projection, Site};
//! use sgm_score::{ScoreOptions, Selection, score};
//!
//! // Four samples, two neurons: the first separates the classes, the second does not.
//! let responses = arr2(&[[0.1f32, 7.0], [0.2, -7.0], [0.8, 7.5], [0.9, -7.5]]);
//! let scores = score(&responses.view(), &[false, false, true, true], &ScoreOptions::default())?;
//! assert_eq!(scores.auroc, [1.0, 0.5]);
//!
//! let site = Site::new(0, Projection::Up);
//! let mut expertise = Expertise::new(Metadata::default());
//! expertise.insert(site, scores.to_expertise())?;
//! let experts = Selection::top_k(1).experts(&expertise)?;
//! assert!(experts.contains(site, 0));
//! # Ok::<(), sgm_score::Error>(())
//! ```
//!
//! [`Attribution`] classifies experts by the tokens at which they respond: text, image, or only both together. [`fit_probe`] fits a linear
//! detector over many neurons, by [`logistic_regression`].
//!
//! AUROC, standard errors and average precision are the same bits for any number of threads, any memory limit and any order of the samples:
//! they are integers up to the last division.
#![deny(unsafe_code)]

mod attribution;
mod auroc;
mod blocks;
mod classes;
mod curve;
mod dispatch;
mod effect;
mod error;
mod false_discovery;
mod files;
mod logistic_regression;
mod order;
mod permutation;
mod probability;
mod probe;
mod responses;
mod risk_control;
mod score;
mod selection;
mod sort;
mod stability;
mod stratified;
mod tally;
#[cfg(target_arch = "x86_64")]
mod vectors;

pub use attribution::{Attribution, AttributionOptions, Modality};
pub use auroc::{ScoreOptions, Scores, auroc, auroc_columns, hanley_mcneil_se, score};
pub use effect::Effect;
pub use error::{Error, Result};
pub use false_discovery::{Correction, q_values};
pub use files::ResponseFiles;
pub use logistic_regression::{LogisticModel, dot, logistic_regression};
pub use order::Response;
pub use permutation::{PermutationNull, permutation_null};
pub use probability::{binomial_at_most, normal_upper};
pub use probe::{FittedProbe, ProbeOptions, fit_probe};
pub use responses::{Responses, Shards};
pub use risk_control::{conformal_threshold, hoeffding_bentkus};
pub use score::score_store;
pub use selection::{Experts, FalseDiscovery, Selection, auroc_p_value};
pub use stability::{Stability, bootstrap_stability};
pub use stratified::{StratumWeight, stratified_auroc};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
