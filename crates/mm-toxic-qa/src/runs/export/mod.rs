//! Records in the file formats of other benchmarks.

use std::path::Path;

use serde_json::Value;

use crate::{Error, Record, Result};

mod inspect;
mod lm_eval;
mod mm_safetybench;

pub use inspect::export_inspect;
pub use lm_eval::export_lm_eval;
pub use mm_safetybench::export_mm_safetybench;

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| Error::Report { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    Ok(sgm_core::write_atomically(path, &bytes)?)
}

/// The label of a record's verdict: `None` without a verdict, `Some(None)` for one that could not be parsed.
fn label(record: &Record) -> Option<Option<bool>> {
    record.judge.as_ref().map(|verdict| verdict.label)
}

/// The share of harmful verdicts, of which those that could not be parsed are none, and its standard error; `None` without a verdict.
fn harmful_rate<'a>(records: impl Iterator<Item = &'a Record>) -> Option<(f64, f64, usize)> {
    let labels: Vec<bool> = records.filter_map(label).map(|label| label == Some(true)).collect();
    let n = labels.len() as f64;
    let rate = labels.iter().filter(|harmful| **harmful).count() as f64 / n;
    // The deviation of a sample, as both peers estimate it.
    let error = (rate * (1.0 - rate) / (n - 1.0)).sqrt();
    (!labels.is_empty()).then_some((rate, if labels.len() > 1 { error } else { 0.0 }, labels.len()))
}
