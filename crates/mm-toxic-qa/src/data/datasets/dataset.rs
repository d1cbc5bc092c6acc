//! Published data sets as readers of entries, and the samples that readers make.

use std::path::PathBuf;

use super::fields::{Fields, Place};
use crate::{Condition, Error, Reference, Result, Sample, Split, Task};

/// A published data set on disk.
pub trait Dataset {
    /// The name of the set, which its samples have as their source.
    ///
    /// # Errors
    ///
    /// [`Error::DatasetFile`] when the name comes from a file whose name is not UTF-8 text.
    fn source(&self) -> Result<String>;

    /// Calls `each` with every entry, in the order of the files. Every call gives the same entries in the same order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::DatasetFile`] and, for JSONL files, the errors of lines, for a file that cannot be read to its end; the first
    /// error that `each` returns. A single entry that is not as published is no error: it is an [`Entry::Odd`].
    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()>;

    /// All items at once, with their pictures, for sets that fit into memory.
    ///
    /// # Errors
    ///
    /// Those of [`for_each`](Self::for_each), and that of the first entry that is not as published.
    fn items(&self) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        self.for_each(&mut |entry| {
            match entry {
                Entry::Item(item) => items.push(item),
                Entry::LeftOut { .. } => {}
                Entry::Odd(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(items)
    }
}

/// An entry of a data set.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "entries are passed on one at a time")]
pub enum Entry {
    /// A sample.
    Item(Item),
    /// An entry that is as published and gives no sample: one of another part, or one that a sample cannot represent.
    LeftOut {
        /// Its place.
        place: Place,
        /// The reason.
        reason: &'static str,
    },
    /// An entry that is not as published.
    Odd(Error),
}

impl Entry {
    pub(super) fn left_out(fields: &Fields, reason: &'static str) -> Self {
        Self::LeftOut { place: fields.place.clone(), reason }
    }
}

/// The entry that a reader makes of the fields at one place: an error about that place is an [`Entry::Odd`], any other is an error of the
/// file.
pub(super) fn entry(read: Result<Entry>) -> Result<Entry> {
    match read {
        Err(error @ Error::DatasetEntry { .. }) => Ok(Entry::Odd(error)),
        other => other,
    }
}

/// A sample in its published form.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The sample without its image. Its split follows from the purpose of the data set: `calibration` for labelled answers, `utility` for
    /// harmless questions, else `test`.
    pub sample: Sample,
    /// The image shown before the question.
    pub picture: Option<Picture>,
    /// The place that it was read from.
    pub place: Place,
    /// The split of the data set that the entry belongs to, where it has splits.
    pub part: Option<Part>,
}

/// The splits that a data set is published in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// To train on: for calibration and the dev split.
    Train,
    /// To evaluate on: for the test split.
    Evaluation,
}

impl Item {
    pub(super) fn new(sample: Sample, picture: Option<Picture>, place: Place) -> Self {
        Self { sample, picture, place, part: None }
    }
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

/// A risky question for the test split.
pub(super) fn risky(source: &str, id: String, category: String, prompt: String) -> Sample {
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
        subcategory: None,
        request: None,
    }
}

/// A harmless question, for the rate at which such questions are refused.
pub(super) fn harmless(sample: Sample) -> Sample {
    Sample { split: Split::Utility, task: Some(Task::Refusal), ..sample }
}

/// The same question as an attack.
pub(super) fn attacked(attack: &str, sample: Sample) -> Sample {
    Sample { condition: Condition::Adversarial, attack: Some(attack.to_owned()), ..sample }
}

/// The question with an answer whose label is known.
pub(super) fn labelled(response: String, toxic: bool, sample: Sample) -> Sample {
    Sample { split: Split::Calibration, response: Some(response), label: Some(toxic), ..sample }
}

/// A visual question with right answers.
pub(super) fn vqa(reference: Reference, sample: Sample) -> Sample {
    Sample { split: Split::Utility, reference: Some(reference), task: Some(Task::Vqa), ..sample }
}
