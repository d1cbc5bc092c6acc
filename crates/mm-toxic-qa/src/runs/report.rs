//! The report of a benchmark as a file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sgm_core::SkippedSample;

use crate::{Error, Judge, Result, Run, Source};

/// The schema of the reports this version writes, and the newest it reads.
pub const REPORT_SCHEMA: u64 = 1;

/// The JSON report: every run of a benchmark, and the origin of its numbers.
///
/// [`table`](Report::table) and [`markdown`](Report::markdown) show it to readers. Harm and utility are always shown together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    schema: u64,
    /// The settings of the measurement.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// The version of this software.
    pub software: String,
    /// All seeds of all runs, ascending.
    pub seeds: Vec<u64>,
    /// The runs, the model without intervention (`none`) among them.
    pub runs: Vec<Run>,
}

/// The origin of the numbers of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The model's name or path.
    pub model: String,
    /// The evaluation split: `dev` or `test`. Earlier files call it `part`.
    #[serde(alias = "part")]
    pub split: String,
    /// The judge's id.
    pub judge: String,
    /// The source's name.
    pub source: String,
    /// The settings of generation: temperature, length and so on.
    #[serde(default)]
    pub generation: Value,
    /// The settings of scoring: samples, pooling, tokens and so on.
    #[serde(default)]
    pub calibration: Value,
    /// The samples that were left out because the model cannot be shown them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedSample>,
}

impl Provenance {
    /// The provenance from the names of a model, a source and a judge; `generation` and `calibration` are left empty.
    pub fn new(model: impl Into<String>, source: &dyn Source, judge: &dyn Judge) -> Self {
        Self {
            model: model.into(),
            split: source.split().name().to_owned(),
            judge: judge.id().to_owned(),
            source: source.name(),
            ..Self::default()
        }
    }
}

impl Report {
    /// A report over runs, by this version of the software.
    pub fn new(provenance: Provenance, runs: Vec<Run>) -> Self {
        let mut seeds: Vec<u64> = runs.iter().flat_map(|run| &run.per_seed).map(|seed| seed.seed).collect();
        seeds.sort_unstable();
        seeds.dedup();
        let software = concat!("mm-toxic-qa ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { schema: REPORT_SCHEMA, provenance, software, seeds, runs }
    }

    /// Writes the report as JSON, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Report`] when a setting has no JSON form, [`Error::Write`] when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|source| Error::Report { path: path.to_owned(), source })?;
        bytes.push(b'\n');
        sgm_core::write_atomically(path, &bytes)?;
        Ok(())
    }

    /// Reads a report back.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read, [`Error::NewerSchema`] when it is of a later version, [`Error::Report`] when it is not a
    /// report.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u64,
        }
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let not_a_report = |source| Error::Report { path: path.to_owned(), source };
        let Schema { schema } = serde_json::from_slice(&bytes).map_err(not_a_report)?;
        if schema > REPORT_SCHEMA {
            return Err(Error::NewerSchema { path: path.to_owned(), line: 1, found: schema, supported: REPORT_SCHEMA });
        }
        serde_json::from_slice(&bytes).map_err(not_a_report)
    }

    /// The run with a name.
    pub fn run(&self, name: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.name == name)
    }
}
