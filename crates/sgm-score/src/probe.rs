//! The fit of a probe to a store of activations.

use rayon::prelude::*;
use sgm_capture::ActivationStore;
use sgm_core::{Probe, Site};

use crate::logistic_regression::logistic_regression;
use crate::{Error, Result};

/// The settings of a probe's fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeOptions {
    /// The weight of the samples against that of the penalty (scikit-learn's `C`): smaller is smoother.
    pub c: f64,
    /// The number of folds of the cross-validation, at least 2.
    pub folds: usize,
    /// The tolerance of the minimum; see [`logistic_regression`](crate::logistic_regression()).
    pub tolerance: f64,
}

impl Default for ProbeOptions {
    /// `c` = 0.01, for more neurons than samples; four folds; a tolerance of 1e-4.
    fn default() -> Self {
        Self { c: 0.01, folds: 4, tolerance: 1e-4 }
    }
}

/// A fitted probe.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedProbe {
    /// The probe.
    pub probe: Probe,
    /// The cross-validated score of each sample, by a probe fitted to the other folds, f32 `[samples]`: thresholds are chosen by these.
    pub unseen: Vec<f32>,
}

impl FittedProbe {
    /// The lowest threshold with at most this false positive rate, by the cross-validated scores.
    pub fn threshold_at(&self, false_positive_rate: f64, labels: &[bool]) -> f32 {
        let mut benign: Vec<f32> = self.unseen.iter().zip(labels).filter(|(_, toxic)| !**toxic).map(|(score, _)| *score).collect();
        benign.sort_unstable_by(|a, b| b.total_cmp(a));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the number of samples")]
        let allowed = (false_positive_rate.clamp(0.0, 1.0) * benign.len() as f64) as usize;
        // Just above the highest benign score that must not reach the threshold.
        benign.get(allowed).map_or(0.0, |score| score.next_up().min(1.0))
    }

    /// The threshold halfway, in log-odds, from `lowest` to the cross-validated score that all but this share of the toxic samples reach;
    /// `lowest` itself if that score is not above it.
    ///
    /// When the classes are far apart, the [lowest threshold](Self::threshold_at) is next to the non-toxic samples, and text that is a little
    /// different from them reaches it. The threshold halfway is as far from them as from the toxic ones.
    pub fn threshold_halfway(&self, lowest: f32, false_negative_rate: f64, labels: &[bool]) -> f32 {
        let mut toxic: Vec<f32> = self.unseen.iter().zip(labels).filter(|(_, toxic)| **toxic).map(|(score, _)| *score).collect();
        toxic.sort_unstable_by(f32::total_cmp);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the number of samples")]
        let allowed = (false_negative_rate.clamp(0.0, 1.0) * toxic.len() as f64) as usize;
        // Scores of f32 can be rounded to 0 and 1, whose log-odds are infinite.
        let log_odds = |score: f32| {
            let score = f64::from(score).clamp(f64::from(f32::EPSILON), 1.0 - f64::from(f32::EPSILON));
            (score / (1.0 - score)).ln()
        };
        let reached = toxic.get(allowed).copied().unwrap_or(lowest);
        let halfway = 1.0 / (1.0 + (-f64::midpoint(log_odds(lowest), log_odds(reached))).exp());
        #[allow(clippy::cast_possible_truncation, reason = "thresholds are f32")]
        (halfway as f32).max(lowest)
    }
}

/// Fits a probe to the responses of a store, by the store's current pooling: for a [`Condition`](sgm_core::Condition) `last/prompt`.
///
/// Only the neurons that `neurons` accepts are read; their responses to all samples are in memory, f32. Neurons are standardised for the
/// fit; the probe's weights are for the original responses. Samples are assigned to the folds in turn, separately for each class.
///
/// # Errors
///
/// [`Error::Fit`] when a class has fewer samples than there are folds or a response is not finite, [`Error::Store`] when the
/// store cannot be read.
pub fn fit_probe(store: &ActivationStore, options: ProbeOptions, neurons: impl Fn(Site, usize) -> bool) -> Result<FittedProbe> {
    let labels = store.labels();
    let mut rows = vec![Vec::new(); labels.len()];
    for (site, width) in store.sites() {
        let chosen: Vec<usize> = (0..*width).filter(|neuron| neurons(*site, *neuron)).collect();
        if chosen.is_empty() {
            continue;
        }
        let responses = store.read(*site)?;
        for (row, responses) in rows.iter_mut().zip(responses.rows()) {
            row.extend(chosen.iter().filter_map(|neuron| responses.get(*neuron)).copied());
        }
    }
    let folds = options.folds.max(2);
    let (mut seen, mut fold) = ([0usize; 2], Vec::with_capacity(labels.len()));
    for toxic in labels {
        let [non_toxic_seen, toxic_seen] = &mut seen;
        let seen = if *toxic { toxic_seen } else { non_toxic_seen };
        fold.push(*seen % folds);
        *seen += 1;
    }
    if let Some(few) = seen.iter().min().filter(|few| **few < folds) {
        return Err(Error::Fit { reason: format!("a class has {few} samples, fewer than the {folds} folds") });
    }
    let score_fold = |part: usize| -> Result<Vec<(usize, f32)>> {
        let of = |inside: bool| fold.iter().enumerate().filter(move |(_, f)| (**f == part) == inside).map(|(i, _)| i);
        let rest: Vec<(&[f32], bool)> = of(false).filter_map(|i| Some((rows.get(i)?.as_slice(), *labels.get(i)?))).collect();
        let fitted = logistic_regression(&rest, options.c, options.tolerance)?;
        Ok(of(true).filter_map(|sample| Some((sample, fitted.score(rows.get(sample)?)))).collect())
    };
    let mut unseen: Vec<(usize, f32)> = (0..folds).into_par_iter().map(score_fold).collect::<Result<Vec<_>>>()?.concat();
    unseen.sort_unstable_by_key(|(sample, _)| *sample);
    let unseen = unseen.into_iter().map(|(_, score)| score).collect();
    let all: Vec<(&[f32], bool)> = rows.iter().map(Vec::as_slice).zip(labels.iter().copied()).collect();
    let fitted = logistic_regression(&all, options.c, options.tolerance)?;
    #[allow(clippy::cast_possible_truncation, reason = "probes are f32")]
    let single = |value: f64| value as f32;
    let mut probe = Probe::new(single(fitted.bias));
    let mut fitted = fitted.weights.into_iter();
    for (site, width) in store.sites().iter().filter(|(site, width)| (0..**width).any(|neuron| neurons(**site, neuron))) {
        let weight = |neuron: usize| if neurons(*site, neuron) { fitted.next().map_or(0.0, single) } else { 0.0 };
        probe.insert(*site, (0..*width).map(weight).collect())?;
    }
    Ok(FittedProbe { probe, unseen })
}
