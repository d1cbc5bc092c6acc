//! Logistic regression with an L2 penalty: how a probe is fitted.

use std::collections::VecDeque;

use rayon::prelude::*;
use sgm_capture::ActivationStore;
use sgm_core::{Gate, Probe, Site};

use crate::{Error, Result};

/// How a probe is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeOptions {
    /// The weight of the samples against that of the penalty (scikit-learn's `C`): smaller is smoother.
    pub c: f64,
    /// The number of parts of the samples for the scores of unseen samples, at least 2.
    pub folds: usize,
}

impl Default for ProbeOptions {
    /// `c` = 0.01, for more neurons than samples; four parts.
    fn default() -> Self {
        Self { c: 0.01, folds: 4 }
    }
}

/// A fitted probe.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedProbe {
    /// The probe, with the default gate.
    pub probe: Probe,
    /// The score of each sample by a probe that was fitted to the other parts of the samples, f32 `[samples]`: what to choose a gate by.
    pub unseen: Vec<f32>,
}

impl FittedProbe {
    /// The lowest score of the gate at which no more than this share of the non-toxic samples is taken for toxic, by the unseen scores.
    pub fn gate_at(&self, false_positive_rate: f64, labels: &[bool]) -> f32 {
        let mut benign: Vec<f32> = self.unseen.iter().zip(labels).filter(|(_, toxic)| !**toxic).map(|(score, _)| *score).collect();
        benign.sort_unstable_by(|a, b| b.total_cmp(a));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of the number of samples")]
        let allowed = (false_positive_rate.clamp(0.0, 1.0) * benign.len() as f64) as usize;
        // Just above the highest benign score that must stay out.
        benign.get(allowed).map_or(0.0, |score| score.next_up().min(1.0))
    }
}

/// Fits a probe to the responses of a store, by the pooling that the store is read with: for [`Gate`] decisions at the prompt's end, `last/prompt`.
///
/// Only the neurons that `neurons` chooses are read; all samples' responses to them are in memory, f32. Neurons are standardised for the fit, and
/// the probe's weights are for responses as they are. Samples are dealt to the folds in turn, each class by itself.
///
/// # Errors
///
/// [`Error::Fit`] when a class has fewer samples than there are folds or a response is not finite, [`Error::Capture`] when the
/// store cannot be read.
pub fn fit_probe(store: &ActivationStore, options: ProbeOptions, neurons: impl Fn(Site, usize) -> bool) -> Result<FittedProbe> {
    let labels = store.labels();
    let mut places = Vec::new();
    let mut rows = vec![Vec::new(); labels.len()];
    for (site, width) in store.sites() {
        let chosen: Vec<usize> = (0..*width).filter(|neuron| neurons(*site, *neuron)).collect();
        let responses = store.read(*site)?;
        for (row, responses) in rows.iter_mut().zip(responses.rows()) {
            row.extend(chosen.iter().filter_map(|neuron| responses.get(*neuron)).copied());
        }
        places.extend(chosen.into_iter().map(|neuron| (*site, *width, neuron)));
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
    let score_part = |part: usize| -> Result<Vec<(usize, f32)>> {
        let of = |inside: bool| fold.iter().enumerate().filter(move |(_, f)| (**f == part) == inside).map(|(i, _)| i);
        let rest: Vec<(&[f32], bool)> = of(false).filter_map(|i| Some((rows.get(i)?.as_slice(), *labels.get(i)?))).collect();
        let fitted = logistic(&rest, options.c)?;
        Ok(of(true).filter_map(|sample| Some((sample, fitted.score(rows.get(sample)?)))).collect())
    };
    let mut unseen: Vec<(usize, f32)> = (0..folds).into_par_iter().map(score_part).collect::<Result<Vec<_>>>()?.concat();
    unseen.sort_unstable_by_key(|(sample, _)| *sample);
    let unseen = unseen.into_iter().map(|(_, score)| score).collect();
    let all: Vec<(&[f32], bool)> = rows.iter().map(Vec::as_slice).zip(labels.iter().copied()).collect();
    let fitted = logistic(&all, options.c)?;
    #[allow(clippy::cast_possible_truncation, reason = "probes are f32")]
    let mut probe = Probe::new(fitted.bias as f32, Gate::default());
    for places in places.iter().zip(&fitted.weights).collect::<Vec<_>>().chunk_by(|((a, ..), _), ((b, ..), _)| a == b) {
        let Some(((site, width, _), _)) = places.first() else { continue };
        let mut weights = vec![0.0; *width];
        for ((_, _, neuron), weight) in places {
            if let Some(to) = weights.get_mut(*neuron) {
                #[allow(clippy::cast_possible_truncation, reason = "probes are f32")]
                {
                    *to = **weight as f32;
                }
            }
        }
        probe.insert(*site, weights)?;
    }
    Ok(FittedProbe { probe, unseen })
}

/// A logistic model of two classes.
#[derive(Debug, Clone, PartialEq)]
pub struct Logistic {
    /// The weight of each feature.
    pub weights: Vec<f64>,
    /// The log-odds where all features are 0.
    pub bias: f64,
}

impl Logistic {
    /// The probability of the class `true`.
    pub fn score(&self, features: &[f32]) -> f32 {
        let log_odds = self.bias + features.iter().zip(&self.weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
        #[allow(clippy::cast_possible_truncation, reason = "scores are f32")]
        {
            (1.0 / (1.0 + (-log_odds).exp())) as f32
        }
    }
}

/// Minimises `|w|^2 / 2 + c sum log(1 + exp(-y (w x + b)))` over standardised features x, and gives weights for the features as they are.
///
/// The minimum is found by L-BFGS (Nocedal, Mathematics of Computation 35, 1980) to a gradient of 1e-8 of its first norm, or in 500 steps. A
/// feature that is the same everywhere has weight 0.
///
/// # Errors
///
/// [`Error::Fit`] when there are no samples, they have different numbers of features, or one is not finite.
pub fn logistic(samples: &[(&[f32], bool)], c: f64) -> Result<Logistic> {
    let refuse = |reason: String| Err(Error::Fit { reason });
    let Some((first, _)) = samples.first() else { return refuse("there are no samples".to_owned()) };
    let features = first.len();
    if let Some((row, _)) = samples.iter().find(|(row, _)| row.len() != features || row.iter().any(|x| !x.is_finite())) {
        return refuse(format!("a sample of {} features, expected {features} finite ones", row.len()));
    }
    if !(c.is_finite() && c > 0.0) {
        return refuse(format!("c is {c}, expected a number above 0"));
    }
    let average = |of: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; features];
        for (row, _) in samples {
            sums.iter_mut().zip(row.iter()).enumerate().for_each(|(i, (sum, x))| *sum += of(i, f64::from(*x)));
        }
        sums.iter_mut().for_each(|sum| *sum /= samples.len() as f64);
        sums
    };
    let mean = average(&|_, x| x);
    let variance = average(&|i, x| mean.get(i).map_or(0.0, |m| (x - m) * (x - m)));
    // What differs by less than f32 can tell is the same everywhere, but for the rounding of the mean.
    let inverse = |(v, m): (&f64, &f64)| if v.sqrt() > 1e-10 * m.abs() { v.sqrt().recip() } else { 0.0 };
    let inverse: Vec<f64> = variance.iter().zip(&mean).map(inverse).collect();
    let standard: Vec<(Vec<f64>, f64)> = samples
        .iter()
        .map(|(row, class)| {
            let x = row.iter().zip(&mean).zip(&inverse).map(|((x, m), s)| (f64::from(*x) - m) * s).collect();
            (x, if *class { 1.0 } else { -1.0 })
        })
        .collect();
    let best = minimise(features + 1, |w| objective(&standard, w, c));
    let Some((bias, scaled)) = best.split_last() else { return refuse("there is no bias".to_owned()) };
    let weights: Vec<f64> = scaled.iter().zip(&inverse).map(|(w, s)| w * s).collect();
    let bias = bias - dot(&weights, &mean);
    Ok(Logistic { weights, bias })
}

