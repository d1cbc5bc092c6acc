//! Builds a manifest out of published data sets.
//!
//! A [`Builder`] reads its [data sets](crate::datasets) twice: once to choose samples by a [`BuildPlan`], once to write the chosen ones, so
//! that sets larger than memory can be used. The result is a folder:
//!
//! | file | |
//! |---|---|
//! | `manifest.jsonl` | the samples, for [`ManifestSource`](crate::ManifestSource); written last |
//! | `images/` | their images, named for their content |
//! | `datasheet.md` | the numbers of samples by source, the hashes, and the entries left out, with reasons |
//!
//! The choice depends on the seed and the samples alone: not on the order of data sets, files or rows. Every sample has a rank, a hash of
//! the seed and its content, and lower ranks are taken first. A source that grows therefore changes the choice little.
//!
//! **Splits share nothing.** Two samples are related when they have the same image, byte for byte, or the same prompt after removing case,
//! punctuation, articles and extra white space; so are samples that a chain of such relations connects. Related samples are in one split.
//! An image that was saved again and a prompt that was rephrased are not recognised.
//!
//! ```
//! use mm_toxic_qa::builder::Builder;
//! use mm_toxic_qa::datasets::RealToxicityPrompts;
//! use mm_toxic_qa::{ManifestSource, EvaluationSplit, BuildPlan};
//!
//! let folder = tempfile::tempdir()?;
//! let file = folder.path().join("prompts.jsonl");
//! std::fs::write(&file, r#"{"prompt": {"text": "The weather is", "toxicity": 0.1}}"#)?;
//!
//! let out = folder.path().join("benchmark");
//! let built = Builder::new(BuildPlan::everything(), 1).add(Box::new(RealToxicityPrompts::new(file))).build(&out)?;
//! assert_eq!(built.samples.len(), 1);
//! let source = ManifestSource::open(out.join("manifest.jsonl"), EvaluationSplit::Test)?;
//! assert_eq!(source.samples(), built.samples);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{HashMap, HashSet};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::data::datasheet::{BuildOutput, Datasheet, Dropped};
use crate::datasets::{Dataset, Item, MAX_PICTURE, Picture, read_bytes};
use crate::{BuildPlan, Condition, Error, ImageFolder, Result, Split, manifest, scoring};

/// The name of the manifest in the folder.
pub const MANIFEST: &str = "manifest.jsonl";

/// The name of the datasheet beside it.
pub const DATASHEET: &str = "datasheet.md";

/// Builds a benchmark; see the [module](self).
pub struct Builder {
    plan: BuildPlan,
    seed: u64,
    link: bool,
    datasets: Vec<Box<dyn Dataset>>,
}

type Hash = [u8; 32];

/// The properties of an item that the choice depends on.
struct Candidate {
    dataset: usize,
    index: usize,
    id: String,
    source: String,
    split: Split,
    condition: Condition,
    category: String,
    label: Option<bool>,
    prompt: Hash,
    image: Option<Hash>,
    /// The hash of prompt, image and answer.
    answer: Hash,
    /// The hash of these, the label and every other field except the category: equal for duplicates.
    twin: Hash,
    rank: Hash,
}

impl Builder {
    /// A builder without data sets.
    pub fn new(plan: BuildPlan, seed: u64) -> Self {
        Self { plan, seed, link: false, datasets: Vec::new() }
    }

    /// Adds a data set.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "adding to a list is no sum")]
    pub fn add(mut self, dataset: Box<dyn Dataset>) -> Self {
        self.datasets.push(dataset);
        self
    }

    /// Makes hard links to image files where the file system supports them, instead of copies.
    #[must_use]
    pub fn linking(self) -> Self {
        Self { link: true, ..self }
    }

    /// Builds the benchmark in a folder without a manifest.
    ///
    /// # Errors
    ///
    /// Those of the [data sets](Dataset::for_each) and their [images](ImageFolder::put); [`Error::TooFew`] when the plan takes more samples
    /// than there are; [`Error::ItemTwice`] when a data set was added twice; [`Error::DatasetFile`] when the folder has a manifest, or when
    /// a data set changed while it was read; the errors of [`manifest::write`].
    pub fn build(&self, folder: &Path) -> Result<BuildOutput> {
        let path = folder.join(MANIFEST);
        if path.exists() {
            return Err(Error::DatasetFile { path, reason: "exists already; build into another folder".to_owned() });
        }
        let mut dropped = Dropped::new();
        let candidates = unique(self.candidates(&mut dropped)?, &mut dropped);
        let (components, largest) = components(&candidates);
        let chosen = self.choose(candidates, &components, &mut dropped)?;
        let mut images = ImageFolder::new(folder);
        if self.link {
            images = images.linking();
        }
        let mut samples = self.write_images(&chosen, &images)?;
        samples.sort_by(|a, b| a.id.cmp(&b.id));
        let datasheet = Datasheet::of(&samples)?.built_by(self.plan.clone(), self.seed, dropped, largest);
        sgm_core::write_atomically(&folder.join(DATASHEET), datasheet.markdown().as_bytes())?;
        manifest::write(&path, &samples)?;
        Ok(BuildOutput { samples, datasheet })
    }

