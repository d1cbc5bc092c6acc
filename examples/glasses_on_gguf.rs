//! Wears glasses on a GGUF file: `glasses_on_gguf MODEL.gguf [GLASSES.sgm.safetensors]`.
#![allow(clippy::print_stdout, reason = "a binary")]

use anyhow::{Context, Result};
use sgm::core::{Intervention, SiteIntervention};
use sgm::models::{AutoMllm, Checkpoint, GenerateOptions, Generator, Mllm, Prompt};
use sgm::suppress::{Amplify, Glasses};

fn main() -> Result<()> {
    sgm_examples::process::start();
    let mut arguments = std::env::args().skip(1);
    let model = AutoMllm::load(&Checkpoint::open(arguments.next().context("usage: glasses_on_gguf MODEL.gguf [GLASSES]")?)?)?;
    let glasses = match arguments.next() {
        Some(file) => Intervention::load(file)?,
        None => every_tenth_neuron_halved(&model)?,
    };

    let prompts = [Prompt::Raw { text: "The capital of France is".to_owned(), images: Vec::new() }];
    let options = GenerateOptions { max_new_tokens: 12, ..GenerateOptions::default() };
    let answer = || -> Result<String> { Ok(model.generate(&prompts, &options)?.into_iter().map(|answer| answer.text).collect()) };
    println!("without: {:?}", answer()?);
    let worn = Glasses::wear(&model, &glasses, Amplify::Refuse)?;
    println!("with:    {:?}", answer()?);
    drop(worn);
    println!("dropped: {:?}", answer()?);
    Ok(())
}

/// Glasses for trying out.
fn every_tenth_neuron_halved(model: &AutoMllm) -> Result<Intervention> {
    let mut glasses = Intervention::default();
    for info in &model.info().sites {
        let scale = (0..info.width).map(|neuron| if neuron % 10 == 0 { 0.5 } else { 1.0 }).collect();
        glasses.insert(info.site, SiteIntervention::from_scale(scale))?;
    }
    Ok(glasses)
}
