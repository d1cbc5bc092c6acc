//! The cost of glasses: the time of calibration, the size of the file, and the time that wearing them adds to the decoding of a token.
//!
//! Decoding is measured on the organism, or another model, and on a decoder of 8 layers, 1,024 wide, with random weights. Every contender
//! decodes in turn in each round, so that a machine that gets slower or faster does so for all; ratios are of medians.
//!
//!     RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo run --release -p sgm-experiments --bin cost
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::core::Intervention;
use sgm::models::{AutoMllm, Mllm, Prompt};
use sgm::suppress::Preset;
use sgm::toxic_qa::{EvaluationSplit, Source};
use sgm_examples::budget_arguments::BudgetArguments;
use sgm_examples::subject::Subject;
use sgm_examples::{calibration, process};
use sgm_experiments::decoding;

/// The cost of glasses: the time of calibration, the size of the file, and the time that wearing them adds to the decoding of a token.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    budget: BudgetArguments,
    /// The preset.
    #[arg(long, default_value = "conditional")]
    preset: String,
    /// The number of rounds.
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// The file of the glasses.
    #[arg(long, default_value = "out/cost.sgm.safetensors")]
    out: PathBuf,
    /// Glasses that were fitted before, instead of a calibration.
    #[arg(long)]
    intervention: Option<PathBuf>,
    /// Only rounds of this contender, without times: `no glasses`, `always on`, `condition holds` or `condition fails`; for a profiler
    /// (`tools/cost/instructions.sh`).
    #[arg(long)]
    alone: Option<String>,
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    // On a thread of rayon's, where answers are generated too, so that no token waits for another thread.
    rayon::scope(|_| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let (source, model) = (arguments.subject.source(EvaluationSplit::Dev)?, arguments.subject.model()?);
    let prompt = || -> Result<Prompt> {
        let benchmark = arguments.subject.benchmark(source.as_ref())?;
        benchmark.prompts().1.into_iter().next().context("the data have no benign prompt")
    };
    if let Some(contender) = &arguments.alone {
        let path = arguments.intervention.as_ref().context("--alone needs --intervention")?;
        return decoding::alone(&model, &Intervention::load(path)?, contender, prompt()?, arguments.rounds);
    }
    println!("{}, {} threads\n", model.info().name, rayon::current_num_threads());
    let glasses = match &arguments.intervention {
        Some(path) => Intervention::load(path)?,
        None => calibrate(arguments, source.as_ref(), &model)?,
    };
    println!("\n| decoding one token | batch | microseconds | against none [95 % of the rounds] |\n|---|---|---|---|");
    let (prompt, wide) = (prompt()?, sgm_benches::random_decoder(1024, 2816, 8, 1000)?);
    let words = Prompt::Raw { text: ["word"; 60].join(" "), images: Vec::new() };
    for batch in [1, 8] {
        decoding::compare(&model.info().name, &model, &glasses, &vec![prompt.clone(); batch], arguments.rounds)?;
    }
    for batch in [1, 8] {
        decoding::compare("1024 wide", &wide, &decoding::everywhere(&wide)?, &vec![words.clone(); batch], arguments.rounds.div_ceil(4))?;
    }
    Ok(())
}

/// Fits glasses and prints how long each part took.
fn calibrate(arguments: &Arguments, source: &dyn Source, model: &AutoMllm) -> Result<Intervention> {
    let (preset, judge) = (Preset::named(&arguments.preset)?, arguments.subject.judge()?);
    println!("| | |\n|---|---|");
    let samples = source.calibration(0)?;
    let capture = format!("capture of {} samples", samples.len());
    let calibrator = timed(&capture, || calibration::calibrate(model, source, &samples, &judge, Preset::TEXT, 64))?;
    let calibrator = arguments.budget.with_neutral(calibrator, &arguments.subject, source, 0)?;
    timed(&format!("scores of {} neurons", model.info().neurons()), || Ok(calibrator.expertise()?))?;
    let layers = model.info().sites.iter().map(|info| info.site.layer).max().map_or(0, |last| last + 1);
    for (component, _) in &preset.components {
        timed(&format!("fit of {layers} layers, {component}"), || Ok(calibrator.fit(model, component)?))?;
    }
    if preset.false_positive_rate.is_some() {
        timed("fit of the condition", || Ok(calibrator.condition(model, arguments.budget.gate_rate)?))?;
    }
    let glasses = timed("blending", || Ok(preset.fit(model, &calibrator)?))?;
    let glasses = match arguments.budget.budget() {
        None => glasses,
        Some(budget) => timed("search of the strength", || Ok(preset.fit_within(model, &calibrator, &budget)?))?,
    };
    glasses.save(&arguments.out)?;
    println!("| size of the file | {} bytes |", std::fs::metadata(&arguments.out)?.len());
    Ok(glasses)
}

/// Does a step and prints how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    println!("| {what} | {:.2} s |", start.elapsed().as_secs_f64());
    Ok(done)
}
