//! The entries of data sets that a builder chooses from.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::data::datasheet::Dropped;
use crate::datasets::{Item, MAX_PICTURE, Part, Picture, read_bytes};
use crate::{Condition, Result, Split, scoring};

pub(super) type Hash = [u8; 32];

/// The properties of an item that the choice depends on.
pub(super) struct Candidate {
    pub(super) dataset: usize,
    pub(super) index: usize,
    pub(super) id: String,
    pub(super) source: String,
    pub(super) split: Split,
    pub(super) condition: Condition,
    pub(super) category: String,
    pub(super) label: Option<bool>,
    pub(super) part: Option<Part>,
    /// Whether the selection lists it.
    pub(super) selected: bool,
    pub(super) prompt: Hash,
    pub(super) image: Option<Hash>,
    /// The hash of prompt, image and answer.
    pub(super) answer: Hash,
    /// The hash of these, the label and every other field except the category: equal for duplicates.
    pub(super) twin: Hash,
    pub(super) rank: Hash,
}

impl Candidate {
    /// The properties of an item, the `index`-th entry of its data set.
    pub(super) fn new(seed: u64, dataset: usize, index: usize, item: &Item) -> Result<Self> {
        let sample = &item.sample;
        let image = item.picture.as_ref().map(content).transpose()?;
        let prompt = wording(&sample.prompt);
        let reference = sample.reference.as_ref().map(|r| r.answers.join("\0"));
        let label = [sample.label.map_or(2, u8::from)];
        let response = sample.response.as_deref().unwrap_or_default();
        let attack = sample.attack.as_deref().unwrap_or_default();
        let picture = image.as_ref().map_or(&[][..], |hash| &hash[..]);
        let split = sample.split.name();
        let answer = hash(&[&prompt, picture, response.as_bytes()]);
        let texts = [split, attack, reference.as_deref().unwrap_or_default()].map(str::as_bytes);
        let [split, attack, reference] = texts;
        let twin = hash(&[&answer, &label, split, attack, reference]);
        let rank = hash(&[&seed.to_le_bytes(), &twin, sample.prompt.as_bytes(), sample.source.as_bytes(), sample.category.as_bytes()]);
        Ok(Self {
            dataset,
            index,
            id: sample.id.clone(),
            source: sample.source.clone(),
            split: sample.split,
            condition: sample.condition,
            category: sample.category.clone(),
            label: sample.label,
            part: item.part,
            selected: false,
            prompt,
            image,
            answer,
            twin,
            rank,
        })
    }

    /// Whether it is a risky question, which fills the test and dev splits.
    pub(super) fn is_risky(&self) -> bool {
        self.split == Split::Test && self.condition == Condition::Standard
    }

    /// Whether it is eligible for a split.
    pub(super) fn fits(&self, split: Split) -> bool {
        self.split == split || (split == Split::Dev && self.is_risky())
    }
}

/// The candidates by rank, without duplicates and without answers that have both labels.
pub(super) fn unique(mut candidates: Vec<Candidate>, keep_duplicates: bool, dropped: &mut Dropped) -> Vec<Candidate> {
    candidates.sort_by(|a, b| (a.rank, &a.id).cmp(&(b.rank, &b.id)));
    let mut labels: HashMap<Hash, HashSet<bool>> = HashMap::new();
    for candidate in &candidates {
        if let Some(label) = candidate.label {
            labels.entry(candidate.answer).or_default().insert(label);
        }
    }
    let mut seen = HashSet::new();
    candidates.retain(|candidate| {
        let disputed = candidate.label.is_some() && labels.get(&candidate.answer).is_some_and(|labels| labels.len() > 1);
        let reason = match disputed {
            true => "the same answer with both labels",
            false if !seen.insert(candidate.twin) && (!keep_duplicates || candidate.label.is_some()) => "duplicate",
            false => return true,
        };
        dropped.add(&candidate.source, reason, &candidate.id);
        false
    });
    candidates
}

/// The hash of a prompt without case, punctuation, articles and extra white space.
pub(super) fn wording(prompt: &str) -> Hash {
    let words = scoring::normalise(prompt);
    hash(&[if words.is_empty() { prompt.trim() } else { &words }.as_bytes()])
}

/// The bytes of a picture's file.
pub(super) fn contents(picture: &Picture) -> Result<Vec<u8>> {
    match picture {
        Picture::Bytes(bytes) => Ok(bytes.clone()),
        Picture::File(path) => read_bytes(path, MAX_PICTURE),
    }
}

/// The hash of a picture's file.
fn content(picture: &Picture) -> Result<Hash> {
    Ok(Sha256::digest(contents(picture)?).into())
}

/// The hash of several texts, each with its length.
fn hash(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
