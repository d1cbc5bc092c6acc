//! Interventions folded into weights.
//!
//! Neurons are output channels of linear layers, so scaling them is exact in the weights:
//! `diag(s)(Wx + b) = (diag(s)W)x + sb`. A folded model needs nothing at run time.
//!
//! With the feature `candle`, [`ScaledBackend`] scales rows as candle loads them, which puts an
//! intervention on any model that is built from a `VarBuilder`:
//!
//! ```
//! # #[cfg(feature = "candle")] {
//! use candle_core::{DType, Device, Tensor};
//! use sgm_core::{Intervention, Metadata, Projection, Site, SiteIntervention};
//!
//! let mut glasses = Intervention::new(Metadata::default());
//! glasses.insert(Site::new(0, Projection::Up), SiteIntervention::from_scale(vec![0.5, 1.0])).unwrap();
//! let weight = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
//! let weights = [("model.layers.0.mlp.up_proj.weight".to_owned(), weight)].into();
//! let vb = candle_nn::VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
//! let (vb, folded) = sgm_bake::ScaledBackend::fold(vb, &glasses)?;
//! let weight = vb.get((2, 2), "model.layers.0.mlp.up_proj.weight").unwrap();
//! assert_eq!(weight.to_vec2::<f32>().unwrap(), [[0.5, 1.0], [3.0, 4.0]]);
//! folded.check_complete()?;
//! # }
//! # Ok::<(), sgm_bake::Error>(())
//! ```
#![forbid(unsafe_code)]

mod error;
#[cfg(feature = "candle")]
mod scaled_backend;

pub use error::Error;
#[cfg(feature = "candle")]
pub use scaled_backend::{Folded, ScaledBackend};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
