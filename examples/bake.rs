//! Bakes an intervention into a copy of a model, which then needs neither this software nor anything at run time.
//!
//! `--model organism` writes the embedded model, baked, as a directory that transformers loads. Its weights are widened to f32 first, so
//! that products are not rounded to 16 bits.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::bake::{Amplify, Options, bake_with};
use sgm::core::Intervention;
use sgm::models::Checkpoint;

/// Bakes an intervention into a copy of a model, which then needs neither this software nor anything at run time.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A directory in the Hugging Face layout, a GGUF file, a model id in the Hugging Face cache, or `organism` for the embedded model.
    #[arg(long)]
    model: PathBuf,
    /// The intervention, as `glasses` writes it.
    #[arg(long)]
    intervention: PathBuf,
    /// The directory or GGUF file to write; it must not exist. A model in N parts is written as `<out>-00001-of-0000N.gguf` and so on.
    #[arg(long)]
    out: PathBuf,
    /// Keep the widths of MLPs that get patch neurons as divisible as they were, up to this number.
    #[arg(long, default_value_t = Options::default().alignment)]
    alignment: u64,
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
        sgm::organism::write_checkpoint(embedded.path())?;
        embedded.path().to_owned()
    } else if arguments.model.exists() {
        arguments.model
    } else {
        let found = Checkpoint::open(&arguments.model)?;
        found.path().context("the model is not in files")?.to_owned()
    };
    let options = Options { amplify, alignment: arguments.alignment };
    let record = bake_with(&model, &intervention, options, &arguments.out)?;
    println!("{}", record.table());
    // All parts of a split GGUF model have names of their own.
    let written = match record.files.first() {
        Some(first) if !arguments.out.exists() => arguments.out.with_file_name(&first.file),
        _ => arguments.out,
    };
    println!(
        "written to {}: {} of {} neurons changed in {} tensors",
        written.display(),
        record.intervention.changed_neurons,
        record.intervention.neurons,
        record.tensors.len()
    );
    if let Some(widened) = &record.widened {
        println!("{} patch neurons added; every layer has {} neurons more", record.intervention.added_neurons, widened.added);
    }
    if intervention.condition.is_some() {
        println!("its condition cannot be baked: the glasses now act always, at benign prompts too");
    }
    for file in &record.unbaked_weights {
        println!("copied as it is, though it may hold weights: {file}");
    }
    Ok(())
}
