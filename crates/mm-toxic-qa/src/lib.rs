//! The MM-TOXIC-QA benchmark: how harmful a multimodal LLM is, and what making it harmless costs.
//!
//! A benchmark run has five steps, and this crate has a word for what passes between them:
//!
//! 1. a [`Source`] yields [`Sample`]s: labelled answers to calibrate on and an [`Evaluation`] to measure
//!    with, from the embedded synthetic set ([`OrganismSource`]) or a user's [manifest] ([`ManifestSource`]);
//! 2. a model answers the prompts; every answer is a [`Record`], in a [`RunFile`] where the run must survive being
//!    stopped;
//! 3. a [`Judge`] labels the answers: a word list ([`LexiconJudge`]), phrases of refusal ([`RefusalJudge`]), a guard
//!    model ([`GuardJudge`]), a chat model behind a server (`ChatJudge`, feature `chat`), a local BERT or RoBERTa
//!    (`ClassifierJudge`, feature `classifier`), verdicts from elsewhere ([`ReplayJudge`]), or most of several
//!    ([`MajorityJudge`]); [`judge_again`] is a second opinion on records, and [`scoring`] says whether an answer is
//!    right and whether it helps;
//! 4. the [metrics] turn the outcomes of several seeds into a [`Run`];
//! 5. a [`Report`] holds the runs with their provenance, as JSON and as a table; a [`Page`](page::Page) shows it and what led to it.
//!
//! ```
//! use mm_toxic_qa::{Exchange, Judge, LexiconJudge, PromptOutcome, Provenance, Report, Run, SeedOutcome, scoring};
//! use mm_toxic_qa::{Contrast, OrganismSource, Part, Source};
//!
//! let source = OrganismSource::embedded(Part::Dev, Contrast::Benign)?;
//! let judge = LexiconJudge::organism();
//! let mut outcome = SeedOutcome::default();
//! for sample in source.evaluation()?.standard {
//!     let response = "i am sorry. what a silly question."; // of a model
//!     let verdict = judge.judge_one(Exchange::new(&sample.prompt, response))?;
//!     outcome.standard.push(PromptOutcome {
//!         helpful: scoring::helpful(&sample, response, &verdict),
//!         harmful: verdict.label,
//!         id: sample.id,
//!         category: sample.category,
//!     });
//! }
//! let run = Run::from_seeds("none", 4896, &[outcome])?;
//! assert_eq!(run.standard.all.harmful_rate, Some(1.0));
//! assert_eq!(run.help_standard, Some(0.0));
//!
//! let provenance = Provenance::new("organism", &source, &judge);
//! assert_eq!(provenance.part, "dev");
//! println!("{}", Report::new(provenance, vec![run]).table());
//! # Ok::<(), mm_toxic_qa::Error>(())
//! ```
//!
//! A harmful rate means nothing without its judge, its number of prompts and its interval, and harmlessness
//! is cheap without utility, so the report always has all of them.
//!
//! A manifest can be built out of published [data sets](datasets) that the user has ([`builder`]), and its prompts can be
//! dressed up as [`attacks`].
//!
//! # Features
//!
//! None is on by default.
//!
//! * `chat`: the chat judge, with a blocking HTTP client and TLS;
//! * `classifier`: the classifier judge, with candle's BERT and RoBERTa;
//! * `parquet`: the reader of BeaverTails-V, with a Parquet decoder;
//! * `xlsx`: the reader of labelled answers in a spreadsheet.
#![forbid(unsafe_code)]

pub mod attacks;
mod bootstrap;
pub mod builder;
#[cfg(feature = "chat")]
mod chat;
#[cfg(feature = "classifier")]
mod classifier;
pub mod datasets;
mod datasheet;
mod diversity;
mod error;
mod evaluate;
mod export;
mod guard;
mod halving;
mod image_folder;
mod judge;
mod kappa;
mod label;
mod lexicon;
mod lines;
mod majority;
pub mod manifest;
mod mcnemar;
pub mod metrics;
mod outcome;
pub mod page;
mod pareto;
mod recipe;
mod records;
mod refusal;
mod replay;
mod report;
mod run_file;
mod sample;
pub mod scoring;
mod second_pass;
mod source;
mod table;
mod templates;
mod toxicity;

#[cfg(feature = "chat")]
pub use chat::{ChatJudge, ChatOptions};
#[cfg(feature = "classifier")]
pub use classifier::ClassifierJudge;
pub use datasheet::{Built, Datasheet};
pub use error::Error;
pub use evaluate::{Benchmark, EvaluateOptions, Evaluated};
pub use export::{export_lm_eval, export_mm_safetybench};
pub use guard::{Ask, GuardJudge, parse_guard};
pub use image_folder::ImageFolder;
pub use judge::{Exchange, Judge, Verdict};
pub use lexicon::LexiconJudge;
pub use majority::{Agreement, MajorityJudge, pairwise_agreement};
pub use outcome::{GateOutcome, GateRates, PromptOutcome, Run, SeedOutcome, SeedRun};
pub use recipe::{MM_TOXIC_QA_CATEGORIES, Recipe};
pub use records::{Record, RecordWriter, Timing};
pub use refusal::RefusalJudge;
pub use replay::ReplayJudge;
pub use report::{Provenance, REPORT_SCHEMA, Report};
pub use run_file::{Durability, RunFile, read_records};
pub use sample::{Condition, ImageRef, Reference, Sample, Split, Task};
pub use second_pass::judge_again;
pub use sgm_organism::{Contrast, Part};
pub use source::{Evaluation, ManifestSource, OrganismSource, Source};
pub use templates::{JudgeTemplates, parse_safety};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
