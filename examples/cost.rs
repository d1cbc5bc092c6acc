//! What glasses cost: the time of calibration, the bytes of the file, and what wearing them adds to the decoding of a token.
//!
//! The last is measured on the organism, or the model that is asked for, and on a decoder of 8 layers, 1,024 wide, with random weights.
//! Rounds in which every contender decodes in turn, so that a machine that gets slower or faster does so for all; then the ratio of medians.
//!
//!     RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo run --release --example cost
#![allow(clippy::print_stdout, reason = "a binary")]

#[path = "../benches/decoder.rs"]
mod decoder;
#[allow(dead_code, reason = "other examples use the rest")]
mod experiment;
mod rows;
#[allow(dead_code, reason = "other examples use the rest")]
mod subject;
mod threads;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use experiment::{Calibrated, TEXT_MEAN};
use rows::{FALSE_POSITIVE_RATE, Preset};
use sgm::core::{Gate, Intervention, Probe, SiteIntervention};
use sgm::defend::Worn;
use sgm::models::{AutoMllm, Cache, Mllm, Padding, Prompt, View};
use sgm::suppress::Amplify;
use sgm::toxic_qa::{Benchmark, Part, Source};
use subject::Subject;

/// Tensors come and go by the megabyte; the system's allocator gives each back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// The glasses, by the name of their row.
    #[arg(long, default_value = "adaptive")]
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
}

fn main() -> Result<()> {
    threads::settle();
    let arguments = Arguments::parse();
    let (source, model) = (arguments.subject.source(Part::Dev)?, arguments.subject.model()?);
    println!("{}, {} threads\n", model.info().name, rayon::current_num_threads());
    let glasses = match &arguments.intervention {
        Some(path) => Intervention::load(path)?,
        None => calibrate(&arguments, source.as_ref(), &model)?,
    };
    println!("\n| decoding one token | batch | microseconds | | without | |\n|---|---|---|---|---|---|");
    let benchmark = Benchmark::new(source.evaluation()?)?;
    let prompt = benchmark.prompts().1.into_iter().next().context("the data have no benign prompt")?;
    let wide = decoder::random(1024, 2816, 8, 1000)?;
    let words = Prompt::Raw { text: ["word"; 60].join(" "), images: Vec::new() };
    for batch in [1, 8] {
        compare(&model.info().name, &model, &glasses, &vec![prompt.clone(); batch], arguments.rounds)?;
    }
    for batch in [1, 8] {
        compare("1024 wide", &wide, &everywhere(&wide)?, &vec![words.clone(); batch], arguments.rounds.div_ceil(4))?;
    }
    Ok(())
}

/// Fits glasses and prints how long each part took.
fn calibrate(arguments: &Arguments, source: &dyn Source, model: &AutoMllm) -> Result<Intervention> {
    let preset = Preset::of(&arguments.preset)?;
    println!("| | |\n|---|---|");
    let samples = source.calibration(0)?;
    let capture = format!("capture of {} samples", samples.len());
    let calibrated = timed(&capture, || Calibrated::capture(model, source, samples, TEXT_MEAN, 64))?;
    timed(&format!("scores of {} neurons", model.info().neurons()), || calibrated.expertise())?;
    for (map, _) in &preset.maps {
        timed(&map.to_string(), || calibrated.fit(model, map))?;
    }
    if preset.gate.is_some() {
        timed("probe and gate", || calibrated.probe(FALSE_POSITIVE_RATE))?;
    }
    let glasses = preset.fit(model, &calibrated)?;
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

/// Times decoding without glasses and with them: always on, and behind a gate that is open or closed.
fn compare(name: &str, model: &AutoMllm, glasses: &Intervention, prompts: &[Prompt], rounds: usize) -> Result<()> {
    let with = |change: &dyn Fn(&mut Option<Probe>)| {
        let mut changed = glasses.clone();
        change(&mut changed.probe);
        Some(changed)
    };
    let mut contenders = vec![("no glasses", None), ("always on", with(&|probe| *probe = None))];
    if glasses.probe.is_some() {
        contenders.push(("gate open", with(&|p| p.iter_mut().for_each(|p| p.gate = Gate { on: 0.0, off: 0.0, watch: false }))));
        // No sum of responses makes up for this bias.
        contenders.push(("gate closed", with(&|p| p.iter_mut().for_each(|p| p.bias = -1e6))));
    }
    let inputs = model.processor().prompts(prompts, Padding::Left)?;
    let plain = View::new(model);
    let wear = |glasses: &Option<Intervention>| glasses.as_ref().map(|g| Worn::new(model, g, Amplify::Refuse)).transpose();
    let worn = contenders.iter().map(|(_, glasses)| wear(glasses)).collect::<Result<Vec<_>, _>>()?;
    let views: Vec<&View<_>> = worn.iter().map(|worn| worn.as_ref().map_or(&plain, Worn::model)).collect();
    let read = |view: &&View<_>| {
        let mut cache = view.new_cache();
        view.prefill(&inputs, &mut cache)?;
        Ok(cache)
    };
    let caches = views.iter().map(read).collect::<Result<Vec<_>>>()?;
    let mut seconds = vec![Vec::with_capacity(rounds); contenders.len()];
    for _ in 0..rounds {
        for ((view, cache), seconds) in views.iter().zip(&caches).zip(&mut seconds) {
            seconds.push(decode(*view, cache.clone(), prompts.len())?);
        }
    }
    let base = seconds.first().cloned().unwrap_or_default();
    for ((worn, _), seconds) in contenders.iter().zip(&seconds) {
        // Of the rounds, each against its own.
        let ratios: Vec<f64> = seconds.iter().zip(&base).map(|(with, without)| with / without).collect();
        let percent = |ratio: f64| format!("{:+.1} %", 100.0 * (ratio - 1.0));
        let ratio = percent(quantile(seconds, 0.5) / quantile(&base, 0.5));
        let [low, high] = [0.25, 0.75].map(|level| percent(quantile(&ratios, level)));
        let batch = prompts.len();
        println!("| {name}: {worn} | {batch} | {:.0} | {ratio} | {low} to {high} |", 1e6 * quantile(seconds, 0.5));
    }
    Ok(())
}

/// The seconds of one step of decoding.
fn decode<M: Mllm>(model: &M, mut cache: Cache, batch: usize) -> Result<f64> {
    const STEPS: u32 = 4;
    let tokens = vec![5; batch];
    // The first step copies the cache.
    model.decode(&tokens, &mut cache)?;
    let start = Instant::now();
    for _ in 0..STEPS {
        std::hint::black_box(model.decode(&tokens, &mut cache)?);
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(STEPS))
}

/// Glasses that change every neuron of every site a little, behind a probe that reads them all.
fn everywhere(model: &AutoMllm) -> Result<Intervention> {
    let (mut glasses, mut probe) = (Intervention::default(), Probe::default());
    for info in &model.info().sites {
        let shift = Some(vec![1e-3; info.width]);
        glasses.insert(info.site, SiteIntervention { shift, ..SiteIntervention::from_scale(vec![0.99; info.width]) })?;
        probe.insert(info.site, vec![1e-3; info.width])?;
    }
    glasses.probe = Some(probe);
    Ok(glasses)
}

/// A value below which a share of the values lies.
fn quantile(values: &[f64], level: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (level * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
