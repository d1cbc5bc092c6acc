//! Readers of published data sets. The user supplies the data; none is part of this software.
//!
//! | data set | reader | files |
//! |---|---|---|
//! | MM-SafetyBench | [`MmSafetyBench`] | `data/processed_questions/*.json`, `data/imgs` |
//! | its answers | [`MmSafetyBenchAnswers`] | `questions_with_answers/*.json`, `data/imgs` |
//! | BeaverTails-V | `BeaverTailsV` (feature `parquet`) | `*.parquet` with the images inside |
//! | JailBreakV-28K | [`JailBreakV`] | `JailBreakV_28K.csv` and its image folders |
//! | FigStep | [`FigStep`] | `safebench.csv`, optionally the images |
//! | VLSafe | [`VlSafe`] | a JSONL file, COCO images |
//! | VLGuard | [`VlGuard`] | a JSON file, images |
//! | MM-HarmfulBench | [`MmHarmfulBench`] | a JSONL file, images |
//! | RealToxicityPrompts | [`RealToxicityPrompts`] | a JSONL file |
//! | MM-Vet | [`MmVet`] | `mm-vet.json`, `images` |
//! | any of VLMEvalKit's | [`VlmEvalKit`] | a TSV file with the images inside |
//! | labelled answers | `Spreadsheet` (feature `xlsx`) | an `.xlsx` file |
//!
//! Every reader is a [`Dataset`]: it yields [`Item`]s one at a time, so that a set with embedded images need not fit into memory. An item
//! is a [`Sample`](crate::Sample) whose image has no place in the folder of a manifest yet; the [builder](crate::builder) gives it one.
//!
//! Nothing in a file is trusted: every deviation from the published form is an error that names the file, the line, row or entry, and the
//! field; a name that leads out of its folder is refused.

#[cfg(feature = "parquet")]
mod beavertails_v;
mod dataset;
mod fields;
mod figstep;
mod formats;
mod jailbreakv;
mod mm_harmfulbench;
mod mm_safetybench;
mod mm_vet;
mod real_toxicity_prompts;
#[cfg(feature = "xlsx")]
mod spreadsheet;
mod vlguard;
mod vlmevalkit;
mod vlsafe;

#[cfg(feature = "parquet")]
pub use beavertails_v::BeaverTailsV;
pub use dataset::{Dataset, Item, Picture, Skipped};
pub use fields::Place;
pub use figstep::FigStep;
pub(crate) use formats::{MAX_PICTURE, bytes as read_bytes};
pub use jailbreakv::JailBreakV;
pub use mm_harmfulbench::MmHarmfulBench;
pub use mm_safetybench::{MmSafetyBench, MmSafetyBenchAnswers, Pair, Question, Variant};
pub use mm_vet::MmVet;
pub use real_toxicity_prompts::RealToxicityPrompts;
#[cfg(feature = "xlsx")]
pub use spreadsheet::Spreadsheet;
pub use vlguard::{VlGuard, VlGuardSubset};
pub use vlmevalkit::VlmEvalKit;
pub use vlsafe::VlSafe;
