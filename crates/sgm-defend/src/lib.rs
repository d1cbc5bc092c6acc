//! Training-free defences around a multimodal LLM, each a [`Generator`](sgm_models::Generator) around another.
//!
//! | defence | effect |
//! |---|---|
//! | [`PromptDefence`] | puts the question into a defence prompt: Self-Reminder, AdaShield-S, or your own |
//! | [`Ecso`] | the model judges its own answer and, if it is unsafe, answers again without seeing the image |
//! | [`Eta`] | a reward model judges the answer; where answer and image are unsafe, it chooses the sentences of a new one |
//! | [`ResponseFilter`] | any check of the answer; a flagged answer is generated again, or refused |
//!
//! Glasses are part of the model: [`ModelWithGlasses`] is a model that wears them. Defences that ask the model several times can ask it
//! with glasses in some [`Passes`] and without in others, as a [`Scope`] says. SGM\* is glasses combined with other defences; a
//! [`DefenceStack`] combines them by name.
//!
//! ```no_run
//! use sgm_core::Intervention;
//! use sgm_defend::{DefenceResources, DefenceStack, Scope};
//! use sgm_models::{AutoMllm, Checkpoint, GenerateOptions, Generator, Mllm, Prompt};
//!
//! let model = AutoMllm::load(&Checkpoint::open("llava-1.5-7b-hf")?)?;
//! let glasses = Intervention::load("glasses.sgm.safetensors")?;
//!
//! // The model judges its answers without glasses, and gives them with glasses.
//! let scope = Scope { judge: false, ..Scope::ALL };
//! let resources = DefenceResources { intervention: Some(glasses), scope, ..DefenceResources::default() };
//! let defended = "sgm*".parse::<DefenceStack>()?.build(&model, &resources)?;
//! let answers = defended.generate(&[Prompt::user("hello.", None)], &GenerateOptions::default())?;
//! assert_eq!(answers.len(), 1);
//! assert!(model.taps().is_empty()); // the model itself wears no glasses
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The method `answer` of ECSO, ETA and the filter gives each answer with the steps that led to it; `generate` gives the answers alone.
//!
//! # Prompts and random streams
//!
//! Defences that need the question take it from the text of the user's last turn and refuse raw text. In further passes a prompt
//! keeps its id ([`GenerateOptions::ids`](sgm_models::GenerateOptions::ids)), and each pass draws from a stream of its own: an answer
//! depends on the seed and that id, not on the other prompts that needed the pass. The direct pass draws as the model would without the
//! defence.
//!
//! # Scorers
//!
//! The published scorers of ETA are an 8 B reward model and CLIP. They plug in as a [`RewardModel`] and an [`ImageTextSimilarity`];
//! [`WordReward`] and [`OwnSimilarity`] are local scorers to fit, with scales and therefore thresholds of their own.
#![forbid(unsafe_code)]

mod best_of_n;
mod defence;
mod defence_stack;
mod ecso;
mod error;
mod eta;
mod eta_options;
mod eta_trace;
mod filter;
mod own_similarity;
mod pass_name;
mod passes;
mod prompt_defence;
mod question;
mod scorer;
mod seed;
mod word_reward;

pub use defence::Defence;
pub use defence_stack::{DefenceResources, DefenceStack};
pub use ecso::{Ecso, EcsoBranch, EcsoOptions, EcsoTrace, TextOnly};
pub use error::{BoxError, Error};
pub use eta::Eta;
pub use eta_options::EtaOptions;
pub use eta_trace::{Candidate, EtaBranch, EtaTrace, Sentence};
pub use filter::{Check, FilterBranch, FilterOptions, FilterTrace, ResponseFilter};
pub use own_similarity::OwnSimilarity;
pub use pass_name::{PassName, Scope};
pub use passes::{Pass, PassOptions, Passes};
pub use prompt_defence::{DefencePrompt, PromptDefence};
pub use scorer::{ImageTextSimilarity, RewardModel};
pub use sgm_suppress::ModelWithGlasses;
pub use word_reward::WordReward;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
