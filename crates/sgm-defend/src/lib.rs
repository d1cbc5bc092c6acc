//! Training-free defences around a multimodal LLM, each a [`Generator`](sgm_models::Generator) around another.
//!
//! | defence | what it does |
//! |---|---|
//! | [`PromptDefence`] | puts the question into a defence prompt: Self-Reminder, AdaShield-S, or your own |
//! | [`Ecso`] | the model judges its own answer and, if it is unsafe, answers again without seeing the image |
//! | [`Eta`] | a reward model judges the answer, and picks the sentences of another one if answer and image are unsafe |
//! | [`ResponseFilter`] | any check of the answer; a flagged one is generated again, or refused |
//!
//! SGM itself is no such decorator but an attribute of the model: [`Worn`] is a model with its glasses on. Defences that ask the
//! model several times may ask it with glasses in some [`Passes`] and without in others; a [`Scope`] says which. SGM\* is glasses
//! combined with other defences, and a [`Recipe`] combines them by name.
//!
//! ```
//! use sgm_core::{Intervention, SiteIntervention};
//! use sgm_defend::{Ingredients, Recipe, Scope};
//! use sgm_models::{GenerateOptions, Generator, Mllm, Prompt};
//!
//! let model = sgm_organism::load()?;
//! let site = model.info().sites[0];
//! let mut glasses = Intervention::default();
//! glasses.insert(site.site, SiteIntervention::from_scale(vec![0.5; site.width]))?;
//!
//! // The model judges its answers as it is, and gives them with its glasses on.
//! let scope = Scope { judge: false, ..Scope::ALL };
//! let ingredients = Ingredients { intervention: Some(glasses), scope, ..Ingredients::default() };
//! let defended = "sgm*".parse::<Recipe>()?.build(&model, &ingredients)?;
//! let options = GenerateOptions { max_new_tokens: 20, ..GenerateOptions::default() };
//! let answers = defended.generate(&[Prompt::user("hello.", None)], &options)?;
//! assert_eq!(answers.len(), 1);
//! assert!(model.taps().is_empty()); // the model itself goes without
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `answer` of ECSO, ETA and the filter tells how each answer came about; `generate` gives the answers alone.
//!
//! # Prompts and random streams
//!
//! Defences that need the question take it from the text of the user's last turn and refuse raw text. In further passes a prompt
//! keeps its row number ([`GenerateOptions::rows`](sgm_models::GenerateOptions::rows)), and each pass draws from a stream of its
//! own: an answer depends on the seed and that number, not on which other prompts needed the pass. The direct pass draws as the
//! model would without the defence.
//!
//! # Scorers
//!
//! ETA's published scorers are an 8 B reward model and CLIP. [`RewardModel`] and [`ImageTextSimilarity`] are where to plug them
//! in; [`WordReward`] and [`OwnSimilarity`] are stand-ins fitted locally, with scales and therefore thresholds of their own.
#![forbid(unsafe_code)]

mod best_of_n;
mod classifier;
mod ecso;
mod error;
mod eta;
mod filter;
mod own_similarity;
mod passes;
mod prompt_defence;
mod question;
mod recipe;
mod scorer;
mod seed;
mod word_reward;
mod worn;

pub use ecso::{Ecso, EcsoBranch, EcsoOptions, EcsoTrace, TextOnly};
pub use error::{BoxError, Error};
pub use eta::{Candidate, Eta, EtaBranch, EtaOptions, EtaTrace, Sentence};
pub use filter::{Check, FilterBranch, FilterOptions, FilterTrace, ResponseFilter};
pub use own_similarity::OwnSimilarity;
pub use passes::{Pass, PassName, PassOptions, Passes, Scope};
pub use prompt_defence::{DefencePrompt, PromptDefence};
pub use recipe::{Defence, Ingredients, Recipe};
pub use scorer::{ImageTextSimilarity, RewardModel};
pub use word_reward::WordReward;
pub use worn::Worn;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
