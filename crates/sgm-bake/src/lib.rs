//! Interventions folded into weights: the model itself wears the glasses.
//!
//! Neurons are output channels of linear layers, so scaling them is exact in the weights:
//! `diag(s)(Wx + b) = (diag(s)W)x + sb`. A folded model needs nothing at run time, least of all this software: it is a
//! checkpoint like any other, for transformers, vLLM, llama.cpp or whatever reads the format.
//!
//! # Into a checkpoint
//!
//! [`bake`] copies a model and scales the rows of its MLP projections on the way:
//!
//! ```
//! use sgm_bake::{Amplify, bake};
//! use sgm_core::{Intervention, Metadata, Projection, Site, SiteIntervention};
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
//! **Directories** in the Hugging Face layout: every safetensors file at the top is baked (one, shards with their index, or both),
//! everything else is copied. Types are F32, F16 and BF16; products are computed in f32 and rounded once. Gate and up
//! in one matrix `gate_up_proj` are understood. A shift goes into the bias, where there is one.
//!
//! **GGUF files**, versions 2 and 3: a row of a quantised tensor is scaled by scaling the scales of its blocks, so that the
//! quantised integers stay as they are; that is exact but for the rounding of those scales to f16, and closer than quantising
//! the scaled weights anew. Types are Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, Q8_K, IQ4_NL, IQ4_XS, F16, BF16 and F32. The same neuron of all experts
//! of a layer is one neuron, with one scale. A LLaVA is two files, of which the language model's is the one to bake.
//!
//! In both, what does not change is copied byte by byte, header and all; files of any size are streamed through a buffer of a
//! megabyte; and the result appears under its name complete or not at all, with a [`Record`] of what was done:
//! `sgm_bake.json`, or `<file>.sgm_bake.json` beside a GGUF file. How closely each tensor holds its scaled weights is in there too:
//! f16 scales that become subnormal, as those of Q4_K to Q6_K do at scales of a few percent, lose digits.
//!
//! **Patch neurons** ([`sgm_core::PatchNeuron`]) make MLPs wider: rows come into `gate_proj` and `up_proj`, columns into `down_proj`, zeros into layers that
//! get fewer neurons than others, and the new width into `config.json` or the metadata of a GGUF file. The rest stays, but for its place.
//! New weights are rounded to the type of their tensor; the block types of GGUF files need the feature `candle` for it.
//!
//! An intervention that amplifies a neuron is refused unless asked for ([`Amplify`]); one with a site that the checkpoint does not have, or
//! only for some token positions, always.
//!
//! # Into weights as candle loads them
//!
//! With the feature `candle`, `ScaledBackend` scales rows as they load, which puts an
//! intervention on any model that is built from a `VarBuilder`:
//!
//! ```
//! # #[cfg(feature = "candle")] {
//! use candle_core::{DType, Device, Tensor};
//! use sgm_bake::{Amplify, ScaledBackend};
//! use sgm_core::{Intervention, Metadata, Projection, Site, SiteIntervention};
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

mod block;
mod directory;
mod edit;
mod encode;
mod error;
mod fold;
mod gguf_file;
mod gguf_header;
mod gguf_problem;
mod json_text;
mod model_config;
mod record;
mod rewrite;
mod safetensors_header;
#[cfg(feature = "candle")]
mod scaled_backend;
mod site_tensors;
mod widening;

use std::io::{Read, Write};
use std::path::Path;

use sgm_core::Intervention;

pub use error::Error;
pub use gguf_problem::GgufProblem;
pub use record::{FileRecord, InterventionRecord, Record, TensorRecord, WideningRecord, content_sha256};
#[cfg(feature = "candle")]
pub use scaled_backend::{Folded, ScaledBackend};
pub use sgm_suppress::Amplify;
pub use site_tensors::SiteTensors;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Bakes an intervention into a copy of a model: a directory in the Hugging Face layout, or a GGUF file.
///
/// The copy goes to `out`, which must not exist, with its record. Hidden directories of the model (`.git`, `.cache`) are left behind, and links
/// to files are followed. A probe that switches the intervention on cannot be baked: the baked model wears it always, which is logged as a warning.
///
/// # Errors
///
/// Any error of this crate but [`Error::Unused`]; nothing is left under the name `out` then, and the model is
/// untouched. The first ones are those of the intervention: [`Error::Amplifies`], [`Error::Positions`], and
/// [`Error::Core`] when the checkpoint has no such site or another width.
pub fn bake(model: &Path, intervention: &Intervention, amplify: Amplify, out: &Path) -> Result<Record> {
    bake_with(model, intervention, Options { amplify, ..Options::default() }, out)
}

/// How to bake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether scales above 1 or below 0 are allowed.
    pub amplify: Amplify,
    /// Up to what number MLPs that get neurons stay as divisible as they were, 64 by default: a width of 11,008 = 64 * 172 becomes a
    /// multiple of 64 again, one of 100 a multiple of 4. Tensor parallelism and block types want it so. At 1 no zeros are added that need not
    /// be.
    pub alignment: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { amplify: Amplify::Refuse, alignment: 64 }
    }
}

/// As [`bake`], with options.
///
/// # Errors
///
/// As [`bake`].
pub fn bake_with(model: &Path, intervention: &Intervention, options: Options, out: &Path) -> Result<Record> {
    if intervention.probe.is_some() {
        tracing::warn!(model = %model.display(), "a probe cannot be baked: the baked model will wear the intervention always");
    }
    let kind = std::fs::metadata(model).map_err(|source| Error::Io { path: model.to_owned(), action: "find", source })?;
    if kind.is_dir() {
        directory::bake_directory(model, intervention, options, out)
    } else if kind.is_file() {
        gguf_file::bake_gguf(model, intervention, options, out)
    } else {
        Err(Error::NotAFile { path: model.to_owned() })
    }
}

impl SiteTensors {
    /// Bakes an intervention into this one file, from one stream to another.
    ///
    /// `source` is the file from its beginning. What comes out is as long, and differs only in rows that are scaled, unless the intervention adds
    /// neurons; the model's configuration beside a safetensors file has to say of these what [`bake`] writes there.
    ///
    /// # Errors
    ///
    /// As [`bake`]; the sink has been written to in part then.
    pub fn bake(&self, intervention: &Intervention, amplify: Amplify, source: impl Read, sink: impl Write) -> Result<Vec<TensorRecord>> {
        fold::check(intervention, amplify)?;
        let plan = fold::plan(std::slice::from_ref(self), intervention, Options::default().alignment)?;
        let edits = plan.edits.first().map_or(&[][..], Vec::as_slice);
        let rewritten = rewrite::rewrite((&self.path, source, self.length), (&self.path, sink), edits)?;
        Ok(TensorRecord::all(&self.path.display().to_string(), edits, &rewritten))
    }
}
