//! Builds benchmarks out of published data sets that you have, adds attacks to them, describes them.
//!
//!     benchmark build --mm-safetybench-answers DIR --beavertails-v DIR --mm-vet DIR --out mm-toxic-qa
//!     benchmark attack --manifest mm-toxic-qa/manifest.jsonl --attack figstep --out mm-toxic-qa-figstep
//!     benchmark datasheet mm-toxic-qa/manifest.jsonl
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use sgm::core::shortcut_warning;
use sgm::organism::{OrganismPrefix, OrganismWorld};
use sgm::toxic_qa::attacks::{Attack, Attacked, CaptionAttack, FigStepAttack, Jailbreak, Perturbation, attack_all};
use sgm::toxic_qa::builder::{Builder, DATASHEET, MANIFEST};
use sgm::toxic_qa::{BuildPlan, Datasheet, ImageFolder, manifest};
use sgm_examples::dataset_arguments::DatasetArguments;

/// Builds benchmarks out of published data sets that you have, adds attacks to them, describes them.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Builds a benchmark: a folder with a manifest, its images and a datasheet.
    Build {
        #[command(flatten)]
        datasets: Box<DatasetArguments>,
        /// The plan: which samples to take.
        #[arg(long, alias = "recipe", value_enum, default_value_t = PlanName::MmToxicQaV1)]
        plan: PlanName,
        /// Test samples in each category, instead of the plan's number.
        #[arg(long)]
        test: Option<usize>,
        /// Dev samples in each category, instead of the plan's number.
        #[arg(long)]
        dev: Option<usize>,
        /// Calibration samples of each label, instead of the plan's number.
        #[arg(long)]
        calibration: Option<usize>,
        /// Utility samples, instead of the plan's number.
        #[arg(long)]
        utility: Option<usize>,
        /// Decides which samples are taken.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Keep questions that occur several times: published rates of MM-SafetyBench count them.
        #[arg(long)]
        keep_duplicates: bool,
        /// Draw test and dev samples from all parts of a data set that is published in splits.
        #[arg(long)]
        ignore_splits: bool,
        /// Make hard links to image files instead of copies.
        #[arg(long)]
        link: bool,
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
        /// The folder to make.
        #[arg(long)]
        out: PathBuf,
    },
    /// Counts and hashes the samples of a manifest.
    Datasheet { manifest: PathBuf },
}

#[derive(Clone, Copy, ValueEnum)]
enum PlanName {
    /// A reconstruction of the paper's MM-TOXIC-QA.
    MmToxicQaV1,
    /// All samples of the sources.
    Everything,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Build { datasets, plan, test, dev, calibration, utility, seed, keep_duplicates, ignore_splits, link, out } => {
            let plan = match plan {
                PlanName::MmToxicQaV1 => BuildPlan::mm_toxic_qa_v1(),
                PlanName::Everything => BuildPlan::everything(),
            };
            let plan = BuildPlan {
                test_per_category: test.or(plan.test_per_category),
                dev_per_category: dev.unwrap_or(plan.dev_per_category),
                calibration_per_label: calibration.or(plan.calibration_per_label),
                utility: utility.or(plan.utility),
                ..plan
            };
            let mut builder = Builder::new(plan, seed);
            if let Some(selection) = datasets.selection()? {
                builder = builder.selecting(selection);
            }
            builder = datasets.open()?.into_iter().fold(builder, Builder::add);
            if keep_duplicates {
                builder = builder.keeping_duplicates();
            }
            if ignore_splits {
                builder = builder.ignoring_parts();
            }
            if link {
                builder = builder.linking();
            }
            let built = builder.build(&out)?;
            println!("{} samples in {}; see {DATASHEET} beside it", built.samples.len(), out.join(MANIFEST).display());
            print_left_out(&built.datasheet.left_out());
            if let Some(warning) = shortcut_warning(built.datasheet.shortcuts()) {
                println!("{warning}");
            }
        }
        Command::Attack { manifest: from, attack, templates, seed, out } => {
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
            println!("{} prompts under attack in {}", attacked.samples.len(), path.display());
            left_out.extend(attacked.left_out.iter().map(ToString::to_string));
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
