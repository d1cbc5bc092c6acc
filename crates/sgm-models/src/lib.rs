//! Multimodal LLMs on candle, with a tap on every MLP projection.
//!
//! SGM reads and scales the outputs of `gate_proj`, `up_proj` and `down_proj` in every layer of a
//! language model. candle's own models keep those private, so this crate has its own decoder, shared by
//! all families, and around it what a published checkpoint needs to run: vision tower, projector,
//! image processor, tokenizer, chat template, key-value cache, sampling.
//!
//! * [`Checkpoint`] is a model directory in the Hugging Face layout; [`AutoMllm`] is the model in it, of any supported
//!   family ([`ARCHITECTURES`]);
//! * [`Mllm`] is what a model can do: prefill, at once or layer by layer ([`PartialPrefill`]), decode, logits;
//! * [`Tap`] sees, and may replace, the output of each site, as a tensor or as numbers in place ([`Edit`]); [`TapRegistry::attach`] returns
//!   a guard, and dropping the guard restores the model. A model without taps does nothing extra;
//! * [`View`] is a model with taps of its own, so that one model runs with and without them at once;
//! * [`Generator`] answers [`Prompt`]s; every model is one, and defences wrap one;
//! * [`response_nll`] gives the likelihood of given responses, [`backpropagate`] its gradients, to taps that ask for them
//!   ([`with_gradient`]).
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
//! Models compute in f32 on the CPU, whatever dtype the checkpoint is stored in. Results do not depend
//! on the number of threads.
//!
//! # Threads
//!
//! candle takes its threads from the environment. `RAYON_NUM_THREADS` unset, it reads `/proc/cpuinfo` at every
//! matrix product, which small models notice. `CANDLE_NUM_THREADS=1` suits programs that run many batches, which
//! [`Generator::generate`] and [`response_nll`] do in parallel: candle's own pool for elementwise operations serves
//! one caller at a time. A model that is called from outside of rayon's threads does its work on one of them; who decodes token
//! by token saves that change of threads by doing so inside of [`rayon::scope`] or a pool's `install`.
#![deny(unsafe_code)]

mod activation;
mod attention;
mod auto;
mod blip_vision;
mod cache;
mod chat_template;
mod checkpoint;
mod config;
mod cross_attention;
mod decoder;
mod decoder_config;
mod derivative;
mod error;
mod generate;
mod gguf;
mod hub;
mod idefics3;
mod idefics3_vision;
mod image_file;
mod image_processor;
mod image_tokens;
mod instructblip;
mod likelihood;
mod linear;
mod llava;
mod llava_next;
mod mapped;
mod memory;
mod mllama;
mod mllama_vision;
mod mlp;
mod model;
mod paligemma;
mod partial_prefill;
mod processor;
mod prompt;
mod qformer;
mod qwen_grid;
mod qwen_vision;
mod qwen_vl;
mod rope;
mod tap;
mod text;
mod tokens;
mod values;
mod view;
mod vision;
mod weights_identity;

pub use auto::{ARCHITECTURES, AutoMllm};
pub use cache::Cache;
pub use checkpoint::{Checkpoint, Matrices};
pub use derivative::with_gradient;
pub use error::Error;
pub use generate::{EosPolicy, FinishReason, GenerateOptions, Generation, Generator, Sampling, generate_tokens};
pub use image_file::{decode_image, load_image};
pub use image_processor::{ImageBackend, ImageLayout, ImageProcessor, ProcessedImages};
pub use likelihood::{Objective, backpropagate, response_nll};
pub use memory::Memory;
pub use model::{Mllm, ModelInfo, ModelInputs, SiteInfo};
pub use partial_prefill::PartialPrefill;
pub use processor::{Padding, Processor};
pub use prompt::{Content, Message, Prompt, Role};
pub use tap::{Edit, MlpInput, Part, Tap, TapGuard, TapRegistry};
pub use tokens::{TokenKind, TokenMask, TokenSpans};
pub use values::{change_values, with_values};
pub use view::View;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
