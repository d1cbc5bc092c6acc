//! Sources of the samples to calibrate on and to measure.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Condition, Error, EvaluationSplit, ReferenceScorer, Result, Sample, Scorer, Split, Task, World, manifest};

/// A data set to calibrate on and to evaluate with.
pub trait Source {
    /// The name that reports carry.
    fn name(&self) -> String;

    /// The split whose risky prompts [`evaluation`](Source::evaluation) returns.
    fn split(&self) -> EvaluationSplit;

    /// The rules for the references of the samples, for [`Benchmark::with_scorer`](crate::Benchmark::with_scorer).
    fn scorer(&self) -> Arc<dyn Scorer> {
        Arc::new(ReferenceScorer)
    }

    /// Labelled answers of both classes.
    ///
    /// Seed 0 is the set as it is. Every other seed is a sample of its own, so that the spread over seeds shows how much depends on the
    /// choice of calibration samples: a fresh draw where the source can make one, else a [resample](resample_calibration).
    ///
    /// # Errors
    ///
    /// [`Error::OneClass`] when a class is missing; the source's own errors, as [`Error::Source`] where it is not of this crate.
    fn calibration(&self, seed: u64) -> Result<Vec<Sample>>;

    /// The samples to measure; a set that the source does not have is empty.
    ///
    /// # Errors
    ///
    /// The source's own errors, as [`Error::Source`] where it is not of this crate.
    fn evaluation(&self) -> Result<Evaluation>;
}

/// The sets of samples to measure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Risky prompts as they are.
    pub standard: Vec<Sample>,
    /// Risky prompts as attacks.
    pub adversarial: Vec<Sample>,
    /// Visual questions with known answers.
    pub vqa: Vec<Sample>,
    /// Harmless answers whose perplexity is measured.
    pub perplexity: Vec<Sample>,
    /// Harmless questions that should not be refused.
    pub refusal: Vec<Sample>,
}

/// A manifest file as a source.
#[derive(Clone, Debug)]
pub struct ManifestSource {
    path: PathBuf,
    split: EvaluationSplit,
    samples: Vec<Sample>,
    scorer: Arc<dyn Scorer>,
}

impl ManifestSource {
    /// Reads a manifest; seeds from 1 on resample its calibration samples.
    ///
    /// # Errors
    ///
    /// As [`manifest::read`].
    pub fn open(path: impl Into<PathBuf>, split: EvaluationSplit) -> Result<Self> {
        let path = path.into();
        let samples = manifest::read(&path)?;
        Ok(Self { path, split, samples, scorer: Arc::new(ReferenceScorer) })
    }

    /// Reads a manifest that may hold samples of a synthetic world, as [`open`](Self::open) does.
    ///
    /// # Errors
    ///
    /// As [`manifest::read_with`].
    pub fn open_with(path: impl Into<PathBuf>, split: EvaluationSplit, world: &dyn World) -> Result<Self> {
        let path = path.into();
        let samples = manifest::read_with(&path, world)?;
        Ok(Self { path, split, samples, scorer: world.scorer() })
    }

    /// Every sample of the manifest.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn select(&self, wanted: impl Fn(&Sample) -> bool) -> Vec<Sample> {
        self.samples.iter().filter(|sample| wanted(sample)).cloned().collect()
    }
}

impl Source for ManifestSource {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn split(&self) -> EvaluationSplit {
        self.split
    }

    fn scorer(&self) -> Arc<dyn Scorer> {
        self.scorer.clone()
    }

    fn calibration(&self, seed: u64) -> Result<Vec<Sample>> {
        resample_calibration(&self.name(), self.select(|sample| sample.split == Split::Calibration), seed)
    }

    fn evaluation(&self) -> Result<Evaluation> {
        let other = match self.split {
            EvaluationSplit::Dev => EvaluationSplit::Test,
            EvaluationSplit::Test => EvaluationSplit::Dev,
        };
        let split = Split::from(self.split);
        let count = |split| self.samples.iter().filter(|sample| sample.split == split).count();
        let others = count(other.into());
        if count(split) == 0 && others > 0 {
            return Err(Error::EmptySplit { path: self.path.clone(), split: self.split.name(), other: other.name(), others });
        }
        let risky = |condition| self.select(|s| s.split == split && s.condition == condition);
        let utility = |task| self.select(|s| s.task == Some(task));
        Ok(Evaluation {
            standard: risky(Condition::Standard),
            adversarial: risky(Condition::Adversarial),
            vqa: utility(Task::Vqa),
            perplexity: utility(Task::Perplexity),
            refusal: utility(Task::Refusal),
        })
    }
}

/// The calibration samples of a seed, for a source whose set is fixed: the set as it is for seed 0, else a bootstrap resample of each
/// class.
///
/// A resample has as many samples of each class as the set, drawn with replacement; the ids of repeated samples are `<id>~1`, `<id>~2` and
/// so on.
///
/// # Errors
///
/// [`Error::OneClass`], which names the source, when a class is missing.
pub fn resample_calibration(name: &str, samples: Vec<Sample>, seed: u64) -> Result<Vec<Sample>> {
    let of = |label| samples.iter().filter(|sample| sample.label == Some(label)).count();
    let (toxic, non_toxic) = (of(true), of(false));
    if toxic == 0 || non_toxic == 0 {
        return Err(Error::OneClass { name: name.to_owned(), toxic, non_toxic });
    }
    Ok(if seed == 0 { samples } else { resample(&samples, seed) })
}

/// A bootstrap resample of each class.
fn resample(samples: &[Sample], seed: u64) -> Vec<Sample> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    let mut drawn = Vec::with_capacity(samples.len());
    for label in [Some(true), Some(false)] {
        let class: Vec<&Sample> = samples.iter().filter(|sample| sample.label == label).collect();
        for _ in 0..class.len() {
            if let Some(&sample) = class.get(rng.random_range(0..class.len())) {
                let times = times.entry(&sample.id).or_default();
                *times += 1;
                drawn.push(Sample { id: format!("{}~{times}", sample.id), ..sample.clone() });
            }
        }
    }
    drawn
}
