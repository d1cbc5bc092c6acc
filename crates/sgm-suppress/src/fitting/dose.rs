//! The largest strength of an intervention that keeps within limits.

use std::fmt;

use crate::{Error, Result};

/// A quantity that grows with the strength of an intervention, and its limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Spent {
    /// What is measured, for reports and errors.
    pub what: String,
    /// The value at a strength; below 0 it counts as 0.
    pub value: f64,
    /// The largest value that is allowed; above 0.
    pub limit: f64,
}

impl Spent {
    /// The share of the limit that is spent; infinite for a value that is no number.
    pub fn share(&self) -> f64 {
        if self.value.is_nan() { f64::INFINITY } else { self.value.max(0.0) / self.limit }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:.4} of at most {}", self.what, self.value, self.limit)
    }
}

/// What an intervention spends at one strength.
#[derive(Debug, Clone, PartialEq)]
pub struct DosePoint {
    /// The strength.
    pub strength: f32,
    /// All quantities that were measured.
    pub spent: Vec<Spent>,
}

impl DosePoint {
    /// The quantity that is nearest to its limit, or furthest beyond.
    pub fn binding(&self) -> Option<&Spent> {
        self.spent.iter().max_by(|a, b| a.share().total_cmp(&b.share()))
    }

    fn share(&self) -> f64 {
        self.binding().map_or(0.0, Spent::share)
    }
}

/// A strength within all limits, with everything that was measured on the way to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dose {
    /// The largest strength found within the limits.
    pub strength: f32,
    /// The measurements in the order of their strengths.
    pub points: Vec<DosePoint>,
}

/// The search for a dose: few measurements, because each runs a model over many texts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DoseSearch {
    /// The largest strength.
    pub most: f32,
    /// The number of measurements, at least 2.
    pub evaluations: usize,
    /// The share of the limits at which a dose is good enough; below 1.
    pub enough: f64,
}

impl Default for DoseSearch {
    /// Strengths up to 1, six measurements, nine tenths of the limits.
    fn default() -> Self {
        Self { most: 1.0, evaluations: 6, enough: 0.9 }
    }
}

impl DoseSearch {
    /// Finds the largest strength at which `measure` gives no value above its limit.
    ///
    /// It begins at a quarter of the largest strength and continues by the quadratic law: the divergence that a small change of activations
    /// causes grows with the square of its strength. From the second measurement on, the next strength is where the power law through the
    /// two nearest to the limits meets them. As long as no limit is exceeded, each strength is at least 1.5 times the one before. It ends
    /// when the dose spends [`enough`](Self::enough) or the measurements are used up.
    ///
    /// # Errors
    ///
    /// [`Error::NoDose`] when no measured strength is within the limits, with what binds at the smallest; the errors of `measure`.
    pub fn run(&self, mut measure: impl FnMut(f32) -> Result<Vec<Spent>>) -> Result<Dose> {
        let mut points: Vec<DosePoint> = Vec::new();
        let mut next = self.most / 4.0;
        for _ in 0..self.evaluations.max(2) {
            let point = DosePoint { strength: next, spent: measure(next)? };
            let binding = point.binding().map(ToString::to_string).unwrap_or_default();
            tracing::info!(strength = next, share = point.share(), binding, "measured a strength");
            points.push(point);
            points.sort_by(|a, b| a.strength.total_cmp(&b.strength));
            let within = first_beyond(&points);
            let (low, high) = points.split_at(within);
            let target = f64::midpoint(self.enough, 1.0);
            next = match (low, high) {
                ([.., low], _) if low.share() >= self.enough || low.strength >= self.most => break,
                ([.., low], [high, ..]) => between(low, high, target),
                ([.., other, low], []) => further(low, exponent(other, low), target).min(self.most),
                ([low], []) => further(low, 2.0, target).min(self.most),
                ([], [high, other, ..]) => beyond(high, exponent(high, other), target),
                ([], [high]) => beyond(high, 2.0, target),
                ([], []) => break,
            };
        }
        let within = first_beyond(&points);
        let dose = points.get(..within).and_then(<[DosePoint]>::last).map(|point| point.strength);
        match (dose, points.first().and_then(|point| Some((point, point.binding()?)))) {
            (Some(strength), _) => Ok(Dose { strength, points }),
            (None, Some((point, binding))) => Err(Error::NoDose { strength: point.strength, reason: binding.to_string() }),
            (None, None) => Err(Error::NoDose { strength: next, reason: "nothing was measured".to_owned() }),
        }
    }
}

