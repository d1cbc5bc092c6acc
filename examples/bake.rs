//! Bakes an intervention into a copy of a model, which then needs neither this software nor anything at run time.
//!
//! `--model organism` writes the embedded model, baked, as a directory that transformers loads. Its weights are widened to f32 first, so that
//! products are not rounded to 16 bits.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::{DType, Device};
use clap::Parser;
use safetensors::tensor::TensorView;
use sgm::bake::{Amplify, Options, bake_with};
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
        for (file, bytes) in sgm::organism::checkpoint_files() {
            let bytes = match *file {
                "model.safetensors" => widened(bytes)?,
                "config.json" => std::str::from_utf8(bytes)?.replace(r#""dtype": "float16""#, r#""dtype": "float32""#).into_bytes(),
                _ => bytes.to_vec(),
            };
            std::fs::write(embedded.path().join(file), bytes).with_context(|| format!("cannot write {file} of the organism"))?;
        }
        embedded.path()
    } else {
        &arguments.model
    };
    let options = Options { amplify, alignment: arguments.alignment };
    let record = bake_with(model, &intervention, options, &arguments.out)?;
    println!("{}", record.table());
    println!(
        "written to {}: {} of {} neurons changed in {} tensors",
        arguments.out.display(),
        record.intervention.changed_neurons,
        record.intervention.neurons,
        record.tensors.len()
    );
    if let Some(widened) = &record.widened {
        println!("{} patch neurons added; every layer has {} neurons more", record.intervention.added_neurons, widened.added);
    }
    if intervention.probe.is_some() {
        println!("its probe cannot be baked: the model now wears the glasses always, on benign prompts too");
    }
    for file in &record.unbaked_weights {
        println!("copied as it is, though it may hold weights: {file}");
    }
    Ok(())
}

/// A safetensors file with its weights in f32, which holds 16-bit ones exactly.
fn widened(file: &[u8]) -> Result<Vec<u8>> {
    let mut tensors = Vec::new();
    for (name, tensor) in candle_core::safetensors::load_buffer(file, &Device::Cpu)? {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push((name, tensor.dims().to_vec(), bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| Ok((name, TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes)?)));
    let format = [("format".to_owned(), "pt".to_owned())].into();
    Ok(safetensors::serialize(views.collect::<Result<Vec<_>>>()?, Some(format))?)
}
