//! Whom an experiment asks, what, and who judges the answers.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use sgm::core::Intervention;
use sgm::models::{AutoMllm, Checkpoint};
use sgm::suppress::{Amplify, Glasses};
use sgm::toxic_qa::{Contrast, LexiconJudge, ManifestSource, OrganismSource, Part, Source};

/// What shows a language model the words of a prompt and nothing else.
const PLAIN: &str = "{% for message in messages %}{{ message.content }}{% endfor %}";

#[derive(Args)]
pub(crate) struct Subject {
    /// A checkpoint directory in the Hugging Face layout, or a GGUF file; the embedded organism by default.
    #[arg(long, requires = "manifest")]
    model: Option<PathBuf>,
    /// Prompts as they stand, without the model's chat template: a language model goes on from their text.
    #[arg(long, requires = "model")]
    plain: bool,
    /// Static glasses that the model wears from the start, as one that they are baked into would: all else comes on top.
    #[arg(long)]
    pub(crate) wear: Option<PathBuf>,
    /// A manifest of calibration and test samples instead of the organism's.
    #[arg(long, conflicts_with = "organism_data")]
    manifest: Option<PathBuf>,
    /// A directory with other draws of the organism's data, in the same JSONL files.
    #[arg(long)]
    organism_data: Option<PathBuf>,
    /// A word list, one term a line, for the judge; the organism's insults by default.
    #[arg(long)]
    words: Option<PathBuf>,
    /// The part to evaluate on: `dev`, on which settings are chosen, or `test`.
    #[arg(long, value_parser = part)]
    part: Option<Part>,
    /// The same as `--part dev`.
    #[arg(long, conflicts_with = "part")]
    dev: bool,
}

impl Subject {
    /// The data, of one part unless another is asked for.
    pub(crate) fn source(&self, part: Part) -> Result<Box<dyn Source>> {
        let part = if self.dev { Part::Dev } else { self.part.unwrap_or(part) };
        Ok(match (&self.manifest, &self.organism_data) {
            (Some(manifest), _) => Box::new(ManifestSource::open(manifest, part)?),
            (None, Some(directory)) => Box::new(OrganismSource::from_dir(directory, part, Contrast::Benign)?),
            (None, None) => Box::new(OrganismSource::embedded(part, Contrast::Benign)?),
        })
    }

    pub(crate) fn model(&self) -> Result<AutoMllm> {
        let model = match &self.model {
            Some(model) if self.plain => AutoMllm::load(&Checkpoint::open(model)?.with_chat_template(PLAIN))?,
            Some(model) => AutoMllm::load(&Checkpoint::open(model)?)?,
            None => sgm::organism::load()?,
        };
        if let Some(path) = &self.wear {
            let glasses = Intervention::load(path)?;
            ensure!(glasses.probe.is_none(), "{} has a gate; only static glasses can be worn from the start", path.display());
            // Never taken off.
            std::mem::forget(Glasses::wear(&model, &glasses, Amplify::Refuse)?);
        }
        Ok(model)
    }

    pub(crate) fn judge(&self) -> Result<LexiconJudge> {
        Ok(match &self.words {
            Some(words) => LexiconJudge::from_words(words)?,
            None => LexiconJudge::organism(),
        })
    }
}

fn part(name: &str) -> Result<Part, &'static str> {
    match name {
        "dev" => Ok(Part::Dev),
        "test" => Ok(Part::Test),
        _ => Err("expected dev or test"),
    }
}
