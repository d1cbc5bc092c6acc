//! Bakes an intervention into a copy of a model, which then needs neither this software nor anything at run time.
//!
//! `--model organism` writes the embedded model, baked, as a directory that transformers loads.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::bake::{Amplify, bake};
use sgm::core::Intervention;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// A directory in the Hugging Face layout, a GGUF file, or `organism` for the embedded model.
    #[arg(long)]
    model: PathBuf,
    /// The intervention, as `glasses` writes it.
    #[arg(long)]
    intervention: PathBuf,
    /// The directory or GGUF file to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Allow scales above 1 or below 0, which can make the model more toxic.
    #[arg(long)]
    allow_amplification: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let intervention = Intervention::load(&arguments.intervention)?;
    let amplify = if arguments.allow_amplification { Amplify::Allow } else { Amplify::Refuse };
    let embedded = tempfile::tempdir()?;
    let model = if arguments.model.as_os_str() == "organism" {
        for (file, bytes) in sgm::organism::checkpoint_files() {
            std::fs::write(embedded.path().join(file), bytes).with_context(|| format!("cannot write {file} of the organism"))?;
        }
        embedded.path()
    } else {
        &arguments.model
    };
    let record = bake(model, &intervention, amplify, &arguments.out)?;
    println!("{}", record.table());
    println!(
        "written to {}: {} of {} neurons changed in {} tensors",
        arguments.out.display(),
        record.intervention.changed_neurons,
        record.intervention.neurons,
        record.tensors.len()
    );
    for file in &record.unbaked_weights {
        println!("copied as it is, though it may hold weights: {file}");
    }
    Ok(())
}
