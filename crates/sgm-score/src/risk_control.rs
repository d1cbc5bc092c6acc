//! Guarantees from a finite sample: thresholds by conformal prediction, and tests that a mean loss is below a limit.

use crate::{Error, Result, binomial_at_most};

/// The lowest threshold that a further score exceeds with a probability of at most `rate`, if it is exchangeable with these scores: their
/// `ceil((n + 1) (1 - rate))`-th smallest, the quantile of split conformal prediction (Vovk, Gammerman and Shafer, "Algorithmic Learning in
/// a Random World", 2005; Lei et al., JASA 113, 2018).
///
/// The scores must be of samples that nothing was fitted to.
///
/// # Errors
///
/// [`Error::Parameter`] if the rate is not between 0 and 1, there are too few scores for it (a rate of 0.02 takes 49), or a score is NaN.
///
/// ```
/// let scores: Vec<f32> = (1..=99).map(|score| score as f32).collect();
/// assert_eq!(sgm_score::conformal_threshold(&scores, 0.02)?, 98.0);
/// assert!(sgm_score::conformal_threshold(&scores[..48], 0.02).is_err());
/// # Ok::<(), sgm_score::Error>(())
/// ```
pub fn conformal_threshold(scores: &[f32], rate: f64) -> Result<f32> {
    let wrong = |parameter, value: String, expected: String| Err(Error::Parameter { parameter, value, expected });
    if !(rate > 0.0 && rate < 1.0) {
        return wrong("rate", rate.to_string(), "a number between 0 and 1".to_owned());
    }
    if let Some(at) = scores.iter().position(|score| score.is_nan()) {
        return wrong("scores", format!("NaN at {at}"), "numbers".to_owned());
    }
    let mut sorted = scores.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    // A little less, so that rounding does not ask for one score more than exact arithmetic does.
    let rank = ((scores.len() + 1) as f64 * (1.0 - rate) - 1e-9).ceil().max(1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to one more than the number of scores")]
    match sorted.get(rank as usize - 1) {
        Some(threshold) => Ok(*threshold),
        None => {
            let least = (1.0 / rate - 1e-9).ceil() - 1.0;
            wrong("scores", format!("{} scores", scores.len()), format!("at least {least} for a rate of {rate}"))
        }
    }
}

/// A p-value for the hypothesis that the expectation of a loss within 0..=1 is above `limit`, from its mean over independent samples:
/// `min(exp(-n h(min(mean, limit), limit)), e P(Binomial(n, limit) <= ceil(n mean)))`, where `h(a, b) = a ln(a / b) + (1 - a) ln((1 - a) / (1 - b))`
/// (Hoeffding, JASA 58, 1963; Bentkus, Annals of Probability 32, 2004; combined by Angelopoulos et al., "Learn then Test", 2021).
///
/// If it is at most `delta`, the expectation is at most `limit` with confidence `1 - delta`. Several hypotheses may be tested at `delta`
/// each if their order is fixed beforehand and testing stops at the first that is not rejected.
///
/// 1 if the mean is above the limit, there are no samples, or a number is out of range.
///
/// ```
/// let p = sgm_score::hoeffding_bentkus(0.05, 200, 0.1);
/// assert!(p < 0.05, "{p}");
/// ```
pub fn hoeffding_bentkus(mean: f64, samples: usize, limit: f64) -> f64 {
    if !((0.0..=1.0).contains(&mean) && limit > 0.0 && limit < 1.0) || samples == 0 || mean > limit {
        return 1.0;
    }
    let n = samples as f64;
    let part = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    let hoeffding = (-n * (part(mean, limit) + part(1.0 - mean, 1.0 - limit))).exp();
    // A little less, because n times the mean of integers may be just above an integer.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the number of samples")]
    let most = (n * mean - 1e-9).ceil().max(0.0) as usize;
    let bentkus = std::f64::consts::E * binomial_at_most(most, samples, limit);
    hoeffding.min(bentkus).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_exceeded_as_often_as_allowed() {
        // Of n + 1 exchangeable scores, each is the new one with the same probability: count how often it exceeds the threshold.
        for n in [9, 10, 49, 50, 99, 200] {
            for rate in [0.02, 0.1, 0.25, 0.5] {
                let all: Vec<f32> = (0..=n).map(|i| (i * 7919 % (n + 1)) as f32).collect();
                let exceeded = |new: usize| {
                    let rest: Vec<f32> = all.iter().enumerate().filter(|(i, _)| *i != new).map(|(_, score)| *score).collect();
                    conformal_threshold(&rest, rate).map(|threshold| all.get(new).is_some_and(|score| *score > threshold))
                };
                let exceeded: Result<Vec<bool>> = (0..=n).map(exceeded).collect();
                let Ok(exceeded) = exceeded else {
                    assert!((n as f64 + 1.0) * rate < 1.0, "{n} scores are enough for {rate}");
                    continue;
                };
                let share = exceeded.iter().filter(|exceeded| **exceeded).count() as f64 / (n + 1) as f64;
                assert!(share <= rate + 1e-12 && share > rate - 1.0 / (n + 1) as f64 - 1e-12, "{n}, {rate}: {share}");
            }
        }
    }

    #[test]
    fn what_gives_no_threshold_is_refused() {
        for rate in [0.0, 1.0, -0.1, f64::NAN] {
            assert!(matches!(conformal_threshold(&[1.0; 99], rate), Err(Error::Parameter { parameter: "rate", .. })));
        }
        assert!(conformal_threshold(&[1.0; 49], 0.02).is_ok());
        let few = conformal_threshold(&[1.0; 48], 0.02).unwrap_err().to_string();
        assert!(few.contains("48 scores") && few.contains("at least 49"), "{few}");
        assert!(conformal_threshold(&[], 0.5).is_err());
        assert!(conformal_threshold(&[f32::NAN; 99], 0.02).is_err());
        assert_eq!(conformal_threshold(&[f32::INFINITY; 99], 0.02).unwrap(), f32::INFINITY);
    }

    #[test]
    fn p_values_out_of_range_are_1() {
        for (mean, samples, limit) in
            [(0.2, 100, 0.1), (0.0, 0, 0.1), (f64::NAN, 10, 0.1), (-0.1, 10, 0.1), (0.1, 10, 1.0), (0.1, 10, f64::NAN)]
        {
            assert_eq!(hoeffding_bentkus(mean, samples, limit), 1.0);
        }
    }
}
