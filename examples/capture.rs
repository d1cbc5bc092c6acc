//! Captures a model's pooled activations into a store, or one worker's part of it.
//!
//!     cargo run --release --example capture -- --out STORE [--model DIR --manifest FILE.jsonl] [--pool mean,max --tokens all,response]
//!
//! In a Slurm job array or an indexed Kubernetes Job each task does its own part without being told which (docs/cluster.md).
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use sgm::capture::{Capture, Examples, NonFinite, Partition, Pool, Pooling, StoreDtype};
use sgm::core::{TokenSelection, sha256};
use sgm::models::Mllm;
use sgm::toxic_qa::{EvaluationSplit, Sample};
use sgm_examples::bad_samples::{self, BadSamples};
use sgm_examples::{calibration, process, subject::Subject};

/// Captures a model's pooled activations into a store, or one worker's part of it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    bad_samples: BadSamples,
    /// Pools: mean, max, min, last, maxabs.
    #[arg(long, value_delimiter = ',', default_value = "max", value_parser = |s: &str| named(Pool::ALL, Pool::name, s))]
    pool: Vec<Pool>,
    /// Tokens: all, text, image, prompt, response, prompt-end, last. Every pool is taken over each of them.
    #[arg(long, alias = "mask", value_delimiter = ',', default_value = "all")]
    tokens: Vec<TokenSelection>,
    /// Capture the neurons of single experts of mixtures too, which are very many.
    #[arg(long)]
    experts: bool,
    /// The dtype of stored responses: f32, bf16 or f16.
    #[arg(long, default_value_t = StoreDtype::F32)]
    store_dtype: StoreDtype,
    /// Samples run together.
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    /// Samples in a shard, rounded up to whole batches; by default up to 512, or 256 MiB.
    #[arg(long)]
    shard_samples: Option<usize>,
    /// Keep, and count, samples with responses that are NaN or infinite instead of stopping at them.
    #[arg(long)]
    keep_non_finite: bool,
    /// Only the first samples.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    limit: usize,
    /// This worker's part, such as 0/4; by default what a Slurm array or an indexed Job says, else everything.
    #[arg(long)]
    shard: Option<Partition>,
    /// Go on with a store that was begun. One of several workers always does.
    #[arg(long)]
    resume: bool,
    /// The directory of the store.
    #[arg(long)]
    out: PathBuf,
}

fn named<T: Copy, const N: usize>(all: [T; N], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.into_iter().find(|t| name(*t) == text).ok_or_else(|| format!("expected one of {}", all.map(name).join(", ")))
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    let partition = arguments.shard.map_or_else(Partition::from_environment, Ok)?;
    let (source, model) = (arguments.subject.source(EvaluationSplit::Test)?, arguments.subject.model()?);
    let samples: Vec<Sample> = source.calibration(0)?.into_iter().take(arguments.limit).collect();
    let (samples, skipped) = arguments.bad_samples.filter(samples, model.processor());
    bad_samples::summary(&skipped).iter().for_each(|text| println!("{text}"));
    let provenance = calibration::provenance(source.as_ref(), &samples)?;
    // The hash of the provenance does not cover the order of the samples, which decides what the shards hold.
    let order: String = samples.iter().map(|sample| format!("\n{}", sample.id)).collect();
    let samples_sha256 = sha256::hex_digest((provenance.sha256.clone() + &order).as_bytes());
    let capture = Capture {
        experts: arguments.experts,
        batch_size: arguments.batch_size,
        dtype: arguments.store_dtype,
        non_finite: if arguments.keep_non_finite { NonFinite::Keep } else { NonFinite::Refuse },
        shard_samples: arguments.shard_samples,
        calibration: Some(provenance),
        skipped,
        partition,
        resume: arguments.resume,
        ..Capture::new(
            arguments.tokens.iter().flat_map(|tokens| arguments.pool.iter().map(|pool| Pooling { pool: *pool, tokens: *tokens })).collect(),
        )
    };
    let make = |number: usize| samples.get(number).map_or_else(|| Err("there is no such sample".into()), |s| Ok(calibration::example(s)?));
    let done = capture.run(&model, &Examples::new(samples.len(), samples_sha256, make), &arguments.out)?;
    println!("part {partition}: {} samples run, {} shards written, {} found", done.samples, done.written, done.found);
    println!("{} is {}", arguments.out.display(), if done.finished { "finished" } else { "not finished: other parts are missing" });
    Ok(())
}