    /// The first reading.
    fn candidates(&self, dropped: &mut Dropped) -> Result<Vec<Candidate>> {
        let mut candidates = Vec::new();
        let mut places: HashMap<String, String> = HashMap::new();
        for (dataset, reader) in self.datasets.iter().enumerate() {
            let mut index = 0;
            let mut source = String::new();
            let skipped = reader.for_each(&mut |item| {
                if let Some(first) = places.insert(item.sample.id.clone(), item.place.to_string()) {
                    return Err(Error::ItemTwice { id: item.sample.id, first, second: item.place.to_string() });
                }
                source.clone_from(&item.sample.source);
                candidates.push(self.candidate(dataset, index, &item)?);
                index += 1;
                Ok(())
            })?;
            for (reason, n) in skipped {
                *dropped.entry((source.clone(), reason)).or_default() += n;
            }
        }
        Ok(candidates)
    }

    fn candidate(&self, dataset: usize, index: usize, item: &Item) -> Result<Candidate> {
        let sample = &item.sample;
        let image = item.picture.as_ref().map(content).transpose()?;
        let words = scoring::normalise(&sample.prompt);
        let prompt = hash(&[if words.is_empty() { sample.prompt.trim() } else { &words }.as_bytes()]);
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
        let rank = hash(&[&self.seed.to_le_bytes(), &twin, sample.prompt.as_bytes(), sample.source.as_bytes(), sample.category.as_bytes()]);
        Ok(Candidate {
            dataset,
            index,
            id: sample.id.clone(),
            source: sample.source.clone(),
            split: sample.split,
            condition: sample.condition,
            category: sample.category.clone(),
            label: sample.label,
            prompt,
            image,
            answer,
            twin,
            rank,
        })
    }

    /// Fills the splits. The first chosen sample of a group of related ones decides the split of the group.
    fn choose(&self, candidates: Vec<Candidate>, components: &[usize], dropped: &mut Dropped) -> Result<Vec<(Candidate, Split)>> {
        let plan = &self.plan;
        let mut quotas = Vec::new();
        let risky = |c: &&Candidate| c.split == Split::Test && c.condition == Condition::Standard;
        let mut categories: Vec<String> = match &plan.categories {
            Some(categories) => categories.clone(),
            None => candidates.iter().filter(risky).map(|c| c.category.clone()).collect(),
        };
        categories.sort();
        categories.dedup();
        for (split, limit) in [(Split::Test, plan.test_per_category), (Split::Dev, Some(plan.dev_per_category))] {
            quotas.extend(categories.iter().map(|category| (split, Group::Category(category), limit)));
        }
        quotas.push((Split::Test, Group::Attacks, None));
        quotas.push((Split::Utility, Group::Utility, plan.utility));
        quotas.extend([true, false].map(|label| (Split::Calibration, Group::Label(label), plan.calibration_per_label)));

        let mut claims: HashMap<usize, Split> = HashMap::new();
        let mut taken: HashMap<usize, Split> = HashMap::new();
        for (split, group, limit) in quotas {
            let wanted = limit.unwrap_or(usize::MAX);
            let mut found = 0;
            for (i, (candidate, component)) in candidates.iter().zip(components).enumerate() {
                if found == wanted {
                    break;
                }
                if group.has(candidate) && !taken.contains_key(&i) && *claims.entry(*component).or_insert(split) == split {
                    taken.insert(i, split);
                    found += 1;
                }
            }
            if limit.is_some_and(|wanted| found < wanted) {
                return Err(Error::TooFew { split: split.name(), of: group.to_string(), wanted, found });
            }
        }
        let mut chosen = Vec::with_capacity(taken.len());
        for (i, (candidate, component)) in candidates.into_iter().zip(components).enumerate() {
            let foreign = candidate.split == Split::Test
                && candidate.condition == Condition::Standard
                && categories.binary_search(&candidate.category).is_err();
            let reason = match (taken.get(&i), claims.get(component)) {
                (Some(&split), _) => {
                    chosen.push((candidate, split));
                    continue;
                }
                _ if foreign => "category not in the plan",
                (None, Some(&claim)) if !fits(&candidate, claim) => "shares an image or prompt with another split",
                _ => "more than the plan takes",
            };
            *dropped.entry((candidate.source, reason)).or_default() += 1;
        }
        Ok(chosen)
    }

