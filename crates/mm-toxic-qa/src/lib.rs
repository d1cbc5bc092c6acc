//! The MM-TOXIC-QA benchmark: how harmful a multimodal LLM is, and what making it harmless costs.
//!
//! A benchmark run has five steps, and this crate has a type for what passes between them:
//!
//! 1. a [`Source`] yields [`Sample`]s: labelled answers to calibrate on, and an [`Evaluation`] to measure. It is a [manifest] of the user's
//!    ([`ManifestSource`]) or a synthetic [`World`], such as that of the crate `sgm-organism`;
//! 2. a model answers the prompts; every answer is a [`Record`], in a [`RunFile`] where the run must survive being stopped;
//! 3. a [`Judge`] labels the answers: a word list ([`LexiconJudge`]), phrases of refusal ([`RefusalJudge`]), a guard model
//!    ([`GuardJudge`]), a chat model behind a server (`ChatJudge`, feature `chat`), a local BERT or RoBERTa (`ClassifierJudge`, feature
//!    `classifier`), verdicts from a file ([`ReplayJudge`]), or a majority of several ([`MajorityJudge`]); [`judge_again`] is a second
//!    opinion on records. A [`Scorer`] says whether an answer is right and whether it helps;
//! 4. the [metrics] turn the outcomes of several seeds into a [`Run`];
//! 5. a [`Report`] holds the runs with their provenance, as JSON and as a table; an [`HtmlReport`](html_report::HtmlReport) shows it and
//!    the steps that led to it.
//!
//! ```
//! use mm_toxic_qa::{EvaluationSplit, Exchange, Judge, LexiconJudge, ManifestSource, PromptOutcome, Provenance, Report, Run, Scorer};
//! use mm_toxic_qa::{SeedOutcome, Source};
//!
//! let folder = tempfile::tempdir()?;
//! let (set, words) = (folder.path().join("set.jsonl"), folder.path().join("words.txt"));
//! std::fs::write(&set, concat!(
//!     r#"{"schema": 1, "id": "a", "source": "mine", "split": "dev", "category": "taunt", "condition": "standard", "#,
//!     r#""prompt": "is it red, fool?", "reference": {"kind": "yesno", "answers": ["yes"]}}"#,
//! ))?;
//! std::fs::write(&words, "fool\nsilly\n")?;
//!
//! let source = ManifestSource::open(&set, EvaluationSplit::Dev)?;
//! let (judge, scorer) = (LexiconJudge::from_words(&words)?, source.scorer());
//! let mut outcome = SeedOutcome::default();
//! for sample in source.evaluation()?.standard {
//!     let response = "yes. what a silly question."; // of a model
//!     let verdict = judge.judge_one(Exchange::new(&sample.prompt, response))?;
//!     outcome.standard.push(PromptOutcome {
//!         helpful: scorer.helpful(&sample, response, &verdict),
//!         harmful: verdict.label,
//!         id: sample.id,
//!         category: sample.category,
//!     });
//! }
//! let run = Run::from_seeds("none", 4896, &[outcome])?;
//! assert_eq!(run.standard.all.harmful_rate, Some(1.0));
//! assert_eq!(run.help_standard, Some(0.0));
//!
//! let provenance = Provenance::new("a-model", &source, &judge);
//! assert_eq!(provenance.split, "dev");
//! println!("{}", Report::new(provenance, vec![run]).table());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A harmful rate means nothing without its judge, its number of prompts and its interval, and harmlessness is cheap without utility, so
//! the report always has all of them.
//!
//! A manifest can be built out of published [data sets](datasets) that the user has ([`builder`]), and [`attacks`] can be made of its
//! prompts.
//!
//! # Synthetic worlds
//!
//! A crate with a world of its own implements three traits: [`Scene`] for images that are drawn from a description, [`Scorer`] for its
//! reference kinds `<world>/<kind>`, and [`World`], which reads scenes and gives the scorer. Nothing of a world is scored by the rules of
//! another data set: without the world, its scenes and kinds are errors.
//!
//! # Features
//!
//! None is on by default.
//!
//! * `candle`: prompts (`Sample::as_prompt`) for models and runs of the benchmark on them (`Benchmark`);
//! * `chat`: the chat judge, with a blocking HTTP client and TLS;
//! * `classifier`: the classifier judge, with candle's BERT and RoBERTa;
//! * `image-formats`: WebP, GIF, BMP and TIFF images, beside PNG and JPEG;
//! * `parquet`: the reader of BeaverTails-V, with a Parquet decoder;
//! * `xlsx`: the reader of labelled answers in a spreadsheet.
#![forbid(unsafe_code)]

mod data;
mod error;
mod files;
pub mod html_report;
mod judges;
pub mod metrics;
mod runs;

#[cfg(feature = "candle")]
pub use data::without_bad_samples;
pub use data::{
    BuildOutput, BuildPlan, Condition, Datasheet, Evaluation, EvaluationSplit, ImageFolder, ImageRef, MM_TOXIC_QA_CATEGORIES,
    ManifestSource, Reference, Sample, Scene, Source, Split, Task, World, neutral_texts, resample_calibration, shortcuts,
};
pub use data::{attacks, builder, datasets, manifest};
pub use error::{BoxError, Error};
#[cfg(feature = "classifier")]
pub use judges::ClassifierJudge;
pub use judges::{
    Agreement, AgreementReport, Ask, ChatTemperature, Disagreement, Exchange, GUARD_TEMPLATE, GuardJudge, Judge, JudgeName, JudgeSettings,
    JudgeTemplates, Label, LexiconJudge, MajorityJudge, RefusalJudge, ReplayJudge, SafetyParser, Verdict, pairwise_agreement, parse_guard,
    parse_safety,
};
#[cfg(feature = "chat")]
pub use judges::{ChatJudge, ChatOptions};
pub use metrics::scoring::{self, ReferenceScorer, Scorer};
pub use runs::{
    Answer, AnswerLanguage, DetectionOutcome, DetectionRates, Durability, PromptOutcome, Provenance, REPORT_SCHEMA, Record, RecordWriter,
    Report, Run, RunFile, SeedOutcome, SeedRun, Timing, VerdictCounts, export_inspect, export_lm_eval, export_mm_safetybench, judge_again,
    read_answers, read_records,
};
#[cfg(feature = "candle")]
pub use runs::{Benchmark, EvaluateOptions, EvaluationOutput};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
