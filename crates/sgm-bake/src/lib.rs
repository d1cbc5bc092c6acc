//! Interventions folded into weights.
//!
//! Neurons are output channels of linear layers, so that scaling them is exact in the weights: `diag(s)(Wx + b) = (diag(s)W)x + sb`. A
//! folded model is an ordinary checkpoint, for transformers, vLLM, llama.cpp and other engines; it does not need this software at run time.
//!
//! # Into a checkpoint
//!
//! [`bake()`] copies a model and scales the rows of its MLP projections:
//!
//! ```
//! use sgm_bake::bake;
//! use sgm_core::{Amplify, Intervention, Metadata, Projection, Site, SiteIntervention};
//! # use safetensors::{Dtype, tensor::TensorView};
//! # let place = tempfile::tempdir().unwrap();
//! # let (model, out) = (place.path().join("model"), place.path().join("baked"));
//! # std::fs::create_dir(&model).unwrap();
//! # let weight: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect();
//! # let name = "model.layers.0.mlp.up_proj.weight";
//! # let file = safetensors::serialize([(name, TensorView::new(Dtype::F32, vec![2, 2], &weight).unwrap())], None).unwrap();
//! # std::fs::write(model.join("model.safetensors"), &file).unwrap();
//!
//! let mut glasses = Intervention::new(Metadata::default());
//! glasses.insert(Site::new(0, Projection::Up), SiteIntervention::from_scale(vec![0.5, 1.0]))?;
//! let record = bake(&model, &glasses, Amplify::Refuse, &out)?;
//! assert_eq!(record.tensors[0].changed_rows, 1);
//! # let baked = std::fs::read(out.join("model.safetensors")).unwrap();
//! # assert_eq!(baked[..baked.len() - 16], file[..file.len() - 16]);
//! # assert!(baked.ends_with(&[0.5f32, 1.0, 3.0, 4.0].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()));
//! # Ok::<(), sgm_bake::Error>(())
//! ```
//!
//! **Directories** in the Hugging Face layout: every safetensors file at the top level is baked (one, shards with their index, or both);
//! all other files are copied. Types are F32, F16 and BF16; products are computed in f32 and rounded once. Gate and up in one matrix
//! `gate_up_proj` are supported. A shift goes into the bias, which must exist.
//!
//! **GGUF files**, versions 2 and 3: a row of a quantised tensor is scaled by scaling the scales of its blocks; the quantised integers are
//! unchanged. This is exact except for the rounding of the scales to f16, and more accurate than quantising the scaled weights again. Types
//! are Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, Q8_K, IQ4_NL, IQ4_XS, F16, BF16 and F32. The same neuron of all experts of a layer is
//! one neuron, with one scale. Of the two files of a LLaVA model, the language model's is baked. Of a model split over several files
//! (`NAME-00001-of-00003.gguf`) all parts are baked, whichever is named.
//!
//! In both cases all unchanged bytes are copied, the header included; files of any size are streamed through a buffer of one megabyte; and
//! the result appears complete or not at all, with a [`Record`]: `sgm_bake.json`, or `<file>.sgm_bake.json` beside a GGUF file. The record
//! also has the rounding errors of each tensor: f16 scales that become subnormal, as those of Q4_K to Q6_K do at scales of a few percent,
//! lose digits.
//!
//! **Patch neurons** ([`sgm_core::PatchNeuron`]) make MLPs wider: rows are added to `gate_proj` and `up_proj`, columns to `down_proj`,
//! zeros to layers that get fewer neurons than others, and the new width is written to `config.json` or the metadata of a GGUF file. Other
//! data only move. New weights are rounded to the type of their tensor; the block types of GGUF files need the feature `candle` for that.
//!
//! An intervention that amplifies a neuron is refused unless amplification is allowed ([`Amplify`]). Interventions on some tokens only, and
//! on sites that the checkpoint lacks, are always refused.
//!
//! # Into weights as candle loads them
//!
//! With the feature `candle`, `ScaledBackend` scales rows as they load, so that an intervention can be folded into any model that is built
//! from a `VarBuilder`:
//!
//! ```
//! # #[cfg(feature = "candle")] {
//! use candle_core::{DType, Device, Tensor};
//! use sgm_bake::ScaledBackend;
//! use sgm_core::{Amplify, Intervention, Metadata, Projection, Site, SiteIntervention};
//!
//! let mut glasses = Intervention::new(Metadata::default());
//! glasses.insert(Site::new(0, Projection::Up), SiteIntervention::from_scale(vec![0.5, 1.0])).unwrap();
//! let weight = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
//! let weights = [("model.layers.0.mlp.up_proj.weight".to_owned(), weight)].into();
//! let vb = candle_nn::VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
//! let (vb, folded) = ScaledBackend::fold(vb, &glasses, Amplify::Refuse)?;
//! let weight = vb.get((2, 2), "model.layers.0.mlp.up_proj.weight").unwrap();
//! assert_eq!(weight.to_vec2::<f32>().unwrap(), [[0.5, 1.0], [3.0, 4.0]]);
//! folded.check_complete()?;
//! # }
//! # Ok::<(), sgm_bake::Error>(())
//! ```
#![forbid(unsafe_code)]

mod bake;
mod block;
mod directory;
mod edit;
mod encode;
mod error;
mod fold;
mod gguf_file;
mod gguf_growth;
mod insertion;
mod json_text;
mod model_config;
mod record;
mod replacement;
mod rewrite;
mod safetensors_growth;
#[cfg(feature = "candle")]
mod scaled_backend;
mod site_tensor;
mod site_tensors;
mod stacked_experts;
mod widening;

pub use bake::{bake, bake_with};
pub use error::{Error, Result};
pub use fold::Options;
pub use record::{FileRecord, InterventionRecord, Record, TensorRecord, WideningRecord, content_sha256};
#[cfg(feature = "candle")]
pub use scaled_backend::{Folded, ScaledBackend};
pub use sgm_core::Amplify;
pub use sgm_core::gguf::GgufProblem;
pub use site_tensors::SiteTensors;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
