//! Readers of published data sets. The user supplies the data; none is part of this software.
//!
//! | data set | reader | files |
//! |---|---|---|
//! | MM-SafetyBench | [`MmSafetyBench`] | `data/processed_questions/*.json`, `data/imgs` |
//! | its answers | [`MmSafetyBenchAnswers`] | `questions_with_answers/*.json`, `data/imgs` |
//! | BeaverTails-V | `BeaverTailsV` (feature `parquet`) | `*.parquet` with the images inside |
//! | JailBreakV-28K | [`JailBreakV`] | `JailBreakV_28K.csv`, `mini_JailBreakV_28K.csv` and the image folders |
//! | FigStep | [`FigStep`] | `safebench.csv`, optionally the images |
//! | VLGuard | [`VlGuard`] | a JSON file, images |
//! | VLSafe, MM-HarmfulBench, SIUO, HarmBench, AdvBench, JailbreakBench, RedTeam-2K, XSTest, VSCBench | [`QuestionSet`] | a list of questions, images |
//! | RealToxicityPrompts | [`RealToxicityPrompts`] | a JSONL file |
//! | MM-Vet, MM-Vet v2 | [`MmVet`] | `mm-vet.json`, `mm-vet-v2.json`, `images` |
//! | any of VLMEvalKit's | [`VlmEvalKit`] | a TSV file with the images inside |
//! | labelled answers, lists of questions | `Spreadsheet` (feature `xlsx`) | an `.xlsx` file |
//!
//! Every reader is a [`Dataset`]: it yields [entries](Entry) one at a time, so that a set with embedded images need not fit into memory. An
//! [`Item`] is a [`Sample`](crate::Sample) whose image has no place in the folder of a manifest yet; the [builder](crate::builder) gives it
//! one.
//!
//! Nothing in a file is trusted: every deviation from the published form is an error that names the file, the line, row or entry, and the
//! field; a name that leads out of its folder is refused. An error about a single entry does not end the reading.

#[cfg(feature = "parquet")]
mod beavertails_v;
mod behind_features;
mod dataset;
mod fields;
mod figstep;
mod formats;
mod jailbreakv;
mod mm_safetybench;
mod mm_vet;
mod question_set;
mod real_toxicity_prompts;
#[cfg(feature = "xlsx")]
mod spreadsheet;
mod vlguard;
mod vlmevalkit;

#[cfg(feature = "parquet")]
pub use beavertails_v::BeaverTailsV;
pub use behind_features::{beavertails_v, spreadsheet};
pub use dataset::{Dataset, Entry, Item, Part, Picture};
pub use fields::Place;
pub use figstep::FigStep;
pub(crate) use formats::{MAX_PICTURE, bytes as read_bytes};
pub use jailbreakv::JailBreakV;
pub use mm_safetybench::{MmSafetyBench, MmSafetyBenchAnswers, Pair, Question, Variant};
pub use mm_vet::MmVet;
pub use question_set::{QUESTION_FORMATS, QuestionFormat, QuestionSet};
pub use real_toxicity_prompts::RealToxicityPrompts;
#[cfg(feature = "xlsx")]
pub use spreadsheet::{NO_QUESTION, Spreadsheet};
pub use vlguard::{VlGuard, VlGuardSubset};
pub use vlmevalkit::VlmEvalKit;
