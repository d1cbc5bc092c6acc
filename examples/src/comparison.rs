//! The comparison of the example `glasses`: glasses fitted to one calibration set for each seed, and the answers of every row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sgm::comparison::{Error, NamedGlasses, Row};
use sgm::core::Intervention;
use sgm::defend::DefenceResources;
use sgm::measurement;
use sgm::models::Mllm;
use sgm::suppress::Error::{NoCausalEffects, NoDose};
use sgm::suppress::{Budget, Calibrator};
use sgm::toxic_qa::html_report::AurocDistribution;
use sgm::toxic_qa::{Benchmark, Judge, RecordWriter, Run, SeedOutcome};

use crate::answering::Answering;
use crate::progress::Progress;

/// The comparison of some rows.
pub struct Comparison<'a, M> {
    /// The model.
    pub model: &'a M,
    /// The rows.
    pub rows: &'a [Row],
    /// The largest share of benign prompts at which conditions may hold.
    pub gate_rate: f64,
    /// The budget of glasses whose names have none of their own.
    pub budget: Option<&'a Budget>,
    /// Where the fitted glasses are written: those of seed 0 there, those of others in a directory of their own.
    pub directory: &'a Path,
    /// Whether glasses that an interrupted run has written there are taken.
    pub resume: bool,
    /// The directory of an earlier comparison whose glasses are worn instead of new ones.
    pub reuse: Option<&'a Path>,
    /// What glasses depend on beside model, samples and their names.
    pub context: &'a str,
    /// Shows the steps.
    pub progress: &'a Progress,
}

/// Glasses by name.
type Glasses = BTreeMap<String, Intervention>;

/// The rows of some names, or else all, or the main ones, and further ones.
///
/// # Errors
///
/// For a name of no row.
pub fn rows(named: &[String], all: bool, further: &[String]) -> Result<Vec<Row>> {
    let names: Vec<&str> = match (named.is_empty(), all) {
        (false, _) => named.iter().map(String::as_str).collect(),
        (true, true) => Row::all().collect(),
        (true, false) => Row::MAIN.to_vec(),
    };
    Ok(names.into_iter().chain(further.iter().map(String::as_str)).map(Row::named).collect::<Result<_, _>>()?)
}

/// The names of the glasses that rows wear.
pub fn names_of_glasses(rows: &[Row]) -> BTreeSet<&str> {
    rows.iter().filter_map(Row::glasses).collect()
}

/// What to run after a comparison whose files are in `out`.
pub fn next_steps(out: &Path) -> String {
    let out = out.display();
    format!(
        "Next: `cargo run --release --example glasses -- --full` compares all rows over three seeds;
`--example bake -- --model organism --intervention {out}/bakeable.sgm.safetensors --out BAKED` writes a checkpoint for other engines;
`--model DIR --manifest FILE.jsonl --judge lexicon:WORDS.txt` does all this on your model (docs/getting-started.md)."
    )
}

/// The directory of the glasses of a seed.
fn directory_of(comparison: &Path, seed: u64) -> PathBuf {
    if seed == 0 { comparison.to_owned() } else { comparison.join(format!("seed-{seed}")) }
}

/// What a comparison has measured.
pub struct Compared {
    /// Every row but those whose glasses were left out.
    pub runs: Vec<Run>,
    /// The AUROCs of all neurons on the calibration of seed 0; none if glasses were reused.
    pub auroc: Option<AurocDistribution>,
    /// The glasses of seed 0 that tell most.
    pub shown: Option<&'static str>,
}

/// Glasses in the order of how much they tell.
const SHOWN: [&str; 4] = ["conditional", "bakeable", "causal-sgm", "sgm"];

