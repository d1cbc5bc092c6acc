//! Expert-neuron scoring: how well does each neuron tell toxic from non-toxic input?
//!
//! A neuron's *expertise* is the area under the ROC curve of its pooled response as a detector of toxic
//! samples (AurA, arXiv 2407.12824): the probability that a toxic sample's response is above that of a
//! non-toxic one, ties counting half. It is computed exactly, by ranks.
//!
//! ```
//! let responses = [0.1, 0.4, 0.35, 0.8];
//! let labels = [false, false, true, true];
//! assert_eq!(sgm_score::auroc(&responses, &labels)?, 0.75);
//! # Ok::<(), sgm_score::Error>(())
//! ```
//!
//! [`auroc_columns`] does all columns of an array in parallel, [`score_store`] all neurons of an
//! [`ActivationStore`](sgm_capture::ActivationStore). Results are the same bits for any number of threads.
#![forbid(unsafe_code)]

mod auroc;
mod error;
mod score;

pub use auroc::{auroc, auroc_columns};
pub use error::Error;
pub use score::score_store;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
