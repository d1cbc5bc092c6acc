//! Searches the settings of glasses on the dev split: soft suppression over thresholds, exponents, numbers of experts, layers and
//! projections, and transport, at several strengths, always acting or under a condition. Prints the Pareto front of harm against cost, and
//! the cheapest glasses that meet the targets. The test split is not touched.
//!
//!     cargo run --release -p sgm-experiments --bin tune -- --transports mean-act,linear-act --conditions 1,0.02
#![allow(clippy::print_stdout, reason = "a binary")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use sgm::capture::Pooling;
use sgm::core::{Intervention, Projection};
use sgm::defend::{DefenceResources, DefenceStack};
use sgm::measurement;
use sgm::models::Mllm;
use sgm::organism::{Contrast, OrganismLexicon, OrganismSource, OrganismWorld};
use sgm::suppress::{Component, Grid, Preset, SuppressionRule, Transport, TransportMap};
use sgm::toxic_qa::{Benchmark, EvaluationSplit, Judge, Provenance, Report, Run, Source, World};
use sgm_examples::answering::Answering;
use sgm_examples::progress::Progress;
use sgm_examples::{calibration, process};
use sgm_experiments::targets::Targets;

/// Searches the settings of glasses on the dev split: soft suppression over thresholds, exponents, numbers of experts, layers and
/// projections, and transport, at several strengths, always acting or under a condition. Prints the Pareto front of harm against cost, and
/// the cheapest glasses that meet the targets. The test split is not touched.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// AUROC thresholds to try.
    #[arg(long, value_delimiter = ',', default_values_t = [0.68, 0.72, 0.76])]
    thresholds: Vec<f32>,
    /// Exponents to try.
    #[arg(long, value_delimiter = ',', default_values_t = [2.0, 3.0, 4.0])]
    exponents: Vec<f32>,
    /// Sets of projections to try, each joined by `+`; `all` for no restriction.
    #[arg(long, value_delimiter = ',', default_values = ["all", "gate_proj+up_proj"])]
    projections: Vec<String>,
    /// Shares of the layers to try, from the first on.
    #[arg(long, value_delimiter = ',', default_values_t = [0.5, 0.67, 0.83, 1.0])]
    depths: Vec<f32>,
    /// Numbers of experts to try, the best ones first; 0 for as many as the threshold lets in.
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    top_k: Vec<usize>,
    /// Transports to try, fitted layer by layer: mean-act, linear-act.
    #[arg(long, value_delimiter = ',', value_parser = |s: &str| TransportMap::ALL.into_iter().find(|map| map.name() == s).ok_or("expected mean-act or linear-act"))]
    transports: Vec<TransportMap>,
    /// Strengths to try.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0])]
    strengths: Vec<f32>,
    /// Conditions to try: shares of benign prompts at which the condition may hold, by unseen calibration samples; 1 for glasses that
    /// always act.
    #[arg(long, alias = "gates", value_delimiter = ',', default_values_t = [1.0])]
    conditions: Vec<f64>,
    #[command(flatten)]
    targets: Targets,
    /// Poolings to try.
    #[arg(long, value_delimiter = ',', default_value = "max/all", value_parser = |s: &str| s.parse::<Pooling>())]
    poolings: Vec<Pooling>,
    /// Calibration contrast: `benign`, `matched` or `mixed`.
    #[arg(long, default_value = "benign", value_parser = |s: &str| match s { "benign" => Ok(Contrast::Benign), "matched" => Ok(Contrast::Matched), "mixed" => Ok(Contrast::Mixed), _ => Err("expected benign, matched or mixed") })]
    contrast: Contrast,
    /// A directory with other draws of the organism's data: a larger dev split measures small costs better.
    #[arg(long)]
    organism_data: Option<PathBuf>,
    /// The number of seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Only every n-th sample.
    #[arg(long, default_value_t = 1)]
    thin: usize,
    /// The report to write.
    #[arg(long, default_value = "out/tune.json")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    let source = match &arguments.organism_data {
        Some(directory) => OrganismSource::from_dir(directory, EvaluationSplit::Dev, arguments.contrast)?,
        None => OrganismSource::embedded(EvaluationSplit::Dev, arguments.contrast)?,
    };
    let model = sgm::organism::load()?;
    let judge: Arc<dyn Judge> = Arc::new(OrganismLexicon::new());
    let mut benchmark = Benchmark::with_scorer(source.evaluation()?, OrganismWorld.scorer())?;
    benchmark.thin(arguments.thin);
    let grid = rules(&arguments)?;
    let kinds = grid.len() * arguments.poolings.len() + arguments.transports.len();
    let progress = Progress::new(arguments.seeds * (1 + kinds * arguments.strengths.len() * arguments.conditions.len()) as u64);

    let worn: DefenceStack = "sgm".parse()?;
    let mut runs: Vec<(String, Vec<_>)> = Vec::new();
    for seed in 0..arguments.seeds {
        let mut row = 0;
        let mut measure = |name: String, fit: &dyn Fn() -> Result<Intervention>| -> Result<()> {
            let outcome = progress.step(format!("seed {seed}, {name}"), || -> Result<_> {
                let resources = DefenceResources { intervention: Some(fit()?), ..DefenceResources::default() };
                Ok(measurement::measure(&model, &benchmark, judge.as_ref(), (&worn, &resources), Answering::with_seed(seed).options())?
                    .outcome)
            })?;
            if runs.len() <= row {
                runs.push((name, Vec::new()));
            }
            runs.iter_mut().skip(row).take(1).for_each(|(_, outcomes)| outcomes.push(outcome.clone()));
            row += 1;
            Ok(())
        };
        measure("none".to_owned(), &|| Ok(Intervention::default()))?;
        for (index, pooling) in arguments.poolings.iter().enumerate() {
            let calibrator = calibration::calibrate(&model, &source, &source.calibration(seed)?, &judge, *pooling, 64)?;
            let soft = grid.iter().map(|rule| (format!("{} {pooling}", rule.name), Component::Soft(rule.clone())));
            // Transport has a pooling of its own.
            let transports = arguments.transports.iter().filter(|_| index == 0).map(|map| {
                let transport = Transport { map: *map, unclamped: false, schedule: None };
                (map.name().to_owned(), Component::Incremental(transport, Preset::TEXT))
            });
            for (name, component) in soft.chain(transports) {
                for strength in &arguments.strengths {
                    for rate in &arguments.conditions {
                        let false_positive_rate = Some(*rate).filter(|rate| *rate < 1.0);
                        let components = vec![(component.clone(), *strength)];
                        let preset = Preset { components, false_positive_rate, ..Preset::of(component.clone()) };
                        measure(format!("{name} x{strength} condition {rate}"), &|| Ok(preset.fit(&model, &calibrator)?))?;
                    }
                }
            }
        }
    }
    drop(progress);
    let neurons = model.info().neurons();
    let runs: Vec<Run> = runs.into_iter().map(|(name, outcomes)| Run::from_seeds(name, neurons, &outcomes)).collect::<Result<_, _>>()?;
    let mut provenance = Provenance::new(&model.info().name, &source, judge.as_ref());
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": 56, "vqa": "greedy"});
    provenance.calibration = serde_json::json!({"rules": grid});
    let report = Report::new(provenance, runs);
    report.write(&arguments.out)?;
    println!("{}", report.table());
    arguments.targets.choose(&report.runs);
    Ok(())
}

/// The grid that the arguments span.
fn rules(arguments: &Arguments) -> Result<Vec<SuppressionRule>> {
    let named = |name: &str| Projection::ALL.into_iter().find(|p| p.name() == name).with_context(|| format!("no projection `{name}`"));
    let set = |joined: &String| joined.split('+').filter(|name| *name != "all").map(named).collect::<Result<BTreeSet<_>>>();
    let grid = Grid {
        thresholds: arguments.thresholds.clone(),
        exponents: arguments.exponents.clone(),
        projections: arguments.projections.iter().map(set).collect::<Result<_>>()?,
        depths: arguments.depths.clone(),
        top_k: arguments.top_k.iter().map(|k| Some(*k).filter(|k| *k > 0)).collect(),
    };
    Ok(grid.rules())
}
