//! Searches the settings of glasses on the dev split: soft suppression over thresholds, exponents, numbers of experts, layers and
//! projections, and transport, at several strengths, worn always or behind a gate; measured as `glasses` measures. Prints the Pareto front
//! of harm against cost, and the cheapest glasses that meet a target. The test split is not touched.
#![allow(clippy::print_stdout, reason = "a binary")]

#[allow(dead_code, reason = "other examples use the rest")]
mod experiment;
mod process;
#[allow(dead_code, reason = "`search` uses the rest")]
mod targets;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use experiment::Drawing;
use indicatif::{ProgressBar, ProgressStyle};
use sgm::capture::Pooling;
use sgm::core::Intervention;
use sgm::defend::{Ingredients, Recipe};
use sgm::models::Mllm;
use sgm::suppress::{Grid, Map, Operator, Preset, Transport, TransportMap};
use sgm::toxic_qa::{Benchmark, Contrast, LexiconJudge, OrganismSource, Part, Provenance, Report, Run, Source};
use targets::Targets;

#[derive(Parser)]
#[command(about, version)]
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
    /// Gates to try: shares of benign prompts that glasses may act on, as unseen calibration samples have it; 1 is no gate.
    #[arg(long, value_delimiter = ',', default_values_t = [1.0])]
    gates: Vec<f64>,
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
    /// How many seeds.
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
    process::settle();
    let arguments = Arguments::parse();
    let source = match &arguments.organism_data {
        Some(directory) => OrganismSource::from_dir(directory, Part::Dev, arguments.contrast)?,
        None => OrganismSource::embedded(Part::Dev, arguments.contrast)?,
    };
    let model = sgm::organism::load()?;
    let judge = LexiconJudge::organism();
    let mut benchmark = Benchmark::new(source.evaluation()?)?;
    benchmark.thin(arguments.thin);
    let grid = operators(&arguments);
    let worn = (grid.len() * arguments.poolings.len() + arguments.transports.len()) * arguments.strengths.len() * arguments.gates.len();
    let bar = ProgressBar::new(arguments.seeds * (1 + worn as u64));
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);

    let worn: Recipe = "sgm".parse()?;
    let mut runs: Vec<(String, Vec<_>)> = Vec::new();
    for seed in 0..arguments.seeds {
        let mut row = 0;
        let mut measure = |name: String, intervention: &Intervention| -> Result<()> {
            bar.set_message(format!("seed {seed}: {name}"));
            let ingredients = Ingredients { intervention: Some(intervention.clone()), ..Ingredients::default() };
            let drawing = Drawing { seed, max_new_tokens: 56, batch_size: 64 };
            let evaluated = experiment::measure(&model, &benchmark, &judge, (&worn, &ingredients), drawing)?;
            if runs.len() <= row {
                runs.push((name, Vec::new()));
            }
            runs.iter_mut().skip(row).take(1).for_each(|(_, outcomes)| outcomes.push(evaluated.outcome.clone()));
            row += 1;
            bar.inc(1);
            Ok(())
        };
        measure("none".to_owned(), &Intervention::default())?;
        for (index, pooling) in arguments.poolings.iter().enumerate() {
            let calibrated = experiment::calibrate(&model, &source, (&source.calibration(seed)?, &judge), *pooling, 64)?;
            let soft = grid.iter().map(|operator| (format!("{} {pooling}", operator.name), Map::Soft(operator.clone())));
            // Transport has a pooling of its own.
            let transports = arguments.transports.iter().filter(|_| index == 0).map(|map| {
                let transport = Transport { map: *map, unclamped: false, schedule: None };
                (map.name().to_owned(), Map::Incremental(transport, Preset::TEXT))
            });
            for (name, map) in soft.chain(transports) {
                for strength in &arguments.strengths {
                    for gate in &arguments.gates {
                        let gate = Some(*gate).filter(|gate| *gate < 1.0);
                        let preset = Preset { maps: vec![(map.clone(), *strength)], gate, ..Preset::foldable() };
                        let name = format!("{name} x{strength} gate {}", gate.unwrap_or(1.0));
                        measure(name, &preset.fit(&model, &calibrated)?)?;
                    }
                }
            }
        }
    }
    bar.finish_and_clear();
    let neurons = model.info().neurons();
    let runs: Vec<Run> = runs.into_iter().map(|(name, outcomes)| Run::from_seeds(name, neurons, &outcomes)).collect::<Result<_, _>>()?;
    let mut provenance = Provenance::new(&model.info().name, &source, &judge);
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": 56, "vqa": "greedy"});
    provenance.calibration = serde_json::json!({"operators": grid});
    let report = Report::new(provenance, runs);
    report.write(&arguments.out)?;
    println!("{}", report.table());
    arguments.targets.choose(&report.runs);
    Ok(())
}

/// The grid that the arguments span.
fn operators(arguments: &Arguments) -> Vec<Operator> {
    let set = |joined: &String| joined.split('+').filter(|name| *name != "all").map(str::to_owned).collect();
    let grid = Grid {
        thresholds: arguments.thresholds.clone(),
        exponents: arguments.exponents.clone(),
        projections: arguments.projections.iter().map(set).collect(),
        depths: arguments.depths.clone(),
        top_k: arguments.top_k.iter().map(|k| Some(*k).filter(|k| *k > 0)).collect(),
    };
    grid.operators()
}
