//! Pooled activations of calibration samples, kept in an on-disk store.
//!
//! A model is run over labelled samples; the outputs of every [`Site`](sgm_core::Site) are pooled over
//! tokens to one number per sample and neuron, and kept in an [`ActivationStore`]: a directory of
//! safetensors shards, row-major `[samples, neurons]`, which scoring streams column by column.
//!
//! Which tokens are pooled matters more than it seems: the mean over all tokens of a LLaVA prompt is
//! nine parts image. [`Pooling`] therefore always names its token mask.
//!
//! The store stands alone; the tap that fills it from a running model is behind the feature `candle`.
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
mod capture;
mod error;
mod manifest;
#[cfg(feature = "candle")]
mod pooling;
mod store;

#[cfg(feature = "candle")]
pub use capture::{Example, capture};
pub use error::Error;
pub use manifest::Manifest;
#[cfg(feature = "candle")]
pub use pooling::{Pool, PooledTap, Pooling};
pub use store::{ActivationStore, StoreWriter};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
