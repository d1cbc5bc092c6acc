//! Searches glasses behind a gate on the dev split with a fixed budget: presets drawn at random, and the named ones, are measured on a part of the
//! split, the better half of them on twice as much, and so on (successive halving); measured as `glasses` measures. Prints the Pareto front of those that
//! are left, and the cheapest that meet a target. The test split is not touched.
#![allow(clippy::print_stdout, reason = "a binary")]

#[allow(dead_code, reason = "other examples use the rest")]
mod experiment;
mod process;
mod space;
mod subject;
mod targets;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use experiment::Drawing;
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sgm::core::Intervention;
use sgm::defend::Ingredients;
use sgm::models::Mllm;
use sgm::suppress::Preset;
use sgm::toxic_qa::metrics::successive_halving;
use sgm::toxic_qa::{Benchmark, Part, Provenance, Report, Run};
use subject::Subject;
use targets::Targets;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// How many presets are drawn.
    #[arg(long, default_value_t = 24)]
    budget: usize,
    /// How often half of them is kept, and the part of the split doubled, until it is all.
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
    process::settle();
    let arguments = Arguments::parse();
    let (source, model, judge) = (arguments.subject.source(Part::Dev)?, arguments.subject.model()?, arguments.subject.judge()?);
    let calibrated = experiment::calibrate(&model, source.as_ref(), (&source.calibration(arguments.seed)?, &judge), Preset::TEXT, 64)?;
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let mut presets: Vec<Preset> = Preset::NAMES.into_iter().map(Preset::named).collect::<Result<_, _>>()?;
    presets.extend(std::iter::repeat_with(|| space::draw(&mut rng)).flatten().take(arguments.budget));

    let neurons = model.info().neurons();
    let measure = |name: &str, glasses: Option<&Intervention>, rung: usize| -> Result<Run> {
        let mut benchmark = Benchmark::new(source.evaluation()?)?;
        benchmark.thin(1 << (arguments.rungs.max(1) - 1 - rung));
        let ingredients = Ingredients { intervention: glasses.cloned(), ..Ingredients::default() };
        let defence = if glasses.is_some() { "sgm" } else { "none" }.parse()?;
        let drawing = Drawing { seed: arguments.seed, max_new_tokens: 56, batch_size: 64 };
        let outcome = experiment::measure(&model, &benchmark, &judge, (&defence, &ingredients), drawing)?.outcome;
        Ok(Run::from_seeds(name, neurons, &[outcome])?)
    };
    let plain = (0..arguments.rungs.max(1)).map(|rung| measure("none", None, rung)).collect::<Result<Vec<_>>>()?;
    let measurements: usize = (0..arguments.rungs.max(1)).map(|rung| presets.len().div_ceil(1 << rung)).sum();
    let bar = ProgressBar::new((presets.len() + measurements) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed}")?);
    let mut fitted: Vec<(String, Intervention)> = Vec::new();
    for preset in &presets {
        fitted.push((space::describe(preset), preset.fit(&model, &calibrated)?));
        bar.inc(1);
    }
    let mut measured: Vec<(usize, Run, f64)> = Vec::new();
    let best = successive_halving(fitted, arguments.rungs, |(name, glasses), rung| -> Result<f64> {
        let run = measure(name, Some(glasses), rung)?;
        let missed = plain.get(rung).map_or(f64::NAN, |none| arguments.targets.missed(none, &run));
        measured.push((rung, run, missed));
        bar.inc(1);
        Ok(missed)
    })?;
    bar.finish_and_clear();

    let last = measured.iter().map(|(rung, ..)| *rung).max().unwrap_or(0);
    let finalist = |name: &String| measured.iter().find(|(rung, run, _)| *rung == last && run.name == *name).map(|(_, run, _)| run.clone());
    let runs = plain.into_iter().next_back().into_iter().chain(best.iter().filter_map(|(name, _)| finalist(name))).collect();
    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), &judge);
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
