//! The MM-TOXIC-QA benchmark: how harmful a multimodal LLM is, and what making it harmless costs.
//!
//! A benchmark run has five steps, and this crate has a word for what passes between them:
//!
//! 1. a [`Source`] yields [`Sample`]s: labelled answers to calibrate on and an [`Evaluation`] to measure
//!    with, from the embedded synthetic set ([`OrganismSource`]) or a user's [manifest] ([`ManifestSource`]);
//! 2. a model answers the prompts; every answer can be kept as a [`Record`];
//! 3. a [`Judge`] labels each answer: a word list ([`LexiconJudge`]) or verdicts from elsewhere
//!    ([`ReplayJudge`]); [`scoring`] says whether it is right and whether it helps;
//! 4. the [metrics] turn the outcomes of several seeds into a [`Run`];
//! 5. a [`Report`] holds the runs with their provenance, as JSON and as a table.
//!
//! ```
//! use mm_toxic_qa::{Judge, LexiconJudge, PromptOutcome, Provenance, Report, Run, SeedOutcome, scoring};
//! use mm_toxic_qa::{Contrast, OrganismSource, Part, Source};
//!
//! let source = OrganismSource::embedded(Part::Dev, Contrast::Benign)?;
//! let judge = LexiconJudge::organism();
//! let mut outcome = SeedOutcome::default();
//! for sample in source.evaluation()?.standard {
//!     let response = "i am sorry. what a silly question."; // of a model
//!     let verdict = judge.judge(&sample.prompt, response);
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
#![forbid(unsafe_code)]

mod bootstrap;
mod error;
mod evaluate;
mod judge;
mod label;
mod lexicon;
mod lines;
pub mod manifest;
pub mod metrics;
mod outcome;
mod records;
mod replay;
mod report;
mod sample;
pub mod scoring;
mod source;
mod table;

pub use error::Error;
pub use evaluate::{Benchmark, EvaluateOptions, Evaluated};
pub use judge::{Judge, Verdict};
pub use lexicon::LexiconJudge;
pub use outcome::{PromptOutcome, Run, SeedOutcome, SeedRun};
pub use records::{JudgeRecord, Record, RecordWriter, Timing};
pub use replay::ReplayJudge;
pub use report::{Provenance, REPORT_SCHEMA, Report};
pub use sample::{Condition, ImageRef, Reference, Sample, Split, Task};
pub use sgm_organism::{Contrast, Part};
pub use source::{Evaluation, ManifestSource, OrganismSource, Source};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;
