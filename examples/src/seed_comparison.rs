//! One seed of the comparison: glasses fitted to one calibration set, and the answers of every row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sgm::core::Intervention;
use sgm::defend::DefenceResources;
use sgm::measurement;
use sgm::models::Mllm;
use sgm::suppress::Error::{NoCausalEffects, NoDose};
use sgm::suppress::{Budget, Calibrator};
use sgm::toxic_qa::{Benchmark, DetectionOutcome, Judge, RecordWriter, SeedOutcome};

use crate::answering::Answering;
use crate::comparison::{self, Row};
use crate::progress::Progress;

/// One seed of the comparison.
#[derive(Clone, Copy)]
pub struct SeedComparison<'a, M> {
    /// The model.
    pub model: &'a M,
    /// The rows.
    pub rows: &'a [Row],
    /// Shows the steps.
    pub progress: &'a Progress,
    /// What the names of steps begin with.
    pub prefix: &'a str,
    /// Where the fitted glasses are written.
    pub directory: &'a Path,
    /// Whether glasses that are there already are taken instead of new ones.
    pub resumed: bool,
}

/// Glasses by name.
#[derive(Debug, Default)]
pub struct FittedGlasses {
    /// The glasses.
    pub glasses: BTreeMap<String, Intervention>,
    /// The names of those that no strength keeps within the budget, or that find no causes of toxic answers.
    pub left_out: BTreeSet<String>,
}

impl<M: Mllm> SeedComparison<'_, M> {
    /// Fits the glasses that the rows wear and writes each to its file as soon as it is fitted. Those that no strength keeps within the
    /// budget, or that find no causes of toxic answers, are left out, with a warning that says why.
    ///
    /// # Errors
    ///
    /// Those of the fits and of the files, and when glasses of an earlier run are of other calibration samples.
    pub fn fit(&self, calibrator: &Calibrator, gate_rate: f64, budget: Option<&Budget>) -> Result<FittedGlasses> {
        let mut fitted = FittedGlasses::default();
        std::fs::create_dir_all(self.directory).with_context(|| self.directory.display().to_string())?;
        for name in comparison::names_of_glasses(self.rows) {
            let file = comparison::file(self.directory, name);
            let fit = || -> Result<Intervention> {
                if self.resumed && file.exists() {
                    let glasses = Intervention::load(&file)?;
                    let same = glasses.metadata.calibration.as_ref() == calibrator.calibration();
                    ensure!(same, "{} is of other calibration samples; leave `--resume` out", file.display());
                    return Ok(glasses);
                }
                let glasses = comparison::fit(self.model, calibrator, name, gate_rate, budget)?;
                glasses.save(&file)?;
                Ok(glasses)
            };
            match self.progress.step(format!("{}fit of {name}", self.prefix), fit) {
                Ok(glasses) => _ = fitted.glasses.insert(name.to_owned(), glasses),
                Err(error) if matches!(error.downcast_ref(), Some(NoDose { .. } | NoCausalEffects { .. })) => {
                    tracing::warn!("there are no glasses `{name}`, and its rows are left out: {error:#}");
                    fitted.left_out.insert(name.to_owned());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(fitted)
    }

    /// Measures all rows and writes their answers; none for a row whose glasses were left out.
    ///
    /// # Errors
    ///
    /// Those of the measurements, and when a row's glasses are missing.
    pub fn measure<'m>(
        &'m self,
        benchmark: &Benchmark,
        judge: &dyn Judge,
        fitted: &FittedGlasses,
        mut resources: DefenceResources<'m>,
        answering: Answering,
        answers: &mut RecordWriter,
    ) -> Result<Vec<Option<SeedOutcome>>> {
        let mut detected: BTreeMap<&str, Option<DetectionOutcome>> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(self.rows.len());
        for row in self.rows {
            let worn = comparison::glasses_of(row);
            if worn.is_some_and(|name| fitted.left_out.contains(name)) {
                outcomes.push(None);
                continue;
            }
            let glasses = |name: &str| fitted.glasses.get(name).cloned().with_context(|| format!("there are no glasses `{name}`"));
            resources.intervention = worn.map(glasses).transpose()?;
            let mut measured = self.progress.step(format!("{}answers of {}", self.prefix, row.0), || -> Result<_> {
                Ok(measurement::measure(self.model, benchmark, judge, (&row.1, &resources), answering.options())?)
            })?;
            if let (Some(name), Some(glasses)) = (worn, &resources.intervention) {
                if !detected.contains_key(name) {
                    detected.insert(name, measurement::detected(self.model, benchmark, glasses, answering.batch_size)?);
                }
                measured.outcome.detection = detected.get(name).cloned().flatten();
                measured.outcome.divergence = Budget::tested_divergence(glasses);
            }
            measured.records.iter().try_for_each(|record| answers.write(record))?;
            outcomes.push(Some(measured.outcome));
        }
        Ok(outcomes)
    }
}
