//! Readers of published data sets, which the user supplies; none is part of this software.
//!
//! | data set | reader | what on disk |
//! |---|---|---|
//! | MM-SafetyBench | [`MmSafetyBench`], [`MmSafetyBenchAnswers`] | `data/processed_questions/*.json`, `data/imgs`; `questions_with_answers/*.json` |
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
//! Every reader is a [`Dataset`]: it hands over [`Item`]s one at a time, so that a set with embedded images need not
//! fit into memory. An item is a [`Sample`] whose image has no place in a manifest's folder yet; the
//! [builder](crate::builder) gives it one.
//!
//! Nothing in a file is trusted: what is not as published is an error that names the file, the line, row or entry, and
//! the field; a name that leads out of its folder is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::{Condition, Reference, Result, Sample, Split, Task};

#[cfg(feature = "parquet")]
mod beavertails_v;
mod fields;
mod figstep;
mod files;
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
pub use fields::Place;
pub use figstep::FigStep;
pub(crate) use files::{MAX_PICTURE, bytes as read_bytes};
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

/// A published data set on disk.
pub trait Dataset {
    /// Hands every item to `each`, in the order of the files, and says what was left out and why.
    ///
    /// The items and their order are the same every time.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io), [`Error::DatasetFile`](crate::Error::DatasetFile),
    /// [`Error::DatasetEntry`](crate::Error::DatasetEntry) and, for JSONL files, the errors of lines; the first that
    /// `each` returns.
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped>;

    /// All items at once, with their pictures: for sets that fit into memory.
    ///
    /// # Errors
    ///
    /// Those of [`for_each`](Self::for_each).
    fn items(&self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        self.for_each(&mut |item| {
            items.push(item);
            Ok(())
        })?;
        Ok(items)
    }
}

/// Entries left out: the reason, and how many.
pub type Skipped = BTreeMap<&'static str, usize>;

/// A sample as its publisher has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The sample, but for its image. Its split is what the data set is for: `calibration` for labelled answers,
    /// `utility` for harmless questions, else `test`.
    pub sample: Sample,
    /// The image shown before the question.
    pub picture: Option<Picture>,
    /// Where it was read.
    pub place: Place,
}

/// The image of an [`Item`]: a PNG or JPEG file, not decoded yet.
#[derive(Clone, PartialEq, Eq)]
pub enum Picture {
    /// A file of the user's.
    File(PathBuf),
    /// The bytes of a file, embedded in the data set or drawn.
    Bytes(Vec<u8>),
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
        }
    }
}

/// A question to test a model with.
fn risky(source: &str, id: String, category: String, prompt: String) -> Sample {
    Sample {
        id,
        source: source.to_owned(),
        split: Split::Test,
        category,
        condition: Condition::Standard,
        attack: None,
        image: None,
        prompt,
        response: None,
        label: None,
        reference: None,
        task: None,
    }
}

/// The same question as an attack.
fn attacked(attack: &str, sample: Sample) -> Sample {
    Sample { condition: Condition::Adversarial, attack: Some(attack.to_owned()), ..sample }
}

/// The question with an answer whose label is known.
fn labelled(response: String, toxic: bool, sample: Sample) -> Sample {
    Sample { split: Split::Calibration, response: Some(response), label: Some(toxic), ..sample }
}

/// A visual question with right answers.
fn vqa(reference: Reference, sample: Sample) -> Sample {
    Sample { split: Split::Utility, reference: Some(reference), task: Some(Task::Vqa), ..sample }
}