/// The number of points, in the order of their strengths, before the first that is beyond a limit.
fn first_beyond(points: &[DosePoint]) -> usize {
    points.iter().position(|point| point.share() > 1.0).unwrap_or(points.len())
}

/// The exponent of the power law through two measurements; from 1/2 to 8.
fn exponent(low: &DosePoint, high: &DosePoint) -> f64 {
    let exponent = (high.share() / low.share()).ln() / f64::from(high.strength / low.strength).ln();
    if exponent.is_nan() { 2.0 } else { exponent.clamp(0.5, 8.0) }
}

/// The strength at which a power law through one measurement spends `target`; at most 4 times as large and at least a quarter, because far
/// away the law need not hold.
#[allow(clippy::cast_possible_truncation, reason = "strengths are f32")]
fn beyond(point: &DosePoint, exponent: f64, target: f64) -> f32 {
    point.strength * (target / point.share()).powf(1.0 / exponent).clamp(0.25, 4.0) as f32
}

/// The strength at which a power law through one measurement within the limits spends `target`, at least 1.5 times as large: quantities
/// that are measured on few answers fluctuate, and seem to be near their limits where hardly anything is spent.
fn further(low: &DosePoint, exponent: f64, target: f64) -> f32 {
    beyond(low, exponent, target).max(1.5 * low.strength)
}

/// The strength at which the power law through two measurements spends `target`; within the middle nine tenths between them.
#[allow(clippy::cast_possible_truncation, reason = "strengths are f32")]
fn between(low: &DosePoint, high: &DosePoint, target: f64) -> f32 {
    let margin = 0.05 * (high.strength - low.strength);
    beyond(low, exponent(low, high), target).clamp(low.strength + margin, high.strength - margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(value: f64) -> Vec<Spent> {
        vec![Spent { what: "divergence".to_owned(), value, limit: 0.02 }]
    }

    /// The dose of a law, and the number of measurements.
    fn dose(law: impl Fn(f64) -> f64) -> (f64, usize) {
        let mut count = 0;
        let found = DoseSearch::default().run(|strength| {
            count += 1;
            Ok(spent(law(strength.into())))
        });
        (found.unwrap().strength.into(), count)
    }

    #[test]
    fn a_quadratic_law_takes_two_measurements_or_three_if_the_first_is_near_the_limit() {
        for (factor, most) in [(0.03, 2), (0.19, 3), (0.365, 2), (4.0, 2)] {
            let (found, count) = dose(|s| factor * s * s);
            let exact = (0.02f64 / factor).sqrt().min(1.0);
            assert!(found <= exact && found >= 0.9 * exact, "{factor}: {found} {exact}");
            assert!(count <= most, "{factor}: {count}");
        }
    }

    #[test]
    fn other_laws_are_met_within_six_measurements() {
        type Law = fn(f64) -> f64;
        let laws: [(&str, Law); 4] = [
            ("saturating", |s| 0.1 * s * s / (1.0 + 3.0 * s)),
            ("steep", |s| 0.2 * s.powi(6)),
            ("linear", |s| 0.5 * s),
            ("breaking", |s| if s < 0.4 { 0.05 * s * s } else { 5.0 * s }),
        ];
        for (name, law) in laws {
            let (found, count) = dose(law);
            assert!(law(found) <= 0.02 && law(found * 1.25) > 0.02, "{name}: {found} spends {}", law(found));
            assert!(count <= 6, "{name}: {count}");
        }
    }

    #[test]
    fn the_whole_strength_is_given_if_it_is_allowed_or_free() {
        assert_eq!(dose(|_| 0.0).0, 1.0);
        assert_eq!(dose(|s| 0.001 * s * s).0, 1.0);
    }

    #[test]
    fn without_a_dose_the_error_says_what_binds() {
        let error = DoseSearch::default().run(|_| Ok([spent(0.01), spent(f64::NAN)].concat())).unwrap_err();
        assert!(matches!(&error, Error::NoDose { reason, .. } if reason.contains("divergence")), "{error}");
        assert!(DoseSearch::default().run(|_| Err(Error::Fit { reason: "no".to_owned() })).is_err());
    }
}
