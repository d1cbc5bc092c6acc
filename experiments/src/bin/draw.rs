//! Writes the organism as files: fresh draws from its world in the files that `glasses --organism-data` reads, the embedded data as a
//! manifest, or the embedded model as a checkpoint directory.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use sgm::organism::{Contrast, OrganismData, OrganismSource, OrganismWorld};
use sgm::toxic_qa::{EvaluationSplit, Source, manifest};

/// Writes the organism as files: fresh draws from its world in the files that `glasses --organism-data` reads, the embedded data as a
/// manifest, or the embedded model as a checkpoint directory.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Fresh draws, in a directory.
    Fresh {
        /// The directory to write to.
        out: PathBuf,
        /// The seed: every seed has its own calibration, dev and test samples.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The size, in multiples of the embedded data's.
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
    },
    /// The embedded model, as a checkpoint directory with f32 weights.
    Checkpoint {
        /// The directory to write to.
        out: PathBuf,
    },
    /// The embedded calibration and test samples, as a manifest.
    Manifest {
        /// The file to write.
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Fresh { out, seed, scale } => {
            OrganismData::draw(seed, scale).write(&out)?;
            println!("drawn with seed {seed} at scale {scale} into {}", out.display());
        }
        Command::Checkpoint { out } => {
            sgm::organism::write_checkpoint(&out)?;
            println!("the embedded model in {}", out.display());
        }
        Command::Manifest { out } => {
            let source = OrganismSource::embedded(EvaluationSplit::Test, Contrast::Benign)?;
            let evaluation = source.evaluation()?;
            let sets = [source.calibration(0)?, evaluation.standard, evaluation.adversarial, evaluation.vqa, evaluation.perplexity];
            let samples = sets.concat();
            manifest::write_with(&out, &samples, &OrganismWorld)?;
            println!("{} samples in {}", samples.len(), out.display());
        }
    }
    Ok(())
}
