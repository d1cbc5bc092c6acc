//! Scores every neuron of a store directory or of any safetensors file with responses and labels.
//!
//!     score --responses responses.safetensors --out scores.safetensors
//!
//! The file holds `responses` [samples, neurons] (f32, bf16 or f16) and `labels` u8 [samples]; a store directory holds
//! shards with one tensor per site. The output has f64 [neurons] tensors `auroc`, `auroc_se` (DeLong) and
//! `average_precision`, for a store under `<site>/`.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sgm::score::{ResponseFiles, ScoreOptions};

/// Scores every neuron of a store directory or of any safetensors file with responses and labels.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// A safetensors file, or the directory of an activation store.
    #[arg(long)]
    responses: PathBuf,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
    /// Threads; as many as there are cores if not given.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Working memory in MiB.
    #[arg(long, default_value_t = 256)]
    memory: usize,
    /// AUROC and its standard error alone.
    #[arg(long)]
    no_average_precision: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global()?;
    let store = args.responses.is_dir();
    let files = if store { ResponseFiles::open_store(&args.responses)? } else { ResponseFiles::open_file(&args.responses)? };
    let names: Vec<&str> = if store { files.names().collect() } else { vec!["responses"] };
    let options = ScoreOptions { memory: args.memory << 20, average_precision: !args.no_average_precision, effect: false };
    let (start, mut neurons, mut tensors) = (Instant::now(), 0, Vec::new());
    for name in names {
        let scores = files.score(name, &options)?;
        neurons += scores.auroc.len();
        let prefix = if store { format!("{name}/") } else { String::new() };
        let parts = [("auroc", scores.auroc), ("auroc_se", scores.auroc_se), ("average_precision", scores.average_precision)];
        let bytes = |values: Vec<f64>| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let asked = parts.into_iter().filter(|(part, _)| *part != "average_precision" || options.average_precision);
        tensors.extend(asked.map(|(part, values)| (format!("{prefix}{part}"), bytes(values))));
    }
    let seconds = start.elapsed().as_secs_f64();
    let views = tensors.iter().map(|(name, bytes)| Ok((name, TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes)?)));
    safetensors::serialize_to_file(views.collect::<Result<Vec<_>>>()?, None, &args.out)?;
    let (samples, threads) = (files.labels().len(), rayon::current_num_threads());
    println!("{neurons} neurons x {samples} samples in {seconds:.3} s on {threads} threads");
    Ok(())
}
