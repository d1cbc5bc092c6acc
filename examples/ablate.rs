//! Takes the glasses of a preset apart: each ingredient left out or replaced in turn, everything else as it is, measured as `glasses` measures.
#![allow(clippy::print_stdout, reason = "a binary")]

#[allow(dead_code, reason = "other examples use the rest")]
mod experiment;
mod process;
mod subject;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use experiment::Drawing;
use indicatif::{ProgressBar, ProgressStyle};
use sgm::capture::Pooling;
use sgm::core::Schedule;
use sgm::defend::Ingredients;
use sgm::models::Mllm;
use sgm::suppress::{Map, Operator, Preset};
use sgm::toxic_qa::{Benchmark, Part, Provenance, Report, Run, SeedOutcome};
use subject::Subject;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// How many seeds, each with a calibration set and random answers of its own.
    #[arg(long, default_value_t = 2)]
    seeds: u64,
    /// The glasses, by the name of their row.
    #[arg(long, default_value = "live")]
    preset: String,
    /// How responses are pooled over tokens for expertise.
    #[arg(long, default_value = "max/all", value_parser = |s: &str| s.parse::<Pooling>())]
    pooling: Pooling,
    /// Only these rows of the table.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// The length of an answer in tokens.
    #[arg(long, default_value_t = 56)]
    max_new_tokens: usize,
    /// Only every n-th sample.
    #[arg(long, default_value_t = 1)]
    thin: usize,
    /// The report to write.
    #[arg(long, default_value = "out/ablation.json")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::settle();
    let arguments = Arguments::parse();
    let (source, model, judge) = (arguments.subject.source(Part::Dev)?, arguments.subject.model()?, arguments.subject.judge()?);
    let last_layer = model.info().sites.iter().map(|info| info.site.layer).max().unwrap_or(0);
    let mut variants = variants(&arguments.preset, &Preset::named(&arguments.preset)?, last_layer);
    if let Some(row) = arguments.rows.iter().find(|row| !variants.iter().any(|(name, _)| name == *row)) {
        bail!("no row {row:?}, there are {}", variants.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "));
    }
    variants.retain(|(name, _)| arguments.rows.is_empty() || arguments.rows.contains(name));
    let mut benchmark = Benchmark::new(source.evaluation()?)?;
    benchmark.thin(arguments.thin);
    let bar = ProgressBar::new(arguments.seeds * (1 + variants.len() as u64));
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);

    let mut outcomes: Vec<Vec<SeedOutcome>> = vec![Vec::new(); 1 + variants.len()];
    for seed in 0..arguments.seeds {
        let calibrated = experiment::calibrate(&model, source.as_ref(), (&source.calibration(seed)?, &judge), arguments.pooling, 64)?;
        let glasses = variants.iter().map(|(name, preset)| (name.as_str(), Some(preset)));
        for ((name, preset), outcomes) in std::iter::once(("none", None)).chain(glasses).zip(&mut outcomes) {
            bar.set_message(format!("seed {seed}: {name}"));
            let intervention = preset.map(|preset| preset.fit(&model, &calibrated)).transpose()?;
            let defence = if intervention.is_some() { "sgm" } else { "none" }.parse()?;
            let ingredients = Ingredients { intervention, ..Ingredients::default() };
            let drawing = Drawing { seed, max_new_tokens: arguments.max_new_tokens, batch_size: 64 };
            outcomes.push(experiment::measure(&model, &benchmark, &judge, (&defence, &ingredients), drawing)?.outcome);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), &judge);
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": arguments.max_new_tokens, "vqa": "greedy"});
    let described: serde_json::Map<_, _> = variants.iter().map(|(name, preset)| (name.clone(), format!("{preset:?}").into())).collect();
    provenance.calibration = serde_json::json!({"pooling": arguments.pooling.to_string(), "glasses": described});
    let names = std::iter::once("none").chain(variants.iter().map(|(name, _)| name.as_str()));
    let neurons = model.info().neurons();
    let runs = names.zip(&outcomes).map(|(name, outcomes)| Run::from_seeds(name, neurons, outcomes)).collect::<Result<_, _>>()?;
    let report = Report::new(provenance, runs);
    report.write(&arguments.out)?;
    println!("{}\nwritten to {}", report.markdown(), arguments.out.display());
    Ok(())
}

/// The preset, and what is left of it without each ingredient; a change that changes nothing is no variant.
fn variants(name: &str, preset: &Preset, last_layer: usize) -> Vec<(String, Preset)> {
    let mut variants = vec![(name.to_owned(), preset.clone())];
    let mut vary = |name: &str, change: &dyn Fn(&mut Preset)| {
        let mut changed = preset.clone();
        change(&mut changed);
        if changed != *preset {
            variants.push((name.to_owned(), changed));
        }
    };
    if preset.dose.is_some() {
        vary("always on, dose kept", &|p| p.gate = p.gate.map(|_| 1.0));
    }
    vary("always on, in full", &|p| (p.gate, p.dose) = (None, None));
    for rate in [0.01, 0.05] {
        vary(&format!("gate at {rate}"), &|p| p.gate = p.gate.map(|_| rate));
    }
    vary("gate watches answers", &|p| p.watch = p.gate.is_some());
    vary("no dose", &|p| p.dose = None);
    for (index, (map, _)) in preset.maps.iter().enumerate().filter(|_| preset.maps.len() > 1) {
        vary(&format!("no {map}"), &|p| drop(p.maps.remove(index)));
    }
    vary("no steering", &|p| p.steering = None);
    vary("steering alone", &|p| {
        if p.steering.is_some() {
            p.maps.clear();
        }
    });
    for strength in [0.2, 0.3, 0.4] {
        vary(&format!("steered at once {strength}"), &|p| {
            p.steering.iter_mut().for_each(|s| (s.at_once, s.strength) = (true, strength));
        });
    }
    vary("fitted at once", &|p| {
        for (map, _) in &mut p.maps {
            if let Map::Incremental(transport, pooling) = map.clone() {
                *map = Map::AtOnce(transport, pooling);
            }
        }
    });
    vary("soft suppression instead", &|p| p.maps = vec![(Map::Soft(Operator::soft(0.6, 2.0)), 1.0)]);
    vary("last layer left alone", &|p| p.schedule = p.schedule.take().or(Some(Schedule::Layers([(last_layer, 0.0)].into()))));
    variants
}
