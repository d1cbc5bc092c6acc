use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sgm_organism::{Category, Contrast, OrganismData, Part, draw_calibration};

use crate::scoring::ORGANISM_PREFIX;
use crate::{Condition, Error, ImageRef, Reference, Result, Sample, Split, Task, manifest};

/// A data set to calibrate on and to evaluate with.
pub trait Source {
    /// The name that reports carry.
    fn name(&self) -> String;

    /// The part whose risky prompts [`evaluation`](Source::evaluation) returns.
    fn part(&self) -> Part;

    /// Labelled answers of both classes.
    ///
    /// Seed 0 is the set as it is. Every other seed is a sample of its own, so that the spread over seeds
    /// shows what the choice of calibration samples decides: fresh draws where the source can make them,
    /// else a bootstrap resample of each class, with ids `<id>~1`, `<id>~2` ... for repeated samples.
    ///
    /// # Errors
    ///
    /// [`Error::OneClass`] when a class is missing; the source's own errors.
    fn calibration(&self, seed: u64) -> Result<Vec<Sample>>;

    /// What to measure on; a set that the source does not have is empty.
    ///
    /// # Errors
    ///
    /// The source's own errors.
    fn evaluation(&self) -> Result<Evaluation>;
}

/// The four sets to measure on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Risky prompts as they are.
    pub standard: Vec<Sample>,
    /// Risky prompts dressed up as attacks.
    pub adversarial: Vec<Sample>,
    /// Visual questions with known answers.
    pub vqa: Vec<Sample>,
    /// Harmless answers whose perplexity is measured.
    pub perplexity: Vec<Sample>,
}

/// The synthetic set of the model organism.
#[derive(Debug)]
pub struct OrganismSource {
    data: OrganismData,
    part: Part,
    contrast: Contrast,
    embedded: bool,
}

/// The name of the synthetic set as a data set.
pub(crate) const ORGANISM: &str = "organism";

/// Toxic, and as many non-toxic, samples of a fresh calibration draw: the size of the shipped sets.
const DRAWN_PER_CLASS: usize = 500;

impl OrganismSource {
    /// The set embedded in the software; seeds from 1 on draw fresh calibration samples from its world.
    ///
    /// # Errors
    ///
    /// [`Error::Organism`] when the embedded data cannot be read.
    pub fn embedded(part: Part, contrast: Contrast) -> Result<Self> {
        Ok(Self { data: OrganismData::embedded()?, part, contrast, embedded: true })
    }

    /// A set in the same format from a folder; seeds from 1 on resample its calibration samples.
    ///
    /// # Errors
    ///
    /// [`Error::Organism`] when a file is missing or broken.
    pub fn from_dir(folder: &Path, part: Part, contrast: Contrast) -> Result<Self> {
        Ok(Self { data: OrganismData::from_dir(folder)?, part, contrast, embedded: false })
    }
}

impl Source for OrganismSource {
    fn name(&self) -> String {
        let contrast = match self.contrast {
            Contrast::Matched => "matched",
            Contrast::Benign => "benign",
            Contrast::Mixed => "mixed",
        };
        format!("{ORGANISM} ({contrast} contrast)")
    }

    fn part(&self) -> Part {
        self.part
    }

    fn calibration(&self, seed: u64) -> Result<Vec<Sample>> {
        let convert = |samples: &[sgm_organism::Sample]| -> Vec<Sample> {
            samples.iter().map(|sample| organism_sample(sample, Split::Calibration, None)).collect()
        };
        if self.embedded && seed > 0 {
            return Ok(convert(&draw_calibration(seed, DRAWN_PER_CLASS, self.contrast)));
        }
        let samples = convert(self.data.calibration(self.contrast)?);
        both_classes(&self.name(), &samples)?;
        Ok(if seed == 0 { samples } else { resample(&samples, seed) })
    }

    fn evaluation(&self) -> Result<Evaluation> {
        let split = split_of(self.part);
        let data = self.data.split(self.part)?;
        let risky = |samples: &[sgm_organism::Sample], condition| -> Vec<Sample> {
            let convert = |sample| Sample { condition, ..organism_sample(sample, split, None) };
            samples.iter().map(convert).collect()
        };
        let utility = |samples: &[sgm_organism::Sample], task| -> Vec<Sample> {
            samples.iter().map(|sample| organism_sample(sample, Split::Utility, Some(task))).collect()
        };
        Ok(Evaluation {
            standard: risky(&data.standard, Condition::Standard),
            adversarial: risky(&data.adversarial, Condition::Adversarial),
            vqa: utility(&data.vqa, Task::Vqa),
            perplexity: utility(&data.perplexity, Task::Perplexity),
        })
    }
}

