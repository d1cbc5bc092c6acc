//! Folds glasses into an unmodified model of candle-transformers: `fold_into_candle LLAMA_DIR GLASSES.sgm.safetensors`.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use sgm::bake::{Amplify, ScaledBackend};
use sgm::core::Intervention;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("usage: fold_into_candle LLAMA_DIR GLASSES")?);
    let glasses = Intervention::load(arguments.next().context("usage: fold_into_candle LLAMA_DIR GLASSES")?)?;

    // candle's own way to load a checkpoint, but for the line that folds the glasses into the weights as they load.
    let config: LlamaConfig = serde_json::from_slice(&std::fs::read(directory.join("config.json"))?)?;
    let config = config.into_config(false);
    let tensors = candle_core::safetensors::load(directory.join("model.safetensors"), &Device::Cpu)?;
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let (weights, folded) = ScaledBackend::fold(weights, &glasses, Amplify::Refuse)?;
    let model = Llama::load(weights, &config)?;
    folded.check_complete()?; // every site of the glasses was found

    let tokens = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu)?;
    let logits = model.forward(&tokens, 0, &mut Cache::new(false, DType::F32, &config, &Device::Cpu)?)?;
    println!("the most likely next token is {}", logits.flatten_all()?.argmax(0)?.to_scalar::<u32>()?);
    Ok(())
}
