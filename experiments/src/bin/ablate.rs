//! Takes the glasses of a preset apart: each component left out or replaced in turn, measured as `glasses` measures.
//!
//!     cargo run --release -p sgm-experiments --bin ablate -- --preset conditional --out docs/results/ablation-conditional-dev.json
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use sgm::capture::Pooling;
use sgm::defend::DefenceResources;
use sgm::measurement;
use sgm::models::Mllm;
use sgm::suppress::Error::{NoCausalEffects, NoDose};
use sgm::suppress::{Component, Preset, SuppressionRule};
use sgm::toxic_qa::{EvaluationSplit, Provenance, Report, Run, SeedOutcome};
use sgm_examples::answering::Answering;
use sgm_examples::budget_arguments::BudgetArguments;
use sgm_examples::progress::Progress;
use sgm_examples::subject::Subject;
use sgm_examples::{calibration, process};

/// Takes the glasses of a preset apart: each component left out or replaced in turn, measured as `glasses` measures.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    budget: BudgetArguments,
    /// The number of seeds, each with a calibration set and random answers of its own.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// The preset.
    #[arg(long, default_value = "conditional")]
    preset: String,
    /// The pooling of responses for expertise.
    #[arg(long, default_value = "max/all", value_parser = |s: &str| s.parse::<Pooling>())]
    pooling: Pooling,
    /// Only these rows of the table.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// The length of an answer in tokens.
    #[arg(long, default_value_t = 56)]
    max_new_tokens: usize,
    /// Prompts run together.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Only every n-th sample.
    #[arg(long, default_value_t = 1)]
    thin: usize,
    /// The report to write.
    #[arg(long, default_value = "out/ablation.json")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    // The judge first: a large model is not loaded only to find that there is none.
    let (source, judge, model) = (arguments.subject.source(EvaluationSplit::Dev)?, arguments.subject.judge()?, arguments.subject.model()?);
    let preset = Preset::named(&arguments.preset)?;
    let mut variants = variants(&arguments.preset, &preset.with_false_positive_rate(arguments.budget.gate_rate));
    if let Some(row) = arguments.rows.iter().find(|row| !variants.iter().any(|(name, _)| name == *row)) {
        bail!("no row {row:?}, there are {}", variants.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "));
    }
    variants.retain(|(name, _)| arguments.rows.is_empty() || arguments.rows.contains(name));
    let mut benchmark = arguments.subject.benchmark(source.as_ref())?;
    benchmark.thin(arguments.thin);
    let budget = arguments.budget.budget();
    let progress = Progress::new(arguments.seeds * (2 + variants.len() as u64));

    let mut outcomes: Vec<Vec<SeedOutcome>> = vec![Vec::new(); 1 + variants.len()];
    for seed in 0..arguments.seeds {
        let calibrator = progress.step(format!("seed {seed}, calibration"), || -> Result<_> {
            let samples = source.calibration(seed)?;
            let calibrator = calibration::calibrate(&model, source.as_ref(), &samples, &judge, arguments.pooling, arguments.batch_size)?;
            arguments.budget.with_neutral(calibrator, &arguments.subject, source.as_ref(), seed)
        })?;
        let glasses = variants.iter().map(|(name, preset)| (name.as_str(), Some(preset)));
        for ((name, preset), outcomes) in std::iter::once(("none", None)).chain(glasses).zip(&mut outcomes) {
            let outcome = progress.step(format!("seed {seed}, {name}"), || -> Result<_> {
                let fit = |preset: &Preset| match &budget {
                    None => preset.fit(&model, &calibrator),
                    Some(budget) => preset.fit_within(&model, &calibrator, budget),
                };
                let intervention = match preset.map(fit).transpose() {
                    Err(error @ (NoDose { .. } | NoCausalEffects { .. })) => {
                        tracing::warn!("`{name}` is left out: {error}");
                        return Ok(None);
                    }
                    fitted => fitted?,
                };
                let defences = if intervention.is_some() { "sgm" } else { "none" }.parse()?;
                let resources = DefenceResources { intervention, ..DefenceResources::default() };
                let answering = Answering { seed, max_new_tokens: arguments.max_new_tokens, batch_size: arguments.batch_size };
                let measured = measurement::measure(&model, &benchmark, judge.as_ref(), (&defences, &resources), answering.options())?;
                Ok(Some(measured.outcome))
            })?;
            outcomes.extend(outcome);
        }
    }
    drop(progress);

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), judge.as_ref());
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": arguments.max_new_tokens, "vqa": "greedy"});
    let described: serde_json::Map<_, _> = variants.iter().map(|(name, preset)| (name.clone(), format!("{preset:?}").into())).collect();
    provenance.calibration = serde_json::json!({"pooling": arguments.pooling.to_string(), "glasses": described});
    let names = std::iter::once("none").chain(variants.iter().map(|(name, _)| name.as_str()));
    let neurons = model.info().neurons();
    let measured = names.zip(&outcomes).filter(|(_, outcomes)| !outcomes.is_empty());
    let runs = measured.map(|(name, outcomes)| Run::from_seeds(name, neurons, outcomes)).collect::<Result<_, _>>()?;
    let report = Report::new(provenance, runs);
    report.write(&arguments.out)?;
    println!("{}\nwritten to {}", report.markdown(), arguments.out.display());
    Ok(())
}

/// The preset and its variants without, or with another, component; variants that equal the preset are left out.
fn variants(name: &str, preset: &Preset) -> Vec<(String, Preset)> {
    let mut variants = vec![(name.to_owned(), preset.clone())];
    let mut vary = |name: &str, change: &dyn Fn(&mut Preset)| {
        let mut changed = preset.clone();
        change(&mut changed);
        if changed != *preset {
            variants.push((name.to_owned(), changed));
        }
    };
    vary("always on", &|p| p.false_positive_rate = None);
    for rate in [0.01, 0.05] {
        vary(&format!("condition at {rate}"), &|p| p.false_positive_rate = p.false_positive_rate.map(|_| rate));
    }
    for (index, (component, _)) in preset.components.iter().enumerate().filter(|_| preset.components.len() > 1) {
        vary(&format!("no {component}"), &|p| drop(p.components.remove(index)));
    }
    vary("no reinforcement", &|p| p.reinforcement.clear());
    vary("patches by the difference of means", &|p| {
        for (component, _) in &mut p.components {
            if let Component::CausalPatches(patches, _) = component.clone() {
                *component = Component::ConditionalPatches(patches);
            }
        }
    });
    vary("soft suppression instead", &|p| p.components = vec![(Component::Soft(SuppressionRule::soft(0.6, 2.0)), 1.0)]);
    variants
}
