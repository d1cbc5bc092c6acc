//! The logistic regression of the local scorers.

use sgm_suppress::{Logistic, logistic};

use crate::Result;

/// Fits it to few samples of many features: with a strong penalty, `c` = 0.01.
pub(crate) fn classifier(rows: &[Vec<f32>], classes: impl Iterator<Item = bool>) -> Result<Logistic> {
    let samples: Vec<(&[f32], bool)> = rows.iter().map(Vec::as_slice).zip(classes).collect();
    Ok(logistic(&samples, 0.01, 1e-4)?)
}
