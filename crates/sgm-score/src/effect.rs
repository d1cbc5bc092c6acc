//! Effect sizes: differences of the classes' means.

use crate::Response;
use crate::probability::student_t_two_sided;

/// The difference of the mean responses of the two classes.
///
/// If a class has one sample or both are constant, the quotients are NaN or infinite, as the formulas give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// The toxic mean minus the non-toxic mean.
    pub mean_difference: f64,
    /// Cohen's d: the difference over the pooled standard deviation, with n1 + n0 - 2 degrees of freedom.
    pub cohens_d: f64,
    /// Welch's t: the difference over its standard error, without equal variances.
    pub welch_t: f64,
    /// The two-sided p-value of Welch's t, by Student's distribution with Welch and Satterthwaite's degrees of freedom.
    pub welch_p: f64,
}

impl Effect {
    /// The effect sizes of a neuron's responses, of which the first `toxic` are those of toxic samples.
    pub(crate) fn of<T: Response>(responses: &[T], toxic: usize) -> Self {
        let (ones, zeros) = responses.split_at(toxic.min(responses.len()));
        let (n1, n0) = (ones.len() as f64, zeros.len() as f64);
        let ((m1, s1), (m0, s0)) = (moments(ones), moments(zeros));
        let mean_difference = m1 - m0;
        let pooled = (s1 + s0) / (n1 + n0 - 2.0);
        let (v1, v0) = (s1 / (n1 - 1.0) / n1, s0 / (n0 - 1.0) / n0);
        let welch_t = mean_difference / (v1 + v0).sqrt();
        let freedom = (v1 + v0).powi(2) / (v1 * v1 / (n1 - 1.0) + v0 * v0 / (n0 - 1.0));
        let welch_p = student_t_two_sided(welch_t, freedom);
        Self { mean_difference, cohens_d: mean_difference / pooled.sqrt(), welch_t, welch_p }
    }
}

/// The mean, and the sum of squared deviations from it.
fn moments<T: Response>(values: &[T]) -> (f64, f64) {
    let mean = sum(values, |v| v) / values.len() as f64;
    (mean, sum(values, |v| (v - mean) * (v - mean)))
}

/// A sum in f64, in four lanes, always in the same order.
fn sum<T: Response>(values: &[T], of: impl Fn(f64) -> f64) -> f64 {
    let (chunks, rest) = values.as_chunks::<4>();
    let mut lanes = [0.0; 4];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += of(value.to_f64()));
    }
    let [a, b, c, d] = lanes;
    (a + b) + (c + d) + rest.iter().map(|v| of(v.to_f64())).sum::<f64>()
}