/// The value and the gradient at weights, of which the last is the bias.
fn objective(samples: &[(Vec<f64>, f64)], w: &[f64], c: f64) -> (f64, Vec<f64>) {
    let Some((bias, weights)) = w.split_last() else { return (0.0, Vec::new()) };
    let mut value = dot(weights, weights) / 2.0;
    let mut gradient: Vec<f64> = weights.iter().copied().chain([0.0]).collect();
    for (x, y) in samples {
        let margin = y * (dot(x, weights) + bias);
        // log(1 + exp(-m)), where exp does not overflow.
        value += c * ((-margin.abs()).exp().ln_1p() + (-margin).max(0.0));
        let slope = -c * y / (1.0 + margin.exp());
        gradient.iter_mut().zip(x.iter().chain([&1.0])).for_each(|(g, x)| *g += slope * x);
    }
    (value, gradient)
}

/// L-BFGS from 0 with ten corrections and a backtracking line search.
fn minimise(dimensions: usize, of: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Vec<f64> {
    const CORRECTIONS: usize = 10;
    let mut w = vec![0.0; dimensions];
    let (mut value, mut gradient) = of(&w);
    let enough = 1e-8 * dot(&gradient, &gradient).sqrt();
    let mut past: VecDeque<(Vec<f64>, Vec<f64>, f64)> = VecDeque::new();
    for _ in 0..500 {
        if dot(&gradient, &gradient).sqrt() <= enough {
            break;
        }
        let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut kept = Vec::with_capacity(past.len());
        for (step, change, inverse) in past.iter().rev() {
            let a = inverse * dot(step, &direction);
            add(&mut direction, change, -a);
            kept.push(a);
        }
        if let Some((step, change, _)) = past.back() {
            let scale = dot(step, change) / dot(change, change);
            direction.iter_mut().for_each(|d| *d *= scale);
        }
        for ((step, change, inverse), a) in past.iter().zip(kept.iter().rev()) {
            let b = inverse * dot(change, &direction);
            add(&mut direction, step, a - b);
        }
        let slope = dot(&direction, &gradient);
        let mut length = if past.is_empty() { (1.0 / dot(&gradient, &gradient).sqrt()).min(1.0) } else { 1.0 };
        let moved = loop {
            let mut candidate = w.clone();
            add(&mut candidate, &direction, length);
            let (new_value, new_gradient) = of(&candidate);
            if new_value <= value + 1e-4 * length * slope {
                break Some((candidate, new_value, new_gradient));
            }
            length /= 2.0;
            if length < 1e-12 {
                break None;
            }
        };
        // No step is an improvement any more: rounding decides.
        let Some((candidate, new_value, new_gradient)) = moved else { break };
        let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
        let (step, change) = (difference(&candidate, &w), difference(&new_gradient, &gradient));
        let curvature = dot(&step, &change);
        if curvature > 0.0 {
            past.push_back((step, change, 1.0 / curvature));
            if past.len() > CORRECTIONS {
                past.pop_front();
            }
        }
        (w, value, gradient) = (candidate, new_value, new_gradient);
    }
    w
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], from: &[f64], times: f64) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += times * from);
}
