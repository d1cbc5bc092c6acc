//! Builds benchmarks out of published data sets that you have, adds attacks to them, describes them.
//!
//!     benchmark build --mm-safetybench-answers DIR --beavertails-v DIR --mm-vet DIR --out mm-toxic-qa
//!     benchmark attack --manifest mm-toxic-qa/manifest.jsonl --attack figstep --out mm-toxic-qa-figstep
//!     benchmark datasheet mm-toxic-qa/manifest.jsonl
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use sgm::core::{OnBadSample, shortcut_warning};
use sgm::organism::{OrganismPrefix, OrganismWorld};
use sgm::toxic_qa::attacks::{Attack, Attacked, CaptionAttack, FigStepAttack, Jailbreak, Perturbation, attack_all};
use sgm::toxic_qa::builder::{Builder, DATASHEET, MANIFEST};
use sgm::toxic_qa::{Datasheet, ImageFolder, manifest};
use sgm_examples::dataset_arguments::DatasetArguments;
use sgm_examples::plan_arguments::PlanArguments;

/// Builds benchmarks out of published data sets that you have, adds attacks to them, describes them.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Builds a benchmark: a folder with a manifest, its images and a datasheet.
    Build {
        #[command(flatten)]
        datasets: Box<DatasetArguments>,
        #[command(flatten)]
        plan: PlanArguments,
        /// The folder to make.
        #[arg(long)]
        out: PathBuf,
    },
    /// Adds the standard dev and test prompts under attack to the samples of a manifest.
    Attack {
        #[arg(long)]
        manifest: PathBuf,
        /// figstep, caption, jailbreak, prefix, held_out_prefix, case, spacing, typos or leetspeak.
        #[arg(long)]
        attack: String,
        /// The templates of the attack jailbreak.
        #[arg(long)]
        templates: Option<PathBuf>,
        /// Decides what is left to chance.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Samples whose image cannot be read, or that the attack cannot be made of: `skip` leaves them out and names them, `refuse` writes
        /// no manifest.
        #[arg(long, value_name = "POLICY", default_value_t = OnBadSample::Skip)]
        on_bad_sample: OnBadSample,
        /// The folder to make.
        #[arg(long)]
        out: PathBuf,
    },
    /// Counts and hashes the samples of a manifest.
    Datasheet { manifest: PathBuf },
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Build { datasets, plan, out } => {
            let mut builder = plan.builder();
            if let Some(selection) = datasets.selection()? {
                builder = builder.selecting(selection);
            }
            builder = datasets.open()?.into_iter().fold(builder, Builder::add);
            let built = builder.build(&out)?;
            println!("{} samples in {}; see {DATASHEET} beside it", built.samples.len(), out.join(MANIFEST).display());
            print_left_out(&built.datasheet.left_out());
            if let Some(warning) = shortcut_warning(built.datasheet.shortcuts()) {
                println!("{warning}");
            }
        }
        Command::Attack { manifest: from, attack, templates, seed, on_bad_sample, out } => {
            let attack = attack_named(&attack, templates.as_deref(), seed)?;
            let path = out.join(MANIFEST);
            if path.exists() {
                bail!("{} exists already; attack into another folder", path.display());
            }
            let images = ImageFolder::new(&out);
            let (mut samples, mut left_out) = (Vec::new(), Vec::new());
            for sample in manifest::read_with(&from, &OrganismWorld)? {
                match images.adopt(&sample) {
                    Ok(sample) => samples.push(sample),
                    Err(error @ sgm::toxic_qa::Error::Write(_)) => return Err(error.into()),
                    Err(error) => left_out.push(format!("{}: {error}", sample.id)),
                }
            }
            let attacked: Attacked = attack_all(&samples, &*attack, &images)?;
            left_out.extend(attacked.left_out.iter().map(ToString::to_string));
            if let (OnBadSample::Refuse, Some(first)) = (on_bad_sample, left_out.first()) {
                bail!("{} samples cannot be used, the first because of: {first}", left_out.len());
            }
            println!("{} prompts under attack in {}", attacked.samples.len(), path.display());
            println!("{} samples left out", left_out.len());
            print_left_out(&left_out.join("\n"));
            samples.extend(attacked.samples);
            manifest::write_with(&path, &samples, &OrganismWorld)?;
        }
        Command::Datasheet { manifest: path } => println!("{}", Datasheet::of(&manifest::read_with(&path, &OrganismWorld)?)?.markdown()),
    }
    Ok(())
}

/// Prints what was left out, a line each.
fn print_left_out(lines: &str) {
    lines.lines().for_each(|line| println!("left out: {line}"));
}

fn attack_named(name: &str, templates: Option<&Path>, seed: u64) -> Result<Box<dyn Attack>> {
    Ok(match name {
        "figstep" => Box::new(FigStepAttack),
        "caption" => Box::new(CaptionAttack),
        "jailbreak" => Box::new(Jailbreak::read(templates.context("give the attack jailbreak its --templates")?, seed)?),
        "prefix" => Box::new(OrganismPrefix::seen(seed)),
        "held_out_prefix" => Box::new(OrganismPrefix::held_out(seed)),
        change => match change.parse() {
            Ok(change) => Box::new(Perturbation { change, seed }),
            Err(_) => bail!("no attack `{name}`; see --help"),
        },
    })
}
