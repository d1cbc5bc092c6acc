//! Leaves one trigger out of calibration at a time, and each category, and asks what glasses do about the very prompts they have not been
//! fitted to: whether the probe sees them, and what transport makes of those that it sees. Beside it the same prompts with glasses that were
//! calibrated on everything, and without glasses. Nothing else is measured: see `glasses` for what the glasses cost.
#![allow(clippy::print_stdout, reason = "a binary")]

#[allow(dead_code, reason = "other examples use the rest")]
mod experiment;
mod holdout;
mod process;
mod subject;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use experiment::{Drawing, is_of};
use holdout::{Holdout, HoldoutReport};
use indicatif::{ProgressBar, ProgressStyle};
use sgm::core::{Intervention, write_atomically};
use sgm::defend::Ingredients;
use sgm::models::Mllm;
use sgm::suppress::Preset;
use sgm::toxic_qa::{Benchmark, Evaluation, Part, Provenance, Sample};
use subject::Subject;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    /// How many seeds, each with a calibration set and random answers of its own.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The glasses, by the name of their row.
    #[arg(long, default_value = "live")]
    preset: String,
    /// Only these categories and triggers; all by default.
    #[arg(long)]
    without: Vec<String>,
    /// The report to write.
    #[arg(long, default_value = "out/holdouts.json")]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::settle();
    let arguments = Arguments::parse();
    let (source, model, judge) = (arguments.subject.source(Part::Dev)?, arguments.subject.model()?, arguments.subject.judge()?);
    let preset = Preset::named(&arguments.preset)?;
    let Evaluation { standard, adversarial, .. } = source.evaluation()?;
    let mut holdouts = Holdout::all(&[standard.clone(), adversarial.clone()].concat(), &source.calibration(0)?);
    holdouts.retain(|holdout| arguments.without.is_empty() || arguments.without.contains(&holdout.name));
    let bar = ProgressBar::new(arguments.seeds * (1 + holdouts.len() as u64));
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?);

    for seed in 0..arguments.seeds {
        let glasses = |samples: &[Sample]| -> Result<Intervention> {
            let calibrated = experiment::calibrate(&model, source.as_ref(), (samples, &judge), Preset::TEXT, 64)?;
            Ok(preset.fit(&model, &calibrated)?)
        };
        let calibration = source.calibration(seed)?;
        let all = glasses(&calibration)?;
        bar.inc(1);
        for Holdout { name, outcomes, .. } in &mut holdouts {
            bar.set_message(format!("seed {seed}: {name}"));
            let of = |samples: &[Sample], inside| samples.iter().filter(|s| is_of(s, name) == inside).cloned().collect::<Vec<_>>();
            let only = Evaluation { standard: of(&standard, true), adversarial: of(&adversarial, true), ..Evaluation::default() };
            let benchmark = Benchmark::new(only)?;
            let without = glasses(&of(&calibration, false))?;
            for (outcome, intervention) in outcomes.iter_mut().zip([&Intervention::default(), &all, &without]) {
                let ingredients = Ingredients { intervention: Some(intervention.clone()), ..Ingredients::default() };
                let drawing = Drawing { seed, max_new_tokens: 56, batch_size: 64 };
                let evaluated = experiment::measure(&model, &benchmark, &judge, (&"sgm".parse()?, &ingredients), drawing)?.outcome;
                outcome.prompts.extend([evaluated.standard, evaluated.adversarial].concat());
                outcome.opened.extend(evaluated.gate.into_iter().flat_map(|gate| gate.risky));
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let mut provenance = Provenance::new(&model.info().name, source.as_ref(), &judge);
    provenance.calibration = serde_json::json!({"worn from the start": arguments.subject.wear});
    let report = HoldoutReport {
        provenance,
        preset: arguments.preset,
        seeds: arguments.seeds,
        rows: holdout::one_at_a_time(&holdouts).iter().chain(&holdouts).map(Holdout::row).collect(),
    };
    write_atomically(&arguments.out, &serde_json::to_vec_pretty(&report)?)?;
    println!("{}", report.markdown());
    println!("written to {}", arguments.out.display());
    Ok(())
}
