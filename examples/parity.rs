//! Holds a checkpoint against a golden file: what Hugging Face transformers computed for it.
//!
//!     cargo run --release --example parity -- --model DIR --golden golden.safetensors [--tolerance 1e-4] [--json out.json]
//!
//! Prints a table and exits with 1 if anything is over the tolerance. `tools/golden/golden.py` makes a golden file
//! for a checkpoint of yours.

#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::models::Checkpoint;
use sgm::parity::{Check, parity};
use sgm_examples::compute_arguments::ComputeArguments;

/// Holds a checkpoint against a golden file: what Hugging Face transformers computed for it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The model: a directory or file, or the id of a model in the local Hugging Face cache
    #[arg(long)]
    model: String,
    /// Where and in which numbers the model computes
    #[command(flatten)]
    compute: ComputeArguments,
    /// The golden file; golden.json is read from beside it
    #[arg(long)]
    golden: PathBuf,
    /// Largest difference allowed, relative to the largest golden value; counts must be 0
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
    /// Also write the comparisons to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    sgm_examples::process::start();
    let arguments = Arguments::parse();
    let checks = parity(&arguments.compute.apply(Checkpoint::open(&arguments.model)?)?, &arguments.golden)?;
    println!("{:<14} {:<28} {:>10} {:>10}  worst", "case", "what", "max abs", "relative");
    for check in &checks {
        let Check { case, what, max_abs, relative, worst } = check;
        let verdict = if check.passes(arguments.tolerance) { "" } else { "  FAILED" };
        println!("{case:<14} {what:<28} {max_abs:>10.2e} {relative:>10.2e}  {}{verdict}", worst.as_deref().unwrap_or(""));
    }
    let failed = checks.iter().filter(|c| !c.passes(arguments.tolerance)).count();
    println!("{} comparisons, {failed} over {:e}", checks.len(), arguments.tolerance);
    if let Some(path) = &arguments.json {
        let json = serde_json::json!({ "model": arguments.model, "tolerance": arguments.tolerance, "failed": failed, "checks": checks });
        std::fs::write(path, serde_json::to_vec_pretty(&json)?).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
