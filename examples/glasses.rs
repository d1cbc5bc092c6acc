//! SGM's full experiment: calibrate, capture, score, suppress, and measure harm and what avoiding it costs.
//!
//! By default on the embedded model organism; with `--model` and `--manifest` on any LLaVA-1.5 checkpoint.
#![allow(clippy::print_stdout, reason = "a binary")]

mod experiment;
mod threads;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use experiment::{Calibrated, Drawing};
use indicatif::{ProgressBar, ProgressStyle};
use sgm::capture::Pooling;
use sgm::core::{Dose, Intervention};
use sgm::defend::Recipe;
use sgm::models::{AutoMllm, Checkpoint, Mllm};
use sgm::suppress::{Operator, Transport};
use sgm::toxic_qa::{
    Benchmark, Contrast, LexiconJudge, ManifestSource, OrganismSource, Part, Provenance, RecordWriter, Report, Run, Sample, SeedOutcome,
    Source,
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
    /// Further rows: defences by their names, such as `self-reminder+ecso+sgm` or `filter+sgm`; glasses in them are the adaptive ones.
    #[arg(long = "defence", value_name = "DEFENCE")]
    defences: Vec<String>,
    /// Only these rows of the table.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Leave this category out of calibration, to see what glasses do about what they have never met.
    #[arg(long)]
    without: Option<String>,
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
    let seeds = if arguments.quick { 1 } else { arguments.seeds };
    let rows: Vec<(&str, &str)> =
        ROWS.into_iter().filter(|(name, _)| arguments.rows.is_empty() || arguments.rows.iter().any(|row| row == name)).collect();
    let bar = ProgressBar::new(seeds * (arguments.defences.len() + rows.len() + 1) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);

    let mut runs: Vec<(String, Vec<SeedOutcome>)> = Vec::new();
    let mut answers = RecordWriter::create(arguments.out.join("answers.jsonl"))?;
    for seed in 0..seeds {
        bar.set_message(format!("seed {seed}: calibration"));
        let nth = if arguments.quick { 5 } else { 1 };
        let mut samples: Vec<Sample> = source.calibration(seed)?.into_iter().step_by(nth).collect();
        samples.retain(|sample| Some(&sample.category) != arguments.without.as_ref());
        let calibrated = Calibrated::capture(&model, source.as_ref(), samples, arguments.pooling, arguments.batch_size)
            .with_context(|| format!("calibration, seed {seed}"))?;
        let glasses = glasses(&model, &calibrated)?;
        if seed == 0 {
            for (name, intervention) in &glasses {
                let file = if *name == "sgm" { "glasses" } else { name };
                intervention.save(arguments.out.join(format!("{file}.sgm.safetensors")))?;
            }
        }
        let mut ingredients = calibrated.ingredients(&model)?;
        bar.inc(1);
        let further = arguments.defences.iter().map(|defence| (defence.as_str(), defence.as_str()));
        for (row, (name, defence)) in rows.iter().copied().chain(further).enumerate() {
            bar.set_message(format!("seed {seed}: {name}"));
            let defence: Recipe = defence.parse()?;
            // The static glasses under their own names, adaptive ones inside of defences.
            ingredients.intervention = glasses.get(name).or_else(|| glasses.get("adaptive")).cloned();
            let drawing = Drawing { seed, max_new_tokens: arguments.max_new_tokens, batch_size: arguments.batch_size };
            let evaluated = experiment::measure(&model, &benchmark, &judge, (&defence, &ingredients), drawing)?;
            if runs.len() <= row {
                runs.push((name.to_owned(), Vec::new()));
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
        "transport pooling": experiment::TEXT_MEAN.to_string(),
        "gate": {"pooling": experiment::PROMPT_END.to_string(), "false positive rate": FALSE_POSITIVE_RATE},
    });
    let neurons = model.info().neurons();
    let runs = runs.into_iter().map(|(name, outcomes)| Run::from_seeds(name, neurons, &outcomes)).collect::<Result<_, _>>()?;
    let report = Report::new(provenance, runs);
    report.write(&arguments.out.join("report.json"))?;
    println!("{}", report.table());
    println!("written to {}: report.json, answers.jsonl, and the glasses of seed 0", arguments.out.display());
    Ok(())
}

/// The rows of the table: a name, and the defence behind it; a name that [`glasses`] knows wears those.
const ROWS: [(&str, &str); 13] = [
    ("none", "none"),
    ("det0", "sgm"),
    ("damp", "sgm"),
    ("aura", "sgm"),
    ("linear-act", "sgm"),
    ("sgm", "sgm"),
    ("adaptive-sgm", "sgm"),
    ("adaptive", "sgm"),
    ("self-reminder", "self-reminder"),
    ("ecso", "ecso"),
    ("eta", "eta"),
    ("eta+sgm", "eta+sgm"),
    ("filter+sgm", "filter+sgm"),
];

/// The share of benign prompts that adaptive glasses may act on.
const FALSE_POSITIVE_RATE: f64 = 0.02;

/// What is plainly risky is changed more.
const DOSE: Dose = Dose { least: 0.65, from: 0.0, full: 13.0 };

/// The glasses of one calibration, by the names of their rows.
fn glasses<M: Mllm>(model: &M, calibrated: &Calibrated) -> Result<BTreeMap<&'static str, Intervention>> {
    let expertise = calibrated.expertise()?;
    let mut glasses = BTreeMap::new();
    for (name, operator) in
        [("det0", Operator::det0(50)), ("damp", Operator::damp(0.5, 200)), ("aura", Operator::aura()), ("sgm", Operator::sgm())]
    {
        glasses.insert(name, operator.intervention(&expertise)?);
    }
    glasses.insert("linear-act", Transport::linear_act().intervention(&calibrated.text_mean()?)?.with_strength(0.5)?);
    // Stronger than what is bearable at all times.
    let probe = calibrated.probe(FALSE_POSITIVE_RATE)?;
    let soft = Operator::soft(0.6, 2.0).intervention(&expertise)?;
    let transport = calibrated.blend(model)?;
    for (name, mut intervention, dose) in [("adaptive-sgm", soft, None), ("adaptive", transport, Some(DOSE))] {
        let mut probe = probe.clone();
        probe.dose = dose;
        intervention.probe = Some(probe);
        glasses.insert(name, intervention);
    }
    Ok(glasses)
}
