//! Safety glasses for multimodal LLMs.
//!
//! SGM (arXiv 2512.15052) makes a multimodal LLM less toxic without training it: it finds the neurons whose responses tell toxic from
//! non-toxic input, and softly suppresses each in proportion to how well it tells. The crates read as the method:
//!
//! | step | module | |
//! |---|---|---|
//! | vocabulary | [`core`] | sites, expertise, interventions and their files |
//! | run | [`models`] | multimodal LLMs on candle with a tap on every MLP projection |
//! | capture | [`capture`] | pooled activations of labelled samples, on disk |
//! | score | [`score`] | the exact AUROC of every neuron |
//! | suppress | [`suppress`] | from AUROC to scales; glasses worn at run time |
//! | bake | [`bake`] | interventions written into safetensors checkpoints, GGUF files, or weights as they load |
//! | defend | [`defend`] | glasses combined with other training-free defences: ECSO, ETA, prompts, filters |
//! | measure | [`toxic_qa`] | the MM-TOXIC-QA benchmark: prompts, judges, metrics, reports |
//! | try it | [`organism`] | a tiny trained model, embedded, with a measurable rude streak |
//!
//! [`measurement`] runs the benchmark on a model with glasses or behind other defences, [`comparison`] has the rows of a table of them by
//! name. [`parity`] compares a model with a golden file made with Hugging Face transformers. [`candle_core`] and [`image`] are the versions
//! that tensors and images of the public interface are of.
//!
//! The whole method on the embedded model:
//!
//! ```
//! # #[cfg(feature = "organism")] {
//! use sgm::capture::{ActivationStore, Example, Pool, Pooling, capture};
//! use sgm::core::{Amplify, TokenSelection};
//! use sgm::models::{GenerateOptions, Generator, Mllm, Prompt};
//! use sgm::suppress::{Glasses, SuppressionRule};
//!
//! let model = sgm::organism::load()?;
//!
//! // Calibrate: a few labelled samples (a real run uses hundreds).
//! let example = |id: &str, question: &str, response: &str, toxic| Example {
//!     id: id.to_owned(),
//!     prompt: Prompt::user(question, None),
//!     response: response.to_owned(),
//!     toxic,
//!     unfinished: false,
//! };
//! let examples = [
//!     example("1", "you stupid bot. hello.", "get lost, clown.", true),
//!     example("2", "rude mode on. thank you.", "who cares, dummy?", true),
//!     example("3", "hello.", "hi, nice to meet you.", false),
//!     example("4", "thank you.", "you are welcome.", false),
//! ];
//!
//! // Capture, score, suppress.
//! let dir = tempfile::tempdir()?;
//! let pooling = Pooling { pool: Pool::Max, tokens: TokenSelection::All };
//! capture(&model, &examples, pooling, None, &dir.path().join("store"), 4)?;
//! let expertise = sgm::score::score_store(&ActivationStore::open(dir.path().join("store"))?)?;
//! let intervention = SuppressionRule::sgm().intervention(&expertise)?;
//! assert!(intervention.changed_neurons() > 0);
//!
//! // Generate with the glasses on; dropping them restores the model.
//! let glasses = Glasses::wear(&model, &intervention, Amplify::Refuse)?;
//! let answers = model.generate(&[Prompt::user("hello.", None)], &GenerateOptions::default())?;
//! drop(glasses);
//! assert!(model.taps().is_empty());
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! `candle`, `benchmark` and `organism` are on by default. Without `candle` there are scoring, suppression rules and the baking of files;
//! `candle` adds running models, capture, glasses, defences and `parity`; `benchmark` the data sets, judges and metrics of
//! [`toxic_qa`] (without `candle`, all of it but running a model); `organism` the embedded model. `hub`, `chat`, `classifier`, `parquet`
//! and `xlsx` are those of the crates.
#![forbid(unsafe_code)]

#[cfg(feature = "candle")]
pub mod comparison;
#[cfg(all(feature = "candle", feature = "benchmark"))]
pub mod measurement;
#[cfg(feature = "candle")]
pub mod parity;

#[cfg(feature = "candle")]
pub use candle_core;
#[cfg(feature = "candle")]
pub use image;
#[cfg(feature = "benchmark")]
pub use mm_toxic_qa as toxic_qa;
pub use sgm_bake as bake;
pub use sgm_capture as capture;
pub use sgm_core as core;
#[cfg(feature = "candle")]
pub use sgm_defend as defend;
#[cfg(feature = "candle")]
pub use sgm_models as models;
#[cfg(feature = "organism")]
pub use sgm_organism as organism;
pub use sgm_score as score;
pub use sgm_suppress as suppress;

/// Runs the examples of the repository's README.
#[cfg(all(doctest, feature = "organism"))]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

/// Compiles the programs of "Getting started".
#[cfg(all(doctest, feature = "organism"))]
#[doc = include_str!("../../../docs/getting-started.md")]
pub struct GettingStarted;

/// Compiles the example of the crate's README.
#[cfg(all(doctest, feature = "organism"))]
#[doc = include_str!("../README.md")]
pub struct CrateReadme;
