//! SGM's full experiment: calibrate, capture, score, suppress, and measure harm and what avoiding it costs.
//!
//! By default on the embedded model organism; with `--model` and `--manifest` on any other model, with `--plain` on a language model that
//! goes on from the text of its prompts.
#![allow(clippy::print_stdout, reason = "a binary")]

mod experiment;
mod process;
mod rows;
mod subject;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use experiment::Drawing;
use indicatif::{ProgressBar, ProgressStyle};
use sgm::capture::Pooling;
use sgm::defend::{Ingredients, Recipe};
use sgm::models::Mllm;
use sgm::suppress::{Calibrated, Preset};
use sgm::toxic_qa::{Benchmark, Part, Provenance, RecordWriter, Report, Run, Sample, SeedOutcome};
use subject::Subject;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// How many seeds, each with a calibration set and random answers of its own.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// How responses are pooled over tokens: mean or max, over all, text, image, prompt or response tokens.
    #[arg(long, default_value = "max/all", value_parser = |s: &str| s.parse::<Pooling>())]
    pooling: Pooling,
    /// The length of an answer in tokens.
    #[arg(long, default_value_t = 56)]
    max_new_tokens: usize,
    /// Prompts run together.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Further rows: defences by their names, such as `self-reminder+ecso+sgm` or `filter+sgm`; glasses in them are the adaptive ones.
    #[arg(long = "defence", value_name = "DEFENCE")]
    defences: Vec<String>,
    /// Only these rows of the table.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Leave this category, or this trigger (`angry face`), out of calibration, to see what glasses do about what they have never met.
    #[arg(long)]
    without: Option<String>,
    /// The glasses that an earlier run wrote to this directory, those of its seed 0, instead of new ones; one seed, and no defence that asks a
    /// scorer.
    #[arg(long, conflicts_with_all = ["seeds", "without"])]
    reuse: Option<PathBuf>,
    /// A tenth of the data and one seed: a look at whether everything works.
    #[arg(long)]
    quick: bool,
    /// Where report, intervention, answers and activations go.
    #[arg(long, default_value = "out")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::settle();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let (source, model, judge) = (arguments.subject.source(Part::Test)?, arguments.subject.model()?, arguments.subject.judge()?);
    let mut benchmark = Benchmark::new(source.evaluation()?)?;
    if arguments.quick {
        benchmark.thin(10);
    }
    let seeds = if arguments.quick || arguments.reuse.is_some() { 1 } else { arguments.seeds };
    let asked = |name: &str| arguments.rows.is_empty() || arguments.rows.iter().any(|row| row == name);
    let further = arguments.defences.iter().map(|defence| (defence.as_str(), defence.as_str()));
    let rows = rows::ROWS.into_iter().filter(|(name, _)| asked(name)).chain(further);
    let rows = rows.map(|(name, defence)| Ok((name, defence.parse::<Recipe>()?))).collect::<Result<Vec<_>>>()?;
    let scorers = rows.iter().any(|(_, defence)| defence.needs_scorers());
    let bar = ProgressBar::new(seeds * (rows.len() + 1) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);

    let mut runs: Vec<(String, Vec<SeedOutcome>)> = Vec::new();
    let mut answers = RecordWriter::create(arguments.out.join("answers.jsonl"))?;
    for seed in 0..seeds {
        bar.set_message(format!("seed {seed}: calibration"));
        let (glasses, mut ingredients) = match &arguments.reuse {
            Some(directory) => (rows::load(directory)?, Ingredients::default()),
            None => {
                let nth = if arguments.quick { 5 } else { 1 };
                let mut samples: Vec<Sample> = source.calibration(seed)?.into_iter().step_by(nth).collect();
                samples.retain(|sample| !arguments.without.as_ref().is_some_and(|name| experiment::is_of(sample, name)));
                let calibrated =
                    experiment::calibrate(&model, source.as_ref(), (&samples, &judge), arguments.pooling, arguments.batch_size)
                        .with_context(|| format!("calibration, seed {seed}"))?;
                let ingredients = if scorers { experiment::ingredients(&model, &calibrated)? } else { Ingredients::default() };
                (rows::glasses(&model, &calibrated, &rows)?, ingredients)
            }
        };
        if seed == 0 {
            for (name, intervention) in &glasses {
                intervention.save(rows::file(&arguments.out, name))?;
            }
        }
        bar.inc(1);
        for (row, (name, defence)) in rows.iter().enumerate() {
            bar.set_message(format!("seed {seed}: {name}"));
            // The static glasses under their own names, adaptive ones inside of defences.
            ingredients.intervention = glasses.get(*name).or_else(|| glasses.get("live")).cloned();
            let drawing = Drawing { seed, max_new_tokens: arguments.max_new_tokens, batch_size: arguments.batch_size };
            let evaluated = experiment::measure(&model, &benchmark, &judge, (defence, &ingredients), drawing)?;
            if runs.len() <= row {
                runs.push(((*name).to_owned(), Vec::new()));
            }
            runs.iter_mut().skip(row).take(1).for_each(|(_, outcomes)| outcomes.push(evaluated.outcome.clone()));
            evaluated.records.iter().try_for_each(|record| answers.write(record))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), &judge);
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": arguments.max_new_tokens, "vqa": "greedy"});
    provenance.calibration = serde_json::json!({
        "pooling": arguments.pooling.to_string(),
        "without": arguments.without,
        "reused": arguments.reuse,
        "worn from the start": arguments.subject.wear,
        "transport pooling": Preset::TEXT.to_string(),
        "gate": {"pooling": Calibrated::PROMPT_END.to_string(), "false positive rate": Preset::FALSE_POSITIVE_RATE},
    });
    let neurons = model.info().neurons();
    let runs = runs.into_iter().map(|(name, outcomes)| Run::from_seeds(name, neurons, &outcomes)).collect::<Result<_, _>>()?;
    let report = Report::new(provenance, runs);
    report.write(&arguments.out.join("report.json"))?;
    println!("{}", report.table());
    println!("written to {}: report.json, answers.jsonl, and the glasses of seed 0", arguments.out.display());
    Ok(())
}
