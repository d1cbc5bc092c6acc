//! SGM's full experiment: calibrate, capture, score, suppress, and measure harm and what avoiding it costs.
//!
//! By default on the embedded model organism; with `--model` and `--manifest` on any LLaVA-1.5 checkpoint.
#![allow(clippy::print_stdout, reason = "a binary")]

mod experiment;
mod threads;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use experiment::{Calibrated, PROMPT_END};
use indicatif::{ProgressBar, ProgressStyle};
use sgm::capture::Pooling;
use sgm::core::{Gate, Intervention, Probe};
use sgm::models::{AutoMllm, Checkpoint, Mllm};
use sgm::suppress::{Operator, ProbeOptions, fit_probe};
use sgm::toxic_qa::{
    Benchmark, Contrast, LexiconJudge, ManifestSource, OrganismSource, Part, Provenance, RecordWriter, Report, Run, Source,
};
use tracing_subscriber::EnvFilter;

/// Tensors come and go by the megabyte; the system's allocator gives each back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// A LLaVA-1.5 checkpoint directory in the Hugging Face layout; the embedded organism by default.
    #[arg(long, requires = "manifest")]
    model: Option<PathBuf>,
    /// A manifest of calibration and test samples instead of the organism's.
    #[arg(long, conflicts_with = "organism_data")]
    manifest: Option<PathBuf>,
    /// A directory with other draws of the organism's data, in the same JSONL files.
    #[arg(long)]
    organism_data: Option<PathBuf>,
    /// A word list, one term a line, for the judge; the organism's insults by default.
    #[arg(long)]
    words: Option<PathBuf>,
    /// Evaluate on the dev split, on which settings are chosen, instead of the test split.
    #[arg(long)]
    dev: bool,
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
    /// A tenth of the data and one seed: a look at whether everything works.
    #[arg(long)]
    quick: bool,
    /// Where report, intervention, answers and activations go.
    #[arg(long, default_value = "out")]
    out: PathBuf,
}

fn main() -> Result<()> {
    threads::settle();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let part = if arguments.dev { Part::Dev } else { Part::Test };
    let source: Box<dyn Source> = match (&arguments.manifest, &arguments.organism_data) {
        (Some(manifest), _) => Box::new(ManifestSource::open(manifest, part)?),
        (None, Some(directory)) => Box::new(OrganismSource::from_dir(directory, part, Contrast::Benign)?),
        (None, None) => Box::new(OrganismSource::embedded(part, Contrast::Benign)?),
    };
    let model = match &arguments.model {
        Some(directory) => AutoMllm::load(&Checkpoint::open(directory)?)?,
        None => sgm::organism::load()?,
    };
    let judge = match &arguments.words {
        Some(words) => LexiconJudge::from_words(words)?,
        None => LexiconJudge::organism(),
    };
    let mut benchmark = Benchmark::new(source.evaluation()?)?;
    if arguments.quick {
        benchmark.thin(10);
    }
    let operators = [Operator::det0(50), Operator::damp(0.5, 200), Operator::aura(), Operator::sgm()];
    let seeds = if arguments.quick { 1 } else { arguments.seeds };
    let bar = ProgressBar::new(seeds * (operators.len() as u64 + 3));
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);

    let mut runs: Vec<(String, Vec<_>)> = vec![("none".to_owned(), Vec::new())];
    runs.extend(operators.iter().map(|o| (o.name.clone(), Vec::new())));
    runs.push(("adaptive".to_owned(), Vec::new()));
    let mut answers = RecordWriter::create(arguments.out.join("answers.jsonl"))?;
    for seed in 0..seeds {
        bar.set_message(format!("seed {seed}: calibration"));
        let nth = if arguments.quick { 5 } else { 1 };
        let calibrated = Calibrated::capture(&model, source.as_ref(), seed, arguments.pooling, arguments.batch_size, nth)
            .with_context(|| format!("calibration, seed {seed}"))?;
        let expertise = calibrated.expertise()?;
        bar.inc(1);
        let mut interventions = vec![Intervention::default()];
        for operator in &operators {
            interventions.push(operator.intervention(&expertise)?);
        }
        // Stronger than what is bearable at all times.
        let mut adaptive = Operator::soft(0.6, 2.0).intervention(&expertise)?;
        adaptive.probe = Some(probe(&calibrated)?);
        if seed == 0 {
            adaptive.save(arguments.out.join("adaptive.sgm.safetensors"))?;
            interventions.iter().last().map_or(Ok(()), |sgm| sgm.save(arguments.out.join("glasses.sgm.safetensors")))?;
        }
        interventions.push(adaptive);
        for ((name, outcomes), intervention) in runs.iter_mut().zip(&interventions) {
            bar.set_message(format!("seed {seed}: {name}"));
            let settings = (seed, arguments.max_new_tokens, arguments.batch_size);
            let evaluated = experiment::measure(&model, &benchmark, &judge, intervention, settings)?;
            outcomes.push(evaluated.outcome);
            evaluated.records.iter().try_for_each(|record| answers.write(record))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), &judge);
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": arguments.max_new_tokens, "vqa": "greedy"});
    provenance.calibration = serde_json::json!({"pooling": arguments.pooling.to_string(), "operators": operators});
    let neurons = model.info().neurons();
    let runs = runs.into_iter().map(|(name, outcomes)| Run::from_seeds(name, neurons, &outcomes)).collect::<Result<_, _>>()?;
    let report = Report::new(provenance, runs);
    report.write(&arguments.out.join("report.json"))?;
    println!("{}", report.table());
    println!("written to {}: report.json, glasses.sgm.safetensors, adaptive.sgm.safetensors, answers.jsonl", arguments.out.display());
    Ok(())
}

/// The share of benign prompts that adaptive glasses may act on.
const FALSE_POSITIVE_RATE: f64 = 0.02;

/// A probe of the prompts' last tokens, with a gate that lets pass the benign ones.
fn probe(calibrated: &Calibrated) -> Result<Probe> {
    let store = calibrated.store.clone().with_pooling(&PROMPT_END.to_string())?;
    let mut fitted = fit_probe(&store, ProbeOptions::default(), |_, _| true)?;
    let on = fitted.gate_at(FALSE_POSITIVE_RATE, store.labels());
    fitted.probe.gate = Gate { on, off: on / 2.0, watch: false };
    Ok(fitted.probe)
}
