//! One contender of `tools/peers/forward.sh`: times prefill and decoding of one model, whenever it is told to.
//!
//! It reads commands from standard input, one a line, and answers each with a line of JSON, so that contenders can take turns:
//!
//! * `round`: reads the prompt into an empty cache, then decodes so many tokens one by one, each with its logits;
//! * `glasses`: decodes after the same prompt with glasses on and without, step by step in turn, and as a control without both times;
//! * `peak`: multiplies and adds numbers in registers on all threads, as fast as the processor can.
//!
//! The first line of output comes after a round that warms up. The prompt is a safetensors file: `input_ids`, `mm_token_type_ids` (1
//! for the features of an image) and, for an image, `pixel_values`. Threads are those of `RAYON_NUM_THREADS` and `CANDLE_NUM_THREADS`.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use sgm::candle_core::{DType, Device, safetensors};
use sgm::core::{Intervention, Metadata, SiteIntervention, TokenKind};
use sgm::defend::ModelWithGlasses;
use sgm::models::{AutoMllm, Cache, Checkpoint, Matrices, Mllm, ModelInputs, TappedModel};
use sgm::suppress::Amplify;
use sgm_examples::process;

/// One contender of `tools/peers/forward.sh`: times prefill and decoding of one model, whenever it is told to.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The model directory or the GGUF file.
    model: PathBuf,
    /// The prompt.
    inputs: PathBuf,
    /// The number of tokens to decode.
    tokens: usize,
    /// The treatment of matrices that are stored in fewer bits than f32.
    #[arg(value_enum)]
    matrices: Stored,
}

#[derive(Clone, Copy, ValueEnum)]
enum Stored {
    Auto,
    Keep,
    Widen,
    /// The whole model computes in bf16.
    Bf16,
}

/// The token that is decoded at every step; which one it is makes no difference.
const TOKEN: u32 = 5;
/// The share of the neurons of each site that the glasses scale.
const SUPPRESSED: f64 = 0.1;
/// The number of pairs of steps, with glasses and without, in one answer.
const PAIRS: usize = 128;

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    // On a thread of rayon's, so that no token waits for another thread.
    rayon::scope(|_| serve(&arguments))
}

fn serve(arguments: &Arguments) -> Result<()> {
    let matrices = match arguments.matrices {
        Stored::Auto => Matrices::Auto,
        Stored::Keep => Matrices::Keep,
        Stored::Widen => Matrices::Widen,
        Stored::Bf16 => Matrices::Auto,
    };
    let dtype = if matches!(arguments.matrices, Stored::Bf16) { DType::BF16 } else { DType::F32 };
    let model = AutoMllm::load(&Checkpoint::open(&arguments.model)?.with_matrices(matrices).with_dtype(dtype)?)?;
    let inputs = inputs(&arguments.inputs)?;
    let mut rounds = 0;
    round(&model, &inputs, 2)?;
    let plain = TappedModel::new(&model);
    let worn = ModelWithGlasses::new(&model, &glasses(&model)?, Amplify::Refuse)?;
    let mut start = None;
    say(&json!({ "ready": model.info().name }))?;
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            "round" => {
                rounds += 1;
                say(&round(&model, &never_seen(&inputs, rounds)?, arguments.tokens)?)?;
            }
            "peak" => say(&json!({ "gflops": peak() }))?,
            "glasses" => {
                let start = match &mut start {
                    Some(cache) => cache,
                    none => none.insert(read(&plain, &inputs)?),
                };
                let [_, _, control] = in_turn(&plain, &plain, start)?;
                let [plain, worn, ratio] = in_turn(&plain, worn.model(), start)?;
                say(&json!({ "plain": plain, "worn": worn, "ratio": ratio, "control": control }))?;
            }
            other => bail!("no command {other:?}, there are round, glasses, peak"),
        }
    }
    Ok(())
}

fn say(answer: &Value) -> Result<()> {
    println!("{answer}");
    Ok(std::io::stdout().flush()?)
}

fn inputs(path: &Path) -> Result<ModelInputs> {
    let mut tensors = safetensors::load(path, &Device::Cpu)?;
    let mut take = |name: &str| tensors.remove(name).with_context(|| format!("{} has no {name}", path.display()));
    let ids = take("input_ids")?.to_dtype(DType::U32)?;
    let images = take("mm_token_type_ids")?.to_vec2::<i64>()?;
    let kind = |image: &i64| if *image == 0 { TokenKind::PromptText } else { TokenKind::Image };
    let kinds = images.iter().map(|row| row.iter().map(kind).collect()).collect();
    Ok(ModelInputs { input_ids: ids, kinds, ids: vec![0], tensors: tensors.into_iter().collect() })
}

