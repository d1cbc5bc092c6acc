//! Whether a device computes what the CPU does, and what glasses and capture cost there.
//!
//! First the embedded model: its logits, with glasses and without, and its pooled responses, on the device in f32 and bf16 against the CPU in
//! f32. Then a decoder of a given shape with random weights: the time of decoding with glasses on every neuron, which should be at most 0.5 %
//! more than without, and of capture, which should be at most 2 % more than a plain forward pass. Exits with 1 if something disagrees.
//!
//!     cargo run --release -p sgm-experiments --features cuda --bin gpu_check -- --device cuda --dtype bf16
#![allow(clippy::print_stdout, reason = "a binary")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use sgm::capture::{Pool, PooledTap, Pooling};
use sgm::models::{AutoMllm, Checkpoint, Mllm, ModelInputs, Padding, Prompt, TokenSelection, with_values};
use sgm::suppress::{Amplify, Glasses};
use sgm_examples::compute_arguments::{ComputeArguments, Numbers};
use sgm_examples::process;
use sgm_experiments::decoding;

/// Whether a device computes what the CPU does, and what glasses and capture cost there.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The device, and the numbers of the measurements.
    #[command(flatten)]
    compute: ComputeArguments,
    /// The width of the hidden states, a multiple of 64.
    #[arg(long, default_value_t = 4096)]
    hidden: usize,
    /// The width of the MLPs.
    #[arg(long, default_value_t = 11008)]
    intermediate: usize,
    /// The number of layers.
    #[arg(long, default_value_t = 8)]
    layers: usize,
    /// The number of sequences that run together.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// The number of tokens of each sequence.
    #[arg(long, default_value_t = 640)]
    tokens: usize,
    /// The number of rounds.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

fn main() -> Result<ExitCode> {
    process::start();
    let arguments = Arguments::parse();
    let agrees = agrees(&arguments.compute)?;
    measure(&arguments)?;
    Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the embedded model computes the same on the device, up to rounding.
fn agrees(compute: &ComputeArguments) -> Result<bool> {
    let expected = outputs(&sgm::organism::load()?)?;
    let mut agrees = true;
    println!("| against f32 on the CPU | logits | with glasses | pooled responses | allowed |\n|---|---|---|---|---|");
    // Of one rounding, times the roundings that may add up in its few layers.
    for (numbers, allowed) in [(Numbers::F32, 1e-4), (Numbers::Bf16, 16.0 / 256.0)] {
        let mut compute = compute.clone();
        compute.dtype = numbers;
        let found = outputs(&AutoMllm::load(&compute.apply(sgm::organism::checkpoint()?)?)?)?;
        let gaps: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| gap(a, b)).collect();
        agrees &= gaps.iter().all(|gap| *gap <= allowed);
        let cells: String = gaps.iter().map(|gap| format!(" {gap:.1e} |")).collect();
        println!("| {:?} |{cells} {allowed:.1e} |", compute.dtype());
    }
    println!();
    Ok(agrees)
}

/// The logits of some prompts, plain and with glasses on every neuron, and all pooled responses.
fn outputs(model: &AutoMllm) -> Result<[Vec<f32>; 3]> {
    let prompts = ["what colour is the ring?", "hello. what do you see in the picture?"].map(|text| Prompt::user(text, None));
    let inputs = model.processor().prompts(&prompts, Padding::Right)?;
    let logits = || -> Result<Vec<f32>> { Ok(with_values(&model.logits(&forward(model, &inputs)?)?, <[f32]>::to_vec)?) };
    let plain = logits()?;
    let glasses = Glasses::wear(model, &decoding::everywhere(model)?, Amplify::Refuse)?;
    let worn = logits()?;
    drop(glasses);
    let tap = tap();
    let attached = model.taps().attach(tap.clone());
    forward(model, &inputs)?;
    drop(attached);
    let responses = tap.take().into_values().flatten().flat_map(|sites| sites.into_values().flatten()).collect();
    Ok([plain, worn, responses])
}

fn forward(model: &AutoMllm, inputs: &ModelInputs) -> Result<candle_core::Tensor> {
    Ok(model.prefill(inputs, &mut model.new_cache())?)
}

fn tap() -> Arc<PooledTap> {
    Arc::new(PooledTap::new(vec![
        Pooling { pool: Pool::Mean, tokens: TokenSelection::All },
        Pooling { pool: Pool::Max, tokens: TokenSelection::All },
    ]))
}

/// The root of the mean squared difference, in relation to that of the second.
fn gap(a: &[f32], b: &[f32]) -> f64 {
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let error = sum(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if a.len() == b.len() { (error / sum(&mut b.iter().copied())).sqrt() } else { f64::INFINITY }
}

/// Times decoding with and without glasses, and forward passes with and without capture.
fn measure(arguments: &Arguments) -> Result<()> {
    let Arguments { hidden, intermediate, layers, batch, tokens, rounds, .. } = *arguments;
    let directory = tempfile::tempdir()?;
    sgm_benches::write_random_decoder(directory.path(), hidden, intermediate, layers, 1000)?;
    let model = AutoMllm::load(&arguments.compute.apply(Checkpoint::open(directory.path())?)?)?;
    let prompts = vec![Prompt::Raw { text: vec!["word"; tokens].join(" "), images: Vec::new() }; batch];
    println!("| decoding one token | batch | microseconds | against none [95 % of the rounds] |\n|---|---|---|---|");
    decoding::compare("random", &model, &decoding::everywhere(&model)?, &prompts, rounds)?;

    let inputs = model.processor().prompts(&prompts, Padding::Left)?;
    let seconds = || -> Result<f64> {
        let start = Instant::now();
        forward(&model, &inputs)?.device().synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    seconds()?;
    let (mut plain, mut captured) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        plain.push(seconds()?);
        let tap = tap();
        let _attached = model.taps().attach(tap.clone());
        captured.push(seconds()?);
    }
    let ratios: Vec<f64> = captured.iter().zip(&plain).map(|(with, without)| 100.0 * (with / without - 1.0)).collect();
    let range = |values: &[f64]| [0.5, 0.0, 1.0].map(|level| decoding::quantile(values, level));
    let [[median, low, high], [fewer, _, _], [more, least, most]] = [range(&plain), range(&captured), range(&ratios)];
    println!("\n| {batch} samples of {tokens} tokens | samples/s | median milliseconds [least, most] |\n|---|---|---|");
    println!("| forward | {:.1} | {:.2} [{:.2}, {:.2}] |", batch as f64 / median, 1e3 * median, 1e3 * low, 1e3 * high);
    println!("| forward and capture | {:.1} | {:+.1} % [{:+.1}, {:+.1}] |", batch as f64 / fewer, more, least, most);
    Ok(())
}
