//! Evaluates one model behind one defence, resumably: answers go to `answers.jsonl` as they are made, and a run that was stopped goes on
//! where it was.
//!
//!     evaluate --defence eta+sgm --intervention adaptive.sgm.safetensors --out out/eta-sgm
#![allow(clippy::print_stdout, reason = "a binary")]

#[allow(dead_code, reason = "other examples use the rest")]
mod experiment;
mod process;
mod subject;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::core::Intervention;
use sgm::defend::{Ingredients, Recipe, Worn};
use sgm::models::{GenerateOptions, Mllm, Sampling, response_nll};
use sgm::suppress::{Amplify, Preset};
use sgm::toxic_qa::{Benchmark, Durability, EvaluateOptions, Part, Provenance, Report, Run, RunFile};
use subject::Subject;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// The defence, by its names from the outside in: `none`, `sgm`, `self-reminder+ecso+sgm` ...
    #[arg(long, default_value = "none", value_parser = |s: &str| s.parse::<Recipe>())]
    defence: Recipe,
    /// The glasses of `sgm`.
    #[arg(long)]
    intervention: Option<PathBuf>,
    /// The seed of the answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The length of an answer in tokens.
    #[arg(long, default_value_t = 56)]
    max_new_tokens: usize,
    /// Prompts run together.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Prompts between two records of what is done.
    #[arg(long, default_value_t = 256)]
    chunk: usize,
    /// Where `answers.jsonl` and `report.json` go.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::settle();
    let a = Arguments::parse();
    let (source, model, judge) = (a.subject.source(Part::Test)?, a.subject.model()?, a.subject.judge()?);
    let evaluation = source.evaluation()?;
    let texts: Vec<_> = evaluation.perplexity.iter().filter_map(|s| Some((s, s.response.clone()?))).collect();
    let texts = texts.into_iter().map(|(s, response)| Ok((s.as_prompt()?, response))).collect::<Result<Vec<_>>>()?;
    let benchmark = Benchmark::new(evaluation)?;

    // Scorers are fitted to the calibration samples, where a defence asks them.
    let mut ingredients = match a.defence.needs_scorers() {
        true => {
            let calibrated = experiment::calibrate(&model, source.as_ref(), (&source.calibration(0)?, &judge), Preset::TEXT, a.batch_size)?;
            experiment::ingredients(&model, &calibrated)?
        }
        false => Ingredients::default(),
    };
    let glasses = a.intervention.as_ref().map(Intervention::load).transpose()?;
    ingredients.intervention = glasses.clone().filter(|_| a.defence.wears_glasses());
    let generator = a.defence.build(&model, &ingredients).context("building the defence")?;
    let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
    let options = EvaluateOptions {
        generate: GenerateOptions {
            max_new_tokens: a.max_new_tokens,
            batch_size: a.batch_size,
            sampling,
            seed: a.seed,
            ..Default::default()
        },
        defence: Some(a.defence.to_string()).filter(|name| name != "none" && name != "sgm"),
        intervention_sha256: ingredients.intervention.as_ref().map(experiment::sha256).transpose()?,
    };
    let settings = serde_json::json!({
        "model": model.info().name, "weights": model.info().weights, "source": source.name(), "defence": options.defence,
        "intervention_sha256": options.intervention_sha256, "seed": a.seed, "max_new_tokens": a.max_new_tokens, "chunk": a.chunk,
    });
    let mut run = RunFile::open(a.out.join("answers.jsonl"), &settings, Durability::Batch)?;
    println!("{} answers were there", run.len());
    let records = benchmark.answer_into(&*generator, &model, Some(&judge), &options, a.chunk, &mut run)?;
    let mut outcome = benchmark.outcome(&records);
    outcome.seed = a.seed;
    outcome.seconds = records.iter().map(|record| record.timing.seconds).sum();
    outcome.token_nll = match &ingredients.intervention {
        Some(glasses) => response_nll(Worn::new(&model, glasses, Amplify::Refuse)?.model(), &texts, a.batch_size)?,
        None => response_nll(&model, &texts, a.batch_size)?,
    };
    outcome.n_suppressed = ingredients.intervention.as_ref().map_or(0, |glasses| glasses.changed_neurons() + glasses.added_neurons());

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), &judge);
    provenance.generation = settings;
    let run = Run::from_seeds(a.defence.to_string(), model.info().neurons(), &[outcome])?;
    let report = Report::new(provenance, vec![run]);
    report.write(&a.out.join("report.json"))?;
    println!("{}", report.table());
    Ok(())
}