/// The same prompt with an image that differs in the last digits: a model keeps the features of images that it has seen.
fn never_seen(inputs: &ModelInputs, round: u32) -> Result<ModelInputs> {
    let mut inputs = inputs.clone();
    if let Some(pixels) = inputs.tensors.get_mut("pixel_values") {
        *pixels = (&*pixels * (1.0 + 1e-6 * f64::from(round)))?;
    }
    Ok(inputs)
}

/// Floating-point operations on f32 per second, in 10^9, of multiply-adds that wait for no memory, on all threads.
fn peak() -> f64 {
    const STEPS: usize = 20_000_000;
    /// Independent sums, enough to keep two units busy, in as many registers as there are.
    const SUMS: usize = 12;
    const LANES: usize = 8;
    let work = || {
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let mut sums = [[0f32; LANES]; SUMS];
                for _ in 0..std::hint::black_box(STEPS) {
                    for sum in sums.as_flattened_mut() {
                        *sum = sum.mul_add(0.999, 0.001);
                    }
                }
                std::hint::black_box(sums);
            },
        );
    };
    let start = Instant::now();
    rayon::broadcast(|_| work());
    (2 * STEPS * SUMS * LANES * rayon::current_num_threads()) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Random scales of a tenth of the neurons of every site.
fn glasses(model: &AutoMllm) -> Result<Intervention> {
    let (mut glasses, mut rng) = (Intervention::new(Metadata::default()), ChaCha8Rng::seed_from_u64(0));
    for info in &model.info().sites {
        let mut scale = || if rng.random_bool(SUPPRESSED) { rng.random_range(0.5..1.0) } else { 1.0 };
        glasses.insert(info.site, SiteIntervention::from_scale((0..info.width).map(|_| scale()).collect()))?;
    }
    Ok(glasses)
}

/// Times one prefill and the tokens after it.
fn round(model: &AutoMllm, inputs: &ModelInputs, tokens: usize) -> Result<Value> {
    let mut cache = model.new_cache();
    let start = Instant::now();
    let hidden = model.prefill(inputs, &mut cache)?;
    let last = hidden.narrow(1, hidden.dim(1)? - 1, 1)?;
    let logits = model.logits(&last)?;
    let prefill = milliseconds(start);
    let start = Instant::now();
    for _ in 0..tokens {
        step(model, &mut cache)?;
    }
    let decode = milliseconds(start) / tokens as f64;
    Ok(
        json!({ "prefill": prefill, "decode": decode, "logits": logits.flatten_all()?.narrow(0, 0, 64)?.to_dtype(DType::F32)?.to_vec1::<f32>()? }),
    )
}

fn read<M: Mllm>(model: &M, inputs: &ModelInputs) -> Result<Cache> {
    let mut cache = model.new_cache();
    model.prefill(inputs, &mut cache)?;
    Ok(cache)
}

/// Times steps without glasses and with them, in turn: the median times and the median of the ratios of pairs.
///
/// Each of two caches has its place in memory, which alone makes some 0.5 % of a step. Which cache a model gets and which model begins
/// therefore change so that every combination is as frequent.
fn in_turn<M: Mllm>(plain: &M, worn: &M, start: &Cache) -> Result<[f64; 3]> {
    let mut caches = [start.clone(), start.clone()];
    for cache in &mut caches {
        // The first step copies the cache.
        step(plain, cache)?;
    }
    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let [first, second] = &mut caches;
        let (a, b) = if pair % 4 < 2 { (first, second) } else { (second, first) };
        let (a, b) = if pair % 2 == 0 {
            let a = timed_step(plain, a)?;
            (a, timed_step(worn, b)?)
        } else {
            let b = timed_step(worn, b)?;
            (timed_step(plain, a)?, b)
        };
        without.push(a);
        with.push(b);
        ratios.push(b / a);
    }
    Ok([median(without), median(with), median(ratios)])
}

fn step<M: Mllm>(model: &M, cache: &mut Cache) -> Result<()> {
    let hidden = model.decode(&[TOKEN], cache)?;
    std::hint::black_box(model.logits(&hidden)?);
    Ok(())
}

fn timed_step<M: Mllm>(model: &M, cache: &mut Cache) -> Result<f64> {
    let start = Instant::now();
    step(model, cache)?;
    Ok(milliseconds(start))
}

fn milliseconds(start: Instant) -> f64 {
    1e3 * start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
