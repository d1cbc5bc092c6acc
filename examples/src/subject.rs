//! The arguments that name model, data and judge.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;
use sgm::core::Intervention;
use sgm::models::{AutoMllm, Checkpoint};
use sgm::organism::{Contrast, OrganismSource, OrganismWorld};
use sgm::suppress::{Amplify, Glasses};
use sgm::toxic_qa::{Benchmark, EvaluationSplit, Judge, ManifestSource, Source, World};

use crate::compute_arguments::ComputeArguments;
use crate::judge_arguments::JudgeArguments;

/// A chat template that shows a language model the text of a prompt and nothing else.
const PLAIN: &str = "{% for message in messages %}{{ message.content }}{% endfor %}";

/// The arguments that name model, data and judge.
#[derive(Args, Debug, Clone)]
pub struct Subject {
    /// The model: a checkpoint directory in the Hugging Face layout, a GGUF file, or the id of a model in the local Hugging Face cache. The
    /// embedded organism by default.
    #[arg(long, requires = "manifest")]
    model: Option<String>,
    /// Shows the model the text of prompts without its chat template: a language model continues the text.
    #[arg(long, requires = "model")]
    plain: bool,
    /// Where and in which numbers the model computes.
    #[command(flatten)]
    compute: ComputeArguments,
    /// Static glasses that the model wears throughout, as if they were baked into it.
    #[arg(long, value_name = "INTERVENTION")]
    pub wear: Option<PathBuf>,
    /// A manifest of calibration and test samples instead of the organism's.
    #[arg(long, conflicts_with = "organism_data")]
    manifest: Option<PathBuf>,
    /// A directory with other draws of the organism's data, in the same JSONL files.
    #[arg(long, value_name = "DIR")]
    organism_data: Option<PathBuf>,
    /// The split to evaluate on: `dev`, on which settings are chosen, or `test`.
    #[arg(long, alias = "part")]
    split: Option<EvaluationSplit>,
    /// The same as `--split dev`.
    #[arg(long, conflicts_with = "split", hide = true)]
    dev: bool,
    /// The judge of answers.
    #[command(flatten)]
    pub judge: JudgeArguments,
}

impl Subject {
    /// The data, of one split unless another was asked for.
    ///
    /// # Errors
    ///
    /// Those of the source.
    pub fn source(&self, split: EvaluationSplit) -> Result<Box<dyn Source>> {
        let split = if self.dev { EvaluationSplit::Dev } else { self.split.unwrap_or(split) };
        Ok(match (&self.manifest, &self.organism_data) {
            (Some(manifest), _) => Box::new(ManifestSource::open_with(manifest, split, &OrganismWorld)?),
            (None, Some(directory)) => Box::new(OrganismSource::from_dir(directory, split, Contrast::Benign)?),
            (None, None) => Box::new(OrganismSource::embedded(split, Contrast::Benign)?),
        })
    }

    /// The benchmark of a source.
    ///
    /// # Errors
    ///
    /// Those of the source and of its images.
    pub fn benchmark(&self, source: &dyn Source) -> Result<Benchmark> {
        Ok(Benchmark::with_scorer(source.evaluation()?, OrganismWorld.scorer())?)
    }

    /// The model.
    ///
    /// # Errors
    ///
    /// Those of loading it, and of the glasses that it wears throughout.
    pub fn model(&self) -> Result<AutoMllm> {
        let checkpoint = match &self.model {
            Some(model) if self.plain => Checkpoint::open(model)?.with_chat_template(PLAIN),
            Some(model) => Checkpoint::open(model)?,
            None => sgm::organism::checkpoint()?,
        };
        let model = AutoMllm::load(&self.compute.apply(checkpoint)?)?;
        if let Some(path) = &self.wear {
            let glasses = Intervention::load(path)?;
            ensure!(glasses.condition.is_none(), "{} has a condition; only static glasses can be worn throughout", path.display());
            // Never taken off.
            std::mem::forget(Glasses::wear(&model, &glasses, Amplify::Refuse)?);
        }
        Ok(model)
    }

    /// Whether the model is the embedded organism.
    pub fn is_organism_model(&self) -> bool {
        self.model.is_none()
    }

    /// Whether the model sees prompts without its chat template.
    pub fn plain(&self) -> bool {
        self.plain
    }

    /// Whether model and data are the embedded ones.
    pub fn is_embedded_organism(&self) -> bool {
        self.model.is_none() && self.manifest.is_none() && self.organism_data.is_none()
    }

    /// The judge.
    ///
    /// # Errors
    ///
    /// As [`JudgeArguments::judge`].
    pub fn judge(&self) -> Result<Arc<dyn Judge>> {
        self.judge.judge(self.model.is_none())
    }
}