/// A sample of the synthetic world in the benchmark's terms.
fn organism_sample(sample: &sgm_organism::Sample, split: Split, task: Option<Task>) -> Sample {
    let adversarial = sample.cat == Category::A;
    let category = match sample.cat {
        Category::T => "T",
        Category::V => "V",
        Category::X => "X",
        Category::A => "A",
        Category::Benign => "benign",
    };
    let attack = if sample.held_out_prefix == Some(true) { "held_out_prefix" } else { "prefix" };
    // Where the right answer is what the model is asked for, it is in the reference.
    let given = split == Split::Calibration || task == Some(Task::Perplexity);
    Sample {
        id: sample.id.clone(),
        source: ORGANISM.to_owned(),
        split,
        category: category.to_owned(),
        condition: if adversarial { Condition::Adversarial } else { Condition::Standard },
        attack: adversarial.then(|| attack.to_owned()),
        image: sample.scene.clone().map(ImageRef::Scene),
        prompt: sample.question().to_owned(),
        response: sample.answer.clone().filter(|_| given),
        label: sample.toxic.filter(|_| split == Split::Calibration),
        reference: Some(Reference {
            kind: format!("{ORGANISM_PREFIX}{}", sample.kind),
            key: sample.key.clone(),
            answers: sample.answers.clone(),
        }),
        task,
    }
}

/// A manifest file as a source.
#[derive(Clone, Debug)]
pub struct ManifestSource {
    path: PathBuf,
    part: Part,
    samples: Vec<Sample>,
}

impl ManifestSource {
    /// Reads a manifest; seeds from 1 on resample its calibration samples.
    ///
    /// # Errors
    ///
    /// Those of [`manifest::read`].
    pub fn open(path: impl Into<PathBuf>, part: Part) -> Result<Self> {
        let path = path.into();
        let samples = manifest::read(&path)?;
        Ok(Self { path, part, samples })
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

    fn part(&self) -> Part {
        self.part
    }

    fn calibration(&self, seed: u64) -> Result<Vec<Sample>> {
        let samples = self.select(|sample| sample.split == Split::Calibration);
        both_classes(&self.name(), &samples)?;
        Ok(if seed == 0 { samples } else { resample(&samples, seed) })
    }

    fn evaluation(&self) -> Result<Evaluation> {
        let other = match self.part {
            Part::Dev => Part::Test,
            Part::Test => Part::Dev,
        };
        let split = split_of(self.part);
        let count = |split| self.samples.iter().filter(|sample| sample.split == split).count();
        let others = count(split_of(other));
        if count(split) == 0 && others > 0 {
            let (part, other) = (part_name(self.part), part_name(other));
            return Err(Error::EmptyPart { path: self.path.clone(), part, other, others });
        }
        let risky = |condition| self.select(|s| s.split == split && s.condition == condition);
        let utility = |task| self.select(|s| s.task == Some(task));
        Ok(Evaluation {
            standard: risky(Condition::Standard),
            adversarial: risky(Condition::Adversarial),
            vqa: utility(Task::Vqa),
            perplexity: utility(Task::Perplexity),
        })
    }
}

/// The name of a part in files.
pub(crate) fn part_name(part: Part) -> &'static str {
    match part {
        Part::Dev => "dev",
        Part::Test => "test",
    }
}

fn split_of(part: Part) -> Split {
    match part {
        Part::Dev => Split::Dev,
        Part::Test => Split::Test,
    }
}

fn both_classes(name: &str, samples: &[Sample]) -> Result<()> {
    let of = |label| samples.iter().filter(|sample| sample.label == Some(label)).count();
    let (toxic, non_toxic) = (of(true), of(false));
    if toxic == 0 || non_toxic == 0 {
        return Err(Error::OneClass { name: name.to_owned(), toxic, non_toxic });
    }
    Ok(())
}

/// As many samples of each class as there are, drawn with replacement.
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
