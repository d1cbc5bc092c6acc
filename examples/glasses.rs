//! SGM's experiment: calibrate, capture, score, suppress, and measure harm and what avoiding it costs.
//!
//! By default a comparison of six rows on the embedded model, with one seed, in about a minute; `--full` has all rows and three seeds. With
//! `--model` and `--manifest` on any other model, with `--plain` on a language model that continues the text of its prompts.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Parser;
use sgm::capture::Pooling;
use sgm::comparison::{Comparison, Row};
use sgm::models::{AutoMllm, Mllm};
use sgm::suppress::{Calibrator, Preset};
use sgm::toxic_qa::{EvaluationSplit, Judge, Provenance, Report, Sample, Source};
use sgm_examples::answering::Answering;
use sgm_examples::budget_arguments::BudgetArguments;
use sgm_examples::progress::Progress;
use sgm_examples::subject::Subject;
use sgm_examples::{calibration, html_report, process};

/// SGM's experiment: calibrate, capture, score, suppress, and measure harm and what avoiding it costs.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    budget: BudgetArguments,
    /// All rows, and three seeds.
    #[arg(long)]
    full: bool,
    /// The number of seeds, each with a calibration set and random answers of its own.
    #[arg(long)]
    seeds: Option<u64>,
    /// Only these rows: names of glasses, if wanted within a budget of their own (`bakeable@0.005`), or stacks of defences such as
    /// `self-reminder+ecso+sgm`, which wear the glasses `conditional`.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Further rows.
    #[arg(long = "defence", value_name = "DEFENCES")]
    defences: Vec<String>,
    /// The pooling of responses for expertise: mean or max, over all, text, image, prompt or response tokens.
    #[arg(long, default_value = "max/all", value_parser = |s: &str| s.parse::<Pooling>())]
    pooling: Pooling,
    /// The length of an answer in tokens.
    #[arg(long, default_value_t = 56)]
    max_new_tokens: usize,
    /// Prompts run together.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Leave this category or trigger (`angry face`) out of calibration.
    #[arg(long, value_name = "NAME")]
    without: Option<String>,
    /// Wear the glasses that an earlier run wrote to this directory instead of new ones; no defence that needs a scorer.
    #[arg(long, value_name = "DIR", conflicts_with = "without")]
    reuse: Option<PathBuf>,
    /// Go on with an interrupted run: glasses that are in the directory already, with the same settings and samples, are not fitted again.
    #[arg(long, conflicts_with = "reuse")]
    resume: bool,
    /// A tenth of the prompts and a fifth of the calibration samples: a test of whether everything works.
    #[arg(long)]
    quick: bool,
    /// The directory of report, glasses and answers.
    #[arg(long, default_value = "out")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::start();
    let arguments = Arguments::parse();
    // The judge first: a large model is not loaded only to find that there is none.
    let (source, judge, model) = (arguments.subject.source(EvaluationSplit::Test)?, arguments.subject.judge()?, arguments.subject.model()?);
    let mut benchmark = arguments.subject.benchmark(source.as_ref())?;
    if arguments.quick {
        benchmark.thin(10);
    }
    let rows = arguments.rows()?;
    let budget = arguments.budget.budget();
    if let Some(name) = Row::names_of_glasses(&rows).into_iter().find(|name| name.contains('@') && budget.is_none()) {
        bail!("the row `{name}` has a budget, which takes neutral texts: leave `--budget none` out");
    }
    let seeds = arguments.seeds.unwrap_or(if arguments.full { 3 } else { 1 });
    let fits = if arguments.reuse.is_some() { 0 } else { 1 + Row::names_of_glasses(&rows).len() };
    let progress = Progress::new(seeds * (fits + rows.len()) as u64);
    let comparison = Comparison {
        model: &model,
        rows: &rows,
        gate_rate: arguments.budget.gate_rate,
        budget: budget.as_ref(),
        directory: &arguments.out,
        resume: arguments.resume,
        reuse: arguments.reuse.as_deref(),
        context: &format!("{}, {}, {:?}", source.name(), judge.id(), (arguments.pooling, &arguments.budget)),
        begin: &|step| progress.begin(step),
    };
    let calibrator = |seed| arguments.calibrator(&model, source.as_ref(), &judge, seed);
    let answering = Answering { seed: 0, max_new_tokens: arguments.max_new_tokens, batch_size: arguments.batch_size };
    let compared = comparison.run(seeds, calibrator, &benchmark, judge.as_ref(), &answering.options())?;
    let seconds = progress.elapsed().as_secs();
    drop(progress);

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), judge.as_ref());
    provenance.generation = serde_json::json!({"temperature": 1.0, "max_new_tokens": arguments.max_new_tokens, "vqa": "greedy"});
    provenance.calibration = arguments.provenance();
    let report = Report::new(provenance, compared.runs);
    report.write(&arguments.out.join("report.json"))?;
    println!("{}", report.table());
    let pictures = arguments.subject.is_embedded_organism();
    let page = html_report::write(&arguments.out, report, compared.auroc, compared.shown, pictures)?;
    println!("{seconds} s. Open {} for the figures; report.json, answers.jsonl and the glasses are beside it.", page.display());
    let out = arguments.out.display();
    println!(
        "Next: `cargo run --release --example glasses -- --full` compares all rows over three seeds;
`--example bake -- --model organism --intervention {out}/bakeable.sgm.safetensors --out BAKED` writes a checkpoint for other engines;
`--model DIR --manifest FILE.jsonl --judge lexicon:WORDS.txt` does all this on your model (docs/getting-started.md)."
    );
    Ok(())
}

impl Arguments {
    /// The rows of the names given, or else all, or the main ones, and further ones.
    fn rows(&self) -> Result<Vec<Row>> {
        let names: Vec<&str> = match (self.rows.is_empty(), self.full) {
            (false, _) => self.rows.iter().map(String::as_str).collect(),
            (true, true) => Row::all().collect(),
            (true, false) => Row::MAIN.to_vec(),
        };
        Ok(names.into_iter().chain(self.defences.iter().map(String::as_str)).map(Row::named).collect::<Result<_, _>>()?)
    }

    /// Captures the calibration samples of a seed, with neutral texts if there is a budget.
    fn calibrator(&self, model: &AutoMllm, source: &dyn Source, judge: &Arc<dyn Judge>, seed: u64) -> Result<Calibrator> {
        let left_out = |sample: &Sample| self.without.as_ref().is_some_and(|name| calibration::is_of(sample, name));
        let samples = source.calibration(seed)?.into_iter().step_by(if self.quick { 5 } else { 1 });
        let samples: Vec<Sample> = samples.filter(|sample| !left_out(sample)).collect();
        let calibrator = calibration::calibrate(model, source, &samples, judge, self.pooling, self.batch_size)?;
        self.budget.with_neutral(calibrator, &self.subject, source, seed)
    }

    fn provenance(&self) -> serde_json::Value {
        serde_json::json!({
            "pooling": self.pooling.to_string(),
            "without": self.without,
            "reused": self.reuse,
            "worn throughout": self.subject.wear,
            "transport pooling": Preset::TEXT.to_string(),
            "condition": {"pooling": Calibrator::PROMPT_END.to_string(), "false positive rate": self.budget.gate_rate},
            "budget": self.budget.budget().map(|budget| budget.divergence),
        })
    }
}
