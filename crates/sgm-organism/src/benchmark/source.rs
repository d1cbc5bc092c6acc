//! The data of the world as a source of the benchmark.

use std::path::Path;
use std::sync::Arc;

use mm_toxic_qa::{Condition, Evaluation, EvaluationSplit, ImageRef, Reference, Sample, Scorer, Source, Split, Task, resample_calibration};

use crate::benchmark::scorer::{NAME, OrganismScorer};
use crate::{Category, Contrast, OrganismData, Result, draw_calibration};

/// The data of the world, embedded or from a directory, as a source of the benchmark.
///
/// ```
/// use mm_toxic_qa::{Benchmark, EvaluationSplit, Source};
/// use sgm_organism::{Contrast, OrganismSource};
///
/// let source = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign)?;
/// assert_eq!(source.calibration(1)?.len(), 1000); // a fresh draw for every seed
/// let benchmark = Benchmark::with_scorer(source.evaluation()?, source.scorer())?;
/// # let _ = benchmark;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OrganismSource {
    data: OrganismData,
    split: EvaluationSplit,
    contrast: Contrast,
    embedded: bool,
}

/// Toxic, and as many non-toxic, samples of a fresh calibration draw: the size of the shipped sets.
const DRAWN_PER_CLASS: usize = 500;

impl OrganismSource {
    /// The embedded data; seeds from 1 on draw fresh calibration samples from the world.
    ///
    /// # Errors
    ///
    /// As [`OrganismData::embedded`].
    pub fn embedded(split: EvaluationSplit, contrast: Contrast) -> Result<Self> {
        Ok(Self { data: OrganismData::embedded()?, split, contrast, embedded: true })
    }

    /// The data of a directory in the same files; seeds from 1 on resample its calibration samples.
    ///
    /// # Errors
    ///
    /// As [`OrganismData::from_dir`].
    pub fn from_dir(directory: &Path, split: EvaluationSplit, contrast: Contrast) -> Result<Self> {
        Ok(Self { data: OrganismData::from_dir(directory)?, split, contrast, embedded: false })
    }
}

impl Source for OrganismSource {
    fn name(&self) -> String {
        format!("{NAME} ({} contrast)", self.contrast.as_str())
    }

    fn split(&self) -> EvaluationSplit {
        self.split
    }

    fn scorer(&self) -> Arc<dyn Scorer> {
        Arc::new(OrganismScorer)
    }

    fn calibration(&self, seed: u64) -> mm_toxic_qa::Result<Vec<Sample>> {
        let convert = |samples: &[crate::Sample]| -> Vec<Sample> {
            samples.iter().map(|sample| converted(sample, Split::Calibration, None)).collect()
        };
        if self.embedded && seed > 0 {
            return Ok(convert(&draw_calibration(seed, DRAWN_PER_CLASS, self.contrast)));
        }
        resample_calibration(&self.name(), convert(self.data.calibration(self.contrast)?), seed)
    }

    fn evaluation(&self) -> mm_toxic_qa::Result<Evaluation> {
        let data = self.data.split(self.split)?;
        let risky = |samples: &[crate::Sample], condition| -> Vec<Sample> {
            let convert = |sample| Sample { condition, ..converted(sample, self.split.into(), None) };
            samples.iter().map(convert).collect()
        };
        let utility = |samples: &[crate::Sample], task| -> Vec<Sample> {
            samples.iter().map(|sample| converted(sample, Split::Utility, Some(task))).collect()
        };
        Ok(Evaluation {
            standard: risky(&data.standard, Condition::Standard),
            adversarial: risky(&data.adversarial, Condition::Adversarial),
            vqa: utility(&data.vqa, Task::Vqa),
            perplexity: utility(&data.perplexity, Task::Perplexity),
            refusal: Vec::new(),
        })
    }
}

/// A sample of the world as a sample of the benchmark.
fn converted(sample: &crate::Sample, split: Split, task: Option<Task>) -> Sample {
    let adversarial = sample.cat == Category::A;
    let category = match sample.cat {
        Category::T => "T",
        Category::V => "V",
        Category::X => "X",
        Category::A => "A",
        Category::Benign => "benign",
    };
    let attack = if sample.held_out_prefix == Some(true) { "held_out_prefix" } else { "prefix" };
    // The model generates the answers to all other samples; their right answers are in the reference.
    let given = split == Split::Calibration || task == Some(Task::Perplexity);
    Sample {
        id: sample.id.clone(),
        source: NAME.to_owned(),
        split,
        category: category.to_owned(),
        condition: if adversarial { Condition::Adversarial } else { Condition::Standard },
        attack: adversarial.then(|| attack.to_owned()),
        image: sample.scene.clone().map(|scene| ImageRef::Scene(Arc::new(scene))),
        prompt: sample.question().to_owned(),
        response: sample.answer.clone().filter(|_| given),
        label: sample.toxic.filter(|_| split == Split::Calibration),
        reference: Some(Reference { kind: format!("{NAME}/{}", sample.kind), key: sample.key.clone(), answers: sample.answers.clone() }),
        task,
        subcategory: None,
        request: None,
    }
}
