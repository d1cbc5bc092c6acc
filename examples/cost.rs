//! What glasses cost: the time of calibration, the bytes of the file, and what wearing them adds to the decoding of a token.
//!
//! The last is measured on the organism, or the model that is asked for, and on a decoder of 8 layers, 1,024 wide, with random weights.
//! Rounds in which every contender decodes in turn, so that a machine that gets slower or faster does so for all; then the ratio of medians.
//!
//!     RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo run --release --example cost
#![allow(clippy::print_stdout, reason = "a binary")]

#[path = "../benches/decoder.rs"]
mod decoder;
mod decoding;
#[allow(dead_code, reason = "other examples use the rest")]
mod experiment;
mod process;
#[allow(dead_code, reason = "other examples use the rest")]
mod subject;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::core::Intervention;
use sgm::models::{AutoMllm, Mllm, Prompt};
use sgm::suppress::Preset;
use sgm::toxic_qa::{Benchmark, Part, Source};
use subject::Subject;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// The glasses, by the name of their row.
    #[arg(long, default_value = "live")]
    preset: String,
    /// How often every contender decodes.
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Where the glasses go.
    #[arg(long, default_value = "out/cost.sgm.safetensors")]
    out: PathBuf,
    /// Glasses that were fitted before, instead of a calibration.
    #[arg(long)]
    intervention: Option<PathBuf>,
    /// No times: only rounds of this contender, `no glasses`, `always on`, `gate open` or `gate closed`, for a profiler to watch
    /// (`tools/cost/instructions.sh`).
    #[arg(long)]
    alone: Option<String>,
}

fn main() -> Result<()> {
    process::settle();
    let arguments = Arguments::parse();
    // On a thread of rayon's, where answers are generated too: no token waits for another thread.
    rayon::scope(|_| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let (source, model) = (arguments.subject.source(Part::Dev)?, arguments.subject.model()?);
    let prompt = || -> Result<Prompt> {
        let benchmark = Benchmark::new(source.evaluation()?)?;
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
    let (prompt, wide) = (prompt()?, decoder::random(1024, 2816, 8, 1000)?);
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
    let calibrated = timed(&capture, || experiment::calibrate(model, source, (&samples, &judge), Preset::TEXT, 64))?;
    timed(&format!("scores of {} neurons", model.info().neurons()), || Ok(calibrated.expertise()?))?;
    let layers = model.info().sites.iter().map(|info| info.site.layer).max().map_or(0, |last| last + 1);
    for (map, _) in &preset.maps {
        timed(&format!("fit of {layers} layers, {map}"), || Ok(calibrated.fit(model, map)?))?;
    }
    if let Some(rate) = preset.gate {
        timed("fit of probe and gate", || Ok(calibrated.probe(rate)?))?;
    }
    let rest = if preset.steering.is_some() { "fit of steering, and blending" } else { "blending" };
    let glasses = timed(rest, || Ok(preset.fit(model, &calibrated)?))?;
    glasses.save(&arguments.out)?;
    println!("| size of the file | {} bytes |", std::fs::metadata(&arguments.out)?.len());
    Ok(glasses)
}

/// Does something and prints how long it took.
fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    println!("| {what} | {:.2} s |", start.elapsed().as_secs_f64());
    Ok(done)
}
