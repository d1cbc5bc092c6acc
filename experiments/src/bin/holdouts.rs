//! Leaves one trigger, or one category, out of calibration at a time, and measures the prompts that have it: with glasses calibrated on
//! everything, with glasses calibrated without it, and without glasses. See `glasses` for what the glasses cost.
//!
//!     cargo run --release -p sgm-experiments --bin holdouts -- --preset conditional
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use sgm::comparison::NamedGlasses;
use sgm::core::{Intervention, write_atomically};
use sgm::defend::DefenceResources;
use sgm::measurement;
use sgm::models::Mllm;
use sgm::organism::OrganismWorld;
use sgm::suppress::Preset;
use sgm::toxic_qa::{Benchmark, Evaluation, EvaluationSplit, Provenance, Sample, World};
use sgm_examples::answering::Answering;
use sgm_examples::budget_arguments::BudgetArguments;
use sgm_examples::calibration::{self, is_of};
use sgm_examples::process;
use sgm_examples::progress::Progress;
use sgm_examples::subject::Subject;
use sgm_experiments::holdout::{self, Holdout, HoldoutReport};

/// Leaves one trigger, or one category, out of calibration at a time, and measures the prompts that have it: with glasses calibrated on
/// everything, with glasses calibrated without it, and without glasses. See `glasses` for what the glasses cost.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    budget: BudgetArguments,
    /// The number of seeds, each with a calibration set and random answers of its own.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The preset, or other glasses by name.
    #[arg(long, default_value = "conditional")]
    preset: String,
    /// Only these categories and triggers; all by default.
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// The report to write.
    #[arg(long, default_value = "out/holdouts.json")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    // The judge first: a large model is not loaded only to find that there is none.
    let (source, judge, model) = (arguments.subject.source(EvaluationSplit::Dev)?, arguments.subject.judge()?, arguments.subject.model()?);
    let budget = arguments.budget.budget();
    let Evaluation { standard, adversarial, .. } = source.evaluation()?;
    let mut holdouts = Holdout::all(&[standard.clone(), adversarial.clone()].concat(), &source.calibration(0)?);
    holdouts.retain(|holdout| arguments.without.is_empty() || arguments.without.contains(&holdout.name));
    let progress = Progress::new(arguments.seeds * (1 + holdouts.len() as u64));

    for seed in 0..arguments.seeds {
        let glasses = |samples: &[Sample]| -> Result<Intervention> {
            let calibrator = calibration::calibrate(&model, source.as_ref(), samples, &judge, Preset::TEXT, 64)?;
            let calibrator = arguments.budget.with_neutral(calibrator, &arguments.subject, source.as_ref(), seed)?;
            Ok(NamedGlasses::new(&arguments.preset, arguments.budget.gate_rate, budget.as_ref())?.fit(&model, &calibrator)?)
        };
        let samples = source.calibration(seed)?;
        let all = progress.step(format!("seed {seed}, all"), || glasses(&samples))?;
        for Holdout { name, outcomes, .. } in &mut holdouts {
            progress.step(format!("seed {seed}, without {name}"), || -> Result<()> {
                let of = |samples: &[Sample], inside| samples.iter().filter(|s| is_of(s, name) == inside).cloned().collect::<Vec<_>>();
                let only = Evaluation { standard: of(&standard, true), adversarial: of(&adversarial, true), ..Evaluation::default() };
                let benchmark = Benchmark::with_scorer(only, OrganismWorld.scorer())?;
                let without = glasses(&of(&samples, false))?;
                for (outcome, intervention) in outcomes.iter_mut().zip([&Intervention::default(), &all, &without]) {
                    let resources = DefenceResources { intervention: Some(intervention.clone()), ..DefenceResources::default() };
                    let answering = Answering::with_seed(seed);
                    let measured =
                        measurement::measure(&model, &benchmark, judge.as_ref(), (&"sgm".parse()?, &resources), answering.options())?
                            .outcome;
                    outcome.prompts.extend([measured.standard, measured.adversarial].concat());
                    outcome.detected.extend(measured.detection.into_iter().flat_map(|detected| detected.risky));
                }
                Ok(())
            })?;
        }
    }
    drop(progress);

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), judge.as_ref());
    provenance.calibration = serde_json::json!({"worn throughout": arguments.subject.wear});
    let report = HoldoutReport {
        provenance,
        preset: arguments.preset,
        seeds: arguments.seeds,
        rows: holdout::one_at_a_time(&holdouts).iter().chain(&holdouts).map(Holdout::row).collect(),
    };
    write_atomically(&arguments.out, &serde_json::to_vec_pretty(&report)?)?;
    println!("{}", report.markdown());
    println!("written to {}", arguments.out.display());
    Ok(())
}
