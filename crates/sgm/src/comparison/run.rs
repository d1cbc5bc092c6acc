//! The measurements of a comparison, seed by seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mm_toxic_qa::html_report::AurocDistribution;
use mm_toxic_qa::{Benchmark, Judge, RecordWriter, Run, SeedOutcome};
use sgm_core::Intervention;
use sgm_defend::DefenceResources;
use sgm_models::{GenerateOptions, Mllm};
use sgm_suppress::Error::{NoCausalEffects, NoDose};
use sgm_suppress::{Budget, Calibrator};

use super::error::{Error, Result};
use super::glasses::NamedGlasses;
use super::row::Row;
use crate::measurement;

/// A comparison of some rows: glasses fitted to one calibration set for each seed, and the answers of every row.
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
    /// Is told the name of each step at its beginning. For each seed there are one of calibration and one for each glasses to fit, unless
    /// they are reused, and one for each row.
    pub begin: &'a dyn Fn(&str),
}

/// Glasses by name.
type Glasses = BTreeMap<String, Intervention>;

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
    /// Fits, measures and writes the answers to `answers.jsonl`, for a number of seeds from that of the options on. `calibrator` captures the
    /// samples of a seed; glasses that are reused need none.
    ///
    /// # Errors
    ///
    /// [`Error::Calibration`] for one of `calibrator`, and those of fits, measurements and files.
    pub fn run<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        seeds: u64,
        calibrator: impl Fn(u64) -> std::result::Result<Calibrator, E>,
        benchmark: &Benchmark,
        judge: &dyn Judge,
        options: &GenerateOptions,
    ) -> Result<Compared> {
        let mut outcomes: Vec<Vec<SeedOutcome>> = vec![Vec::new(); self.rows.len()];
        let mut answers = RecordWriter::create(self.directory.join("answers.jsonl")).map_err(Box::new)?;
        let (mut auroc, mut shown) = (None, None);
        for seed in options.seed..options.seed.saturating_add(seeds) {
            let mut resources = DefenceResources::default();
            let glasses = if let Some(directory) = self.reuse {
                self.read(directory, seed)?
            } else {
                (self.begin)(&format!("seed {seed}, calibration"));
                let calibrator = calibrator(seed).map_err(|error| Error::Calibration { seed, source: error.into() })?;
                let glasses = self.fit(&calibrator, seed)?;
                if self.rows.iter().any(|row| row.defences.needs_scorers()) {
                    resources = DefenceResources::calibrated(self.model, &calibrator).map_err(Box::new)?;
                }
                if auroc.is_none() {
                    auroc = Some(AurocDistribution::new(&calibrator.expertise()?, None));
                    shown = SHOWN.into_iter().find(|name| glasses.contains_key(*name));
                }
                glasses
            };
            let options = GenerateOptions { seed, ..options.clone() };
            let measured = self.measure(benchmark, judge, &glasses, resources, &options, &mut answers)?;
            outcomes.iter_mut().zip(measured).for_each(|(outcomes, measured)| outcomes.extend(measured));
        }
        let measured = self.rows.iter().zip(&outcomes).filter(|(_, outcomes)| !outcomes.is_empty());
        let runs = measured.map(|(row, outcomes)| Run::from_seeds(&row.name, self.model.info().neurons(), outcomes));
        let runs = runs.collect::<std::result::Result<_, mm_toxic_qa::Error>>().map_err(Box::new)?;
        Ok(Compared { runs, auroc, shown })
    }

    /// The glasses of a seed that an earlier comparison wrote.
    fn read(&self, comparison: &Path, seed: u64) -> Result<Glasses> {
        let read = |name: &str| Ok((name.to_owned(), NamedGlasses::read(&directory_of(comparison, seed), name)?));
        Row::names_of_glasses(self.rows).into_iter().map(read).collect()
    }

    /// Fits the glasses that the rows wear and writes each to its file as soon as it is fitted. Those that no strength keeps within the
    /// budget, or that find no causes of toxic answers, are left out, with a warning that says why.
    fn fit(&self, calibrator: &Calibrator, seed: u64) -> Result<Glasses> {
        let directory = directory_of(self.directory, seed);
        std::fs::create_dir_all(&directory).map_err(|source| Error::Directory { directory: directory.clone(), source })?;
        let mut fitted = Glasses::new();
        for name in Row::names_of_glasses(self.rows) {
            let file = NamedGlasses::file(&directory, name);
            let glasses = NamedGlasses::new(name, self.gate_rate, self.budget)?;
            (self.begin)(&format!("seed {seed}, fit of {name}"));
            let glasses = match self.resume {
                true => glasses.fit_or_read(self.model, calibrator, self.context, &file),
                false => glasses.fit_and_write(self.model, calibrator, self.context, &file),
            };
            match glasses {
                Ok(glasses) => _ = fitted.insert(name.to_owned(), glasses),
                Err(Error::Suppress(error @ (NoDose { .. } | NoCausalEffects { .. }))) => {
                    tracing::warn!("there are no glasses `{name}`, and its rows are left out: {error}");
                }
                Err(error) => return Err(error),
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
        options: &GenerateOptions,
        answers: &mut RecordWriter,
    ) -> Result<Vec<Option<SeedOutcome>>> {
        let mut outcomes = Vec::with_capacity(self.rows.len());
        for row in self.rows {
            resources.intervention = row.glasses().and_then(|name| glasses.get(name)).cloned();
            if row.glasses().is_some() && resources.intervention.is_none() {
                outcomes.push(None);
                continue;
            }
            (self.begin)(&format!("seed {}, answers of {}", options.seed, row.name));
            let measured =
                measurement::measure(self.model, benchmark, judge, (&row.defences, &resources), options.clone()).map_err(Box::new)?;
            measured.records.iter().try_for_each(|record| answers.write(record)).map_err(Box::new)?;
            outcomes.push(Some(measured.outcome));
        }
        Ok(outcomes)
    }
}