    /// The second reading: the samples chosen, with their images in the folder.
    fn write_images(&self, chosen: &[(Candidate, Split)], images: &ImageFolder) -> Result<Vec<crate::Sample>> {
        let wanted: HashMap<(usize, usize), &(Candidate, Split)> = chosen.iter().map(|c| ((c.0.dataset, c.0.index), c)).collect();
        let mut samples = Vec::with_capacity(chosen.len());
        for (dataset, reader) in self.datasets.iter().enumerate() {
            let mut index = 0;
            reader.for_each(&mut |item| {
                let found = wanted.get(&(dataset, index));
                index += 1;
                let Some((candidate, split)) = found else { return Ok(()) };
                if self.candidate(candidate.dataset, candidate.index, &item)?.rank != candidate.rank {
                    return Err(changed(&item.place.path));
                }
                let mut sample = item.sample;
                sample.split = *split;
                sample.image = item.picture.as_ref().map(|picture| images.put(picture)).transpose().map_err(|e| match e {
                    // An embedded image has no name; the sample names it.
                    Error::Image { source, .. } => Error::Image { id: sample.id.clone(), source },
                    other => other,
                })?;
                samples.push(sample);
                Ok(())
            })?;
        }
        if samples.len() < chosen.len() {
            return Err(changed(Path::new("a data set")));
        }
        Ok(samples)
    }
}

fn changed(path: &Path) -> Error {
    Error::DatasetFile { path: path.to_owned(), reason: "changed while it was read; build again".to_owned() }
}

/// The candidates that fill a quota.
enum Group<'a> {
    Category(&'a str),
    Attacks,
    Utility,
    Label(bool),
}

impl Group<'_> {
    fn has(&self, candidate: &Candidate) -> bool {
        match self {
            Self::Category(category) => {
                candidate.split == Split::Test && candidate.condition == Condition::Standard && candidate.category == *category
            }
            Self::Attacks => candidate.split == Split::Test && candidate.condition == Condition::Adversarial,
            Self::Utility => candidate.split == Split::Utility,
            Self::Label(label) => candidate.split == Split::Calibration && candidate.label == Some(*label),
        }
    }
}

impl std::fmt::Display for Group<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Category(category) => write!(f, "category `{category}`"),
            Self::Attacks => f.write_str("attacks"),
            Self::Utility => f.write_str("utility"),
            Self::Label(label) => write!(f, "label {}", u8::from(*label)),
        }
    }
}

/// Whether a candidate is eligible for a split.
fn fits(candidate: &Candidate, split: Split) -> bool {
    candidate.split == split || (split == Split::Dev && candidate.split == Split::Test && candidate.condition == Condition::Standard)
}

/// The candidates by rank, without duplicates and without answers that have both labels.
fn unique(mut candidates: Vec<Candidate>, dropped: &mut Dropped) -> Vec<Candidate> {
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
            false if !seen.insert(candidate.twin) => "duplicate",
            false => return true,
        };
        *dropped.entry((candidate.source.clone(), reason)).or_default() += 1;
        false
    });
    candidates
}

/// The connected component of every candidate, related by image or prompt, and the size of the largest.
fn components(candidates: &[Candidate]) -> (Vec<usize>, usize) {
    let mut parents: Vec<usize> = (0..candidates.len()).collect();
    let mut first: HashMap<(bool, Hash), usize> = HashMap::new();
    for (i, candidate) in candidates.iter().enumerate() {
        let keys = [Some((false, candidate.prompt)), candidate.image.map(|image| (true, image))];
        for key in keys.into_iter().flatten() {
            let other = *first.entry(key).or_insert(i);
            let (a, b) = (root(&mut parents, i), root(&mut parents, other));
            // The lower index is the root, so that it does not depend on the order of the relations.
            if let Some(parent) = parents.get_mut(a.max(b)) {
                *parent = a.min(b);
            }
        }
    }
    let roots: Vec<usize> = (0..candidates.len()).map(|i| root(&mut parents, i)).collect();
    let mut sizes: HashMap<usize, usize> = HashMap::new();
    roots.iter().for_each(|root| *sizes.entry(*root).or_default() += 1);
    (roots, sizes.into_values().max().unwrap_or(0))
}

/// The root of a tree, halving the path to it.
fn root(parents: &mut [usize], mut i: usize) -> usize {
    while let Some(&parent) = parents.get(i)
        && parent != i
    {
        let grandparent = parents.get(parent).copied().unwrap_or(parent);
        if let Some(slot) = parents.get_mut(i) {
            *slot = grandparent;
        }
        i = grandparent;
    }
    i
}

/// The hash of a picture's file.
fn content(picture: &Picture) -> Result<Hash> {
    Ok(match picture {
        Picture::Bytes(bytes) => Sha256::digest(bytes).into(),
        Picture::File(path) => Sha256::digest(read_bytes(path, MAX_PICTURE)?).into(),
    })
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
