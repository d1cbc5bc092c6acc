//! Whom an experiment asks, what, and who judges the answers.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use sgm::models::{AutoMllm, Checkpoint};
use sgm::toxic_qa::{Contrast, LexiconJudge, ManifestSource, OrganismSource, Part, Source};

#[derive(Args)]
pub(crate) struct Subject {
    /// A checkpoint directory in the Hugging Face layout; the embedded organism by default.
    #[arg(long, requires = "manifest")]
    model: Option<PathBuf>,
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
        Ok(match &self.model {
            Some(directory) => AutoMllm::load(&Checkpoint::open(directory)?)?,
            None => sgm::organism::load()?,
        })
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
