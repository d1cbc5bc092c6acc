//! Evaluates one model behind one stack of defences, resumably; or judges existing answers again.
//!
//!     evaluate --defence eta+sgm --intervention out/conditional.sgm.safetensors --out out/eta-sgm
//!     evaluate --answers out/eta-sgm/answers.jsonl --judge refusal --out out/refusals --export-mm-safetybench out/mm-safetybench
//!     evaluate --answers out/eta-sgm/answers.jsonl --agreement --judge refusal --judge replay:people.jsonl --out out/agreement
//!
//! Answers go to `answers.jsonl` as they are made; a run that was stopped continues where it was.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use sgm::core::{Intervention, write_atomically};
use sgm::defend::{DefenceResources, DefenceStack};
use sgm::measurement;
use sgm::models::Mllm;
use sgm::suppress::Preset;
use sgm::toxic_qa::{
    AgreementReport, Benchmark, Durability, EvaluationSplit, Judge, Provenance, Record, Report, Run, RunFile, VerdictCounts, judge_again,
    read_answers, read_records,
};
use sgm_examples::answering::Answering;
use sgm_examples::bad_samples::{self, BadSamples};
use sgm_examples::export_arguments::ExportArguments;
use sgm_examples::subject::Subject;
use sgm_examples::{calibration, process};

/// Evaluates one model behind one stack of defences, resumably; or judges existing answers again.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    bad_samples: BadSamples,
    /// The stack of defences, from the outside in: `none`, `sgm`, `self-reminder+ecso+sgm` ...
    #[arg(long, default_value = "none")]
    defence: DefenceStack,
    /// The glasses of `sgm`.
    #[arg(long)]
    intervention: Option<PathBuf>,
    /// Judge the answers in this file again instead of asking the model.
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["model", "intervention"])]
    answers: Option<PathBuf>,
    /// With --answers: compare all judges pair by pair instead of taking their majority; writes `agreement.json`.
    #[arg(long, requires = "answers")]
    agreement: bool,
    /// Show the answers on which the judges disagree, word for word.
    #[arg(long, requires = "agreement")]
    show_text: bool,
    /// The seed of the answers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The length of an answer in tokens.
    #[arg(long, default_value_t = 56)]
    max_new_tokens: usize,
    /// Prompts run together.
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Prompts between two writes to the file of answers.
    #[arg(long, default_value_t = 256)]
    chunk: usize,
    #[command(flatten)]
    export: ExportArguments,
    /// The directory of `answers.jsonl` and `report.json`.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    process::start();
    let mut arguments = Arguments::parse();
    arguments.subject.judge.keep_replies(&arguments.out.join("chat-replies"));
    if let Some(answers) = arguments.answers.as_ref().filter(|_| arguments.agreement) {
        return arguments.compare_judges(answers);
    }
    let records = match &arguments.answers {
        Some(answers) => arguments.judge_again(answers)?,
        None => arguments.evaluate()?,
    };
    arguments.export.write(&records, &arguments.defence.to_string())
}

impl Arguments {
    /// Compares judges on existing answers.
    fn compare_judges(&self, answers: &Path) -> Result<()> {
        let report = AgreementReport::of(&read_answers(answers)?, &self.subject.judge.each()?, self.show_text)?;
        write_atomically(&self.out.join("agreement.json"), &serde_json::to_vec_pretty(&report)?)?;
        println!("{}", report.markdown());
        Ok(())
    }

    /// Judges existing answers again.
    fn judge_again(&self, answers: &Path) -> Result<Vec<Record>> {
        let records = read_records(answers)?;
        let of_organism = records.iter().all(|record| record.model == "organism");
        let judge = self.subject.judge.judge(of_organism)?;
        let settings = serde_json::json!({"answers": answers, "judge": judge.id()});
        let mut run = RunFile::open(self.out.join("answers.jsonl"), &settings, Durability::Batch)?;
        let records = judge_again(records, judge.as_ref(), self.batch_size, &mut run)?;
        println!("{}: {}", judge.id(), VerdictCounts::of(&records));
        Ok(records)
    }

    /// Answers and measures.
    fn evaluate(&self) -> Result<Vec<Record>> {
        // The judge first: a large model is not loaded only to find that there is none.
        let (source, judge, model) = (self.subject.source(EvaluationSplit::Test)?, self.subject.judge()?, self.subject.model()?);
        let (evaluation, skipped) = self.bad_samples.filter_evaluation(source.evaluation()?, model.processor());
        bad_samples::summary(&skipped).iter().for_each(|text| println!("{text}"));
        let benchmark = Benchmark::with_scorer(evaluation, source.scorer())?;
        let resources = self.resources(source.as_ref(), &model, &judge)?;
        let answering = Answering { seed: self.seed, max_new_tokens: self.max_new_tokens, batch_size: self.batch_size };
        let defended = (&self.defence, &resources);
        let options = measurement::options(defended, answering.options())?;
        let mut settings = serde_json::json!({
            "model": model.info().name, "weights": model.info().weights, "source": source.name(), "defence": options.defence,
            "intervention_sha256": options.intervention_sha256, "seed": self.seed, "max_new_tokens": self.max_new_tokens,
            "chunk": self.chunk,
        });
        if let Some(settings) = settings.as_object_mut().filter(|_| !skipped.is_empty()) {
            settings.insert("skipped".to_owned(), serde_json::to_value(&skipped)?);
        }
        let mut run = RunFile::open(self.out.join("answers.jsonl"), &settings, Durability::Batch)?;
        println!("{} answers were there already", run.len());
        let measured = measurement::measure_into(&model, &benchmark, judge.as_ref(), defended, &options, Some((&mut run, self.chunk)))?;
        let mut provenance = Provenance::new(&model.info().name, source.as_ref(), judge.as_ref());
        provenance.generation = settings;
        provenance.skipped = skipped;
        let report = Report::new(provenance, vec![Run::from_seeds(self.defence.to_string(), model.info().neurons(), &[measured.outcome])?]);
        report.write(&self.out.join("report.json"))?;
        println!("{}\n{}", report.table(), VerdictCounts::of(&measured.records));
        Ok(measured.records)
    }

    /// The glasses and scorers of the defences; scorers are fitted to the calibration samples.
    fn resources<'m, M: Mllm>(
        &self,
        source: &dyn sgm::toxic_qa::Source,
        model: &'m M,
        judge: &Arc<dyn Judge>,
    ) -> Result<DefenceResources<'m>> {
        let mut resources = DefenceResources::default();
        if self.defence.needs_scorers() {
            let samples = source.calibration(0)?;
            let calibrator = calibration::calibrate(model, source, &samples, judge, Preset::TEXT, self.batch_size)?;
            resources = DefenceResources::calibrated(model, &calibrator)?;
        }
        let glasses = self.intervention.as_ref().map(Intervention::load).transpose()?;
        resources.intervention = glasses.filter(|_| self.defence.wears_glasses());
        Ok(resources)
    }
}
