//! Published data sets as readers of items, and the samples that readers make.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::fields::Place;
use crate::{Condition, Reference, Result, Sample, Split, Task};

/// A published data set on disk.
pub trait Dataset {
    /// Calls `each` with every item, in the order of the files, and returns the entries left out with their reasons.
    ///
    /// Every call gives the same items in the same order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io), [`Error::DatasetFile`](crate::Error::DatasetFile),
    /// [`Error::DatasetEntry`](crate::Error::DatasetEntry) and, for JSONL files, the errors of lines; the first that
    /// `each` returns.
    fn for_each(&self, each: &mut dyn FnMut(Item) -> Result<()>) -> Result<Skipped>;

    /// All items at once, with their pictures, for sets that fit into memory.
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

/// The number of entries left out, by reason.
pub type Skipped = BTreeMap<&'static str, usize>;

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
    }
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
