//! Multimodal LLMs on candle, with a tap on every MLP projection.
//!
//! SGM reads and scales the outputs of `gate_proj`, `up_proj` and `down_proj` in every layer of a language model. The
//! models of candle keep these private, so this crate has its own decoder, shared by all families, and everything else
//! that a published checkpoint needs to run: vision tower, projector, image processor, tokenizer, chat template,
//! key-value cache, sampling.
//!
//! * [`Checkpoint`] is a model directory in the Hugging Face layout, or a GGUF file; [`AutoMllm`] is the model in it,
//!   of any supported family ([`ARCHITECTURES`]);
//! * [`Mllm`] is the interface of a model: prefill, at once or layer by layer ([`PartialPrefill`]), decoding, logits;
//! * [`Tap`] sees, and may replace, the output of each site, as a tensor or as a slice in place ([`InPlaceHook`]);
//!   [`TapRegistry::attach`] returns a guard, and dropping the guard restores the model. A model without taps does no
//!   extra work;
//! * [`TappedModel`] is a view of a model with taps of its own, so that one model runs with and without them at once;
//! * [`Generator`] answers [`Prompt`]s; every model is a generator, and defences wrap one;
//! * [`response_nll`] gives the likelihood of given responses, and [`backpropagate`] its gradients, for taps that ask
//!   for them ([`with_gradient`]).
//!
//! ```no_run
//! use sgm_models::{AutoMllm, Checkpoint, GenerateOptions, Generator, Prompt, load_image};
//!
//! let model = AutoMllm::load(&Checkpoint::open("llava-1.5-7b-hf")?)?;
//! let image = std::sync::Arc::new(load_image("cat.png")?);
//! let answers = model.generate(&[Prompt::user("What is this?", Some(image))], &GenerateOptions::default())?;
//! # Ok::<(), sgm_models::Error>(())
//! ```
//!
//! Models compute in f32 on the CPU, whatever dtype the checkpoint is stored in. Results do not depend on the number of
//! threads.
//!
//! # Modules
//!
//! The private modules, from the lowest to the highest; a module uses only those above it in this list:
//!
//! * `error`: the error type;
//! * `layers`: building blocks of neural networks, shared by the decoder and the vision towers;
//! * `taps`: the tap trait, the registry of taps, token spans and sequence states;
//! * `checkpoint`: the files of a model: directories, GGUF files, downloads, settings;
//! * `decoder`: the tapped language model with its configuration and cache;
//! * `vision`: vision towers;
//! * `processor`: prompts, chat templates, tokenisation and image processing;
//! * `model`: the interface of a model, and views of it;
//! * `families`: one adapter per model family, and the loading of any family;
//! * `generation`: generation of answers, the likelihood of given responses, and the divergence of two models on them.
//!
//! # Threads
//!
//! candle takes its numbers of threads from the environment. Without `RAYON_NUM_THREADS`, it reads `/proc/cpuinfo` at
//! every matrix product, which slows small models down. `CANDLE_NUM_THREADS=1` suits programs that run many batches,
//! which [`Generator::generate`] and [`response_nll`] do in parallel: candle's own pool for elementwise operations
//! serves one caller at a time. A model that is called from outside of rayon's threads runs on one of them; a caller
//! that decodes token by token avoids this change of threads by running inside of [`rayon::scope`] or a pool's
//! `install`.
#![deny(unsafe_code)]

mod checkpoint;
mod decoder;
mod error;
mod families;
mod generation;
mod layers;
mod model;
mod processor;
mod taps;
mod vision;

pub use checkpoint::model_files::{Checkpoint, Matrices};
pub use checkpoint::model_info::{ModelInfo, SiteInfo};
pub use decoder::cache::Cache;
pub use error::{Error, Result};
pub use families::auto::{ARCHITECTURES, AutoMllm};
pub use generation::divergence::{TokenDivergence, response_divergence};
pub use generation::generate::{FinishReason, Generation, Generator, generate_tokens};
pub use generation::likelihood::{Objective, backpropagate, response_nll};
pub use generation::options::{EosPolicy, GenerateOptions, Sampling};
pub use layers::derivative::with_gradient;
pub use layers::values::{change_values, with_values};
pub use model::mllm::Mllm;
pub use model::partial_prefill::PartialPrefill;
pub use model::shared_prefix::SharedPrefix;
pub use model::tapped_model::TappedModel;
pub use processor::batch::Processor;
pub use processor::chat_template::ChatTemplate;
pub use processor::images::image_processor::ImageProcessor;
pub use processor::images::layout::{ImageLayout, ProcessedImages};
pub use processor::images::resample::ImageBackend;
pub use processor::model_inputs::{ModelInputs, Padding};
pub use processor::prompt::{Content, Message, Prompt, Role};
pub use sgm_core::image_file::{decode_image, load_image};
pub use sgm_core::{TokenKind, TokenSelection};
pub use taps::registry::{TapGuard, TapRegistry};
pub use taps::sequence_state::SequenceState;
pub use taps::tap::{Access, InPlaceHook, MlpInput, Tap};
pub use taps::token_spans::TokenSpans;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