impl<M: Mllm> Comparison<'_, M> {
    /// Fits, measures and writes the answers to `answers.jsonl`, for a number of seeds from that of the answers on. `calibrator` captures the
    /// samples of a seed; glasses that are reused need none.
    ///
    /// # Errors
    ///
    /// Those of calibration, fits, measurements and files.
    pub fn run(
        &self,
        seeds: u64,
        calibrator: impl Fn(u64) -> Result<Calibrator>,
        benchmark: &Benchmark,
        judge: &dyn Judge,
        answering: Answering,
    ) -> Result<Compared> {
        let mut outcomes: Vec<Vec<SeedOutcome>> = vec![Vec::new(); self.rows.len()];
        let mut answers = RecordWriter::create(self.directory.join("answers.jsonl"))?;
        let (mut auroc, mut shown) = (None, None);
        for seed in (answering.seed..).take(usize::try_from(seeds)?) {
            let mut resources = DefenceResources::default();
            let glasses = if let Some(directory) = self.reuse {
                self.read(directory, seed)?
            } else {
                let calibrator = self.progress.step(format!("seed {seed}, calibration"), || calibrator(seed))?;
                let glasses = self.fit(&calibrator, seed)?;
                if self.rows.iter().any(|row| row.defences.needs_scorers()) {
                    resources = DefenceResources::calibrated(self.model, &calibrator)?;
                }
                if auroc.is_none() {
                    auroc = Some(AurocDistribution::new(&calibrator.expertise()?, None));
                    shown = SHOWN.into_iter().find(|name| glasses.contains_key(*name));
                }
                glasses
            };
            let measured = self.measure(benchmark, judge, &glasses, resources, Answering { seed, ..answering }, &mut answers)?;
            outcomes.iter_mut().zip(measured).for_each(|(outcomes, measured)| outcomes.extend(measured));
        }
        let measured = self.rows.iter().zip(&outcomes).filter(|(_, outcomes)| !outcomes.is_empty());
        let runs = measured.map(|(row, outcomes)| Run::from_seeds(&row.name, self.model.info().neurons(), outcomes));
        Ok(Compared { runs: runs.collect::<Result<_, _>>()?, auroc, shown })
    }

    /// The glasses of a seed that an earlier comparison wrote.
    fn read(&self, comparison: &Path, seed: u64) -> Result<Glasses> {
        let read = |name: &str| Ok((name.to_owned(), NamedGlasses::read(&directory_of(comparison, seed), name)?));
        names_of_glasses(self.rows).into_iter().map(read).collect()
    }

    /// Fits the glasses that the rows wear and writes each to its file as soon as it is fitted. Those that no strength keeps within the
    /// budget, or that find no causes of toxic answers, are left out, with a warning that says why.
    fn fit(&self, calibrator: &Calibrator, seed: u64) -> Result<Glasses> {
        let directory = directory_of(self.directory, seed);
        std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let mut fitted = Glasses::new();
        for name in names_of_glasses(self.rows) {
            let file = NamedGlasses::file(&directory, name);
            let glasses = NamedGlasses::new(name, self.gate_rate, self.budget)?;
            let fit = || match self.resume {
                true => glasses.fit_or_read(self.model, calibrator, self.context, &file),
                false => glasses.fit_and_write(self.model, calibrator, self.context, &file),
            };
            match self.progress.step(format!("seed {seed}, fit of {name}"), fit) {
                Ok(glasses) => _ = fitted.insert(name.to_owned(), glasses),
                Err(Error::Suppress(error @ (NoDose { .. } | NoCausalEffects { .. }))) => {
                    tracing::warn!("there are no glasses `{name}`, and its rows are left out: {error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(fitted)
    }

    /// Measures all rows and writes their answers; none for a row whose glasses were left out.
    fn measure<'m>(
        &'m self,
        benchmark: &Benchmark,
        judge: &dyn Judge,
        glasses: &Glasses,
        mut resources: DefenceResources<'m>,
        answering: Answering,
        answers: &mut RecordWriter,
    ) -> Result<Vec<Option<SeedOutcome>>> {
        let mut outcomes = Vec::with_capacity(self.rows.len());
        for row in self.rows {
            resources.intervention = row.glasses().and_then(|name| glasses.get(name)).cloned();
            if row.glasses().is_some() && resources.intervention.is_none() {
                outcomes.push(None);
                continue;
            }
            let measured = self.progress.step(format!("seed {}, answers of {}", answering.seed, row.name), || -> Result<_> {
                Ok(measurement::measure(self.model, benchmark, judge, (&row.defences, &resources), answering.options())?)
            })?;
            measured.records.iter().try_for_each(|record| answers.write(record))?;
            outcomes.push(Some(measured.outcome));
        }
        Ok(outcomes)
    }
}
