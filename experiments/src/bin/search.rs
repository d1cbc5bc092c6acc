//! Searches conditional glasses on the dev split with a fixed budget: presets drawn at random, and the named ones, are measured on a part
//! of the split, the better half of them on twice as much, and so on (successive halving). Prints the Pareto front of those that are left,
//! and the cheapest that meet the targets. The test split is not touched.
//!
//!     cargo run --release -p sgm-experiments --bin search -- --budget 36
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sgm::core::Intervention;
use sgm::defend::DefenceResources;
use sgm::models::Mllm;
use sgm::suppress::Preset;
use sgm::toxic_qa::metrics::successive_halving;
use sgm::toxic_qa::{EvaluationSplit, Provenance, Report, Run};
use sgm_examples::measure::{self, Answering};
use sgm_examples::progress::Progress;
use sgm_examples::subject::Subject;
use sgm_examples::{calibration, process};
use sgm_experiments::space;
use sgm_experiments::targets::Targets;

/// Searches conditional glasses on the dev split with a fixed budget: presets drawn at random, and the named ones, are measured on a part
/// of the split, the better half of them on twice as much, and so on (successive halving). Prints the Pareto front of those that are left,
/// and the cheapest that meet the targets. The test split is not touched.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// The number of presets that are drawn.
    #[arg(long, default_value_t = 24)]
    budget: usize,
    /// The number of rounds; each keeps half of the presets and doubles the part of the split, until it is all.
    #[arg(long, default_value_t = 4)]
    rungs: usize,
    /// The seed of presets, calibration and answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    targets: Targets,
    /// The report to write.
    #[arg(long, default_value = "out/search.json")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    // The judge first: a large model is not loaded only to find that there is none.
    let (source, judge, model) = (arguments.subject.source(EvaluationSplit::Dev)?, arguments.subject.judge()?, arguments.subject.model()?);
    let samples = source.calibration(arguments.seed)?;
    let calibrator = calibration::calibrate(&model, source.as_ref(), &samples, &judge, Preset::TEXT, 64)?;
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let mut presets: Vec<Preset> = Preset::NAMES.into_iter().map(Preset::named).collect::<Result<_, _>>()?;
    presets.extend(std::iter::repeat_with(|| space::draw(&mut rng)).flatten().take(arguments.budget));

    let neurons = model.info().neurons();
    let measure = |name: &str, glasses: Option<&Intervention>, rung: usize| -> Result<Run> {
        let mut benchmark = arguments.subject.benchmark(source.as_ref())?;
        benchmark.thin(1 << (arguments.rungs.max(1) - 1 - rung));
        let resources = DefenceResources { intervention: glasses.cloned(), ..DefenceResources::default() };
        let defences = if glasses.is_some() { "sgm" } else { "none" }.parse()?;
        let answering = Answering::with_seed(arguments.seed);
        let mut outcome = measure::measure(&model, &benchmark, judge.as_ref(), (&defences, &resources), answering)?.outcome;
        outcome.detection = glasses.map_or(Ok(None), |glasses| measure::detected(&model, &benchmark, glasses, answering))?;
        Ok(Run::from_seeds(name, neurons, &[outcome])?)
    };
    let plain = (0..arguments.rungs.max(1)).map(|rung| measure("none", None, rung)).collect::<Result<Vec<_>>>()?;
    let measurements: usize = (0..arguments.rungs.max(1)).map(|rung| presets.len().div_ceil(1 << rung)).sum();
    let progress = Progress::new((presets.len() + measurements) as u64);
    let mut fitted: Vec<(String, Intervention)> = Vec::new();
    for preset in &presets {
        let name = space::describe(preset);
        let glasses = progress.step(format!("fit of {name}"), || preset.fit(&model, &calibrator))?;
        fitted.push((name, glasses));
    }
    let mut measured: Vec<(usize, Run, f64)> = Vec::new();
    let best = successive_halving(fitted, arguments.rungs, |(name, glasses), rung| -> Result<f64> {
        let run = progress.step(name.clone(), || measure(name, Some(glasses), rung))?;
        let missed = plain.get(rung).map_or(f64::NAN, |none| arguments.targets.missed(none, &run));
        measured.push((rung, run, missed));
        Ok(missed)
    })?;
    drop(progress);

    let last = measured.iter().map(|(rung, ..)| *rung).max().unwrap_or(0);
    let finalist = |name: &String| measured.iter().find(|(rung, run, _)| *rung == last && run.name == *name).map(|(_, run, _)| run.clone());
    let runs = plain.into_iter().next_back().into_iter().chain(best.iter().filter_map(|(name, _)| finalist(name))).collect();
    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), judge.as_ref());
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": 56, "vqa": "greedy"});
    let rows = measured.iter().map(|(rung, run, missed)| serde_json::json!({"rung": rung, "glasses": run.name, "missed": missed}));
    provenance.calibration =
        serde_json::json!({"seed": arguments.seed, "targets": arguments.targets, "measured": rows.collect::<Vec<_>>()});
    let report = Report::new(provenance, runs);
    report.write(&arguments.out)?;
    println!("{}", report.markdown());
    arguments.targets.choose(&report.runs);
    Ok(())
}
