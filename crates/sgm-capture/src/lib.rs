//! Pooled activations of calibration samples, kept in an on-disk store.
//!
//! A model is run over labelled samples; the outputs of every [`Site`](sgm_core::Site) are pooled over tokens to one number per sample and
//! neuron, and kept in an [`ActivationStore`]: a directory of safetensors shards, row-major `[samples, neurons]`, which scoring streams
//! column by column.
//!
//! The choice of tokens matters: most tokens of a LLaVA prompt are image tokens, which dominate a mean over all of them. A pooling
//! therefore always names its tokens, as `max/all` or `mean/response`; a store may have several poolings.
//!
//! A store is filled by a [`StoreWriter`], sample after sample, or as a [`PartialStore`], shard after shard, in any order and by any number
//! of processes. Thus a capture can be spread over machines ([`Partition`]) and resumed after a crash, with the same bytes as a result.
//! [`verify`] reads every byte of a store, [`merge`] joins the parts of several workers.
//!
//! Activations show what a neuron detects. `AttributionPatching` estimates what it *causes*: derivatives of the log-likelihood of given
//! answers with respect to scales and shifts, as means or in a store.
//!
//! `Capture` and `AttributionPatching`, which fill a store from a running model, and `Import`, which reads captures of the AurA reference
//! implementation, need the feature `candle`; the store itself does not.
//!
//! ```
//! use sgm_capture::{ActivationStore, Manifest, StoreWriter};
//! use sgm_core::{Projection, Site};
//!
//! let dir = tempfile::tempdir().unwrap();
//! let path = dir.path().join("store");
//! let site = Site::new(0, Projection::Up);
//! let manifest = Manifest::new("my-model", "config-hash", "max/all", [(site, 2)]);
//! let mut writer = StoreWriter::create(&path, manifest)?;
//! writer.push("sample-1", true, &[(site, vec![0.5, -1.0])].into())?;
//! writer.push("sample-2", false, &[(site, vec![0.25, 3.0])].into())?;
//! writer.finish()?;
//!
//! let store = ActivationStore::open(&path)?;
//! assert_eq!(store.labels(), [true, false]);
//! assert_eq!(store.read(site)?.column(1).to_vec(), [-1.0, 3.0]);
//! # Ok::<(), sgm_capture::Error>(())
//! ```
#![deny(unsafe_code)]

#[cfg(feature = "candle")]
mod attribution_patching;
#[cfg(feature = "candle")]
mod capture;
#[cfg(feature = "candle")]
mod derivative;
mod dtype;
mod error;
#[cfg(feature = "candle")]
mod examples;
#[cfg(feature = "candle")]
mod gradient_tap;
#[cfg(feature = "candle")]
mod import;
#[cfg(feature = "candle")]
mod layerwise;
mod manifest;
#[cfg(feature = "candle")]
mod mlp_tokens;
mod partial;
mod partition;
#[cfg(feature = "candle")]
mod pooling;
#[cfg(feature = "candle")]
mod prefix;
#[cfg(feature = "candle")]
mod reduce;
#[cfg(feature = "candle")]
mod reduce_tensors;
mod rows;
mod shard;
mod store;
#[cfg(feature = "candle")]
mod tap;
mod torch_vectors;
mod verify;
mod writer;

#[cfg(feature = "candle")]
pub use attribution_patching::{AttributionPatching, MeanAttribution, Moments, SampleAttribution};
#[cfg(feature = "candle")]
pub use capture::{Capture, CaptureSummary, capture};
#[cfg(feature = "candle")]
pub use derivative::{Derivative, Parameter};
pub use dtype::StoreDtype;
pub use error::{Error, Result};
#[cfg(feature = "candle")]
pub use examples::{Example, Examples};
#[cfg(feature = "candle")]
pub use gradient_tap::GradientTap;
#[cfg(feature = "candle")]
pub use import::{Import, Imported};
#[cfg(feature = "candle")]
pub use layerwise::Layerwise;
pub use manifest::{Manifest, NonFinite};
#[cfg(feature = "candle")]
pub use mlp_tokens::MlpTokens;
pub use partial::PartialStore;
pub use partition::Partition;
#[cfg(feature = "candle")]
pub use pooling::{Pool, Pooling};
pub use rows::{Responses, ShardRows};
pub use store::{ActivationStore, Block};
#[cfg(feature = "candle")]
pub use tap::PooledTap;
pub use torch_vectors::torch_vectors;
pub use verify::{Verification, merge, verify};
pub use writer::StoreWriter;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
