//! The bootstrap interval of a mean.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The number of resamples of a bootstrap.
pub const RESAMPLES: usize = 2_000;

/// The seed of every reported interval, so that reports can be compared byte by byte.
pub(crate) const REPORT_SEED: u64 = 0;

/// The 95 % percentile bootstrap interval of the mean, `[low, high]`.
///
/// Draws [`RESAMPLES`] samples of the same size with replacement and returns the 2.5 % and 97.5 % quantiles
/// of their means (linear interpolation), from ChaCha8 seeded with `seed`: the same values in the same
/// order give the same interval on every machine. `None` when there is no value or one is not finite.
///
/// Values must be independent of one another; average several values of one prompt first. The percentile bootstrap does not see events that
/// did not occur: for equal values it returns an interval of no width. With no event in n trials the true rate may still be up to about
/// 3/n.
///
/// Source: B. Efron, R. J. Tibshirani, *An Introduction to the Bootstrap* (1993), section 13.3.
///
/// ```
/// let [low, high] = mm_toxic_qa::metrics::bootstrap_ci95(&[0.0, 1.0, 0.0, 1.0], 0).unwrap();
/// assert!(low < 0.5 && 0.5 < high);
/// ```
pub fn bootstrap_ci95(values: &[f64], seed: u64) -> Option<[f64; 2]> {
    if values.is_empty() || !values.iter().all(|v| v.is_finite()) {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = values.len() as f64;
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| values.iter().map(|_| values.get(rng.random_range(0..values.len())).copied().unwrap_or(0.0)).sum::<f64>() / n)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    Some([quantile(&means, 25)?, quantile(&means, 975)?])
}

/// The quantile at `permille` thousandths of sorted values, between two of them by linear interpolation.
fn quantile(sorted: &[f64], permille: usize) -> Option<f64> {
    let place = sorted.len().checked_sub(1)? * permille;
    let low = *sorted.get(place / 1000)?;
    let high = sorted.get(place / 1000 + 1).copied().unwrap_or(low);
    Some(low + (high - low) * (place % 1000) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_linearly() {
        let sorted: Vec<f64> = (0..=4).map(f64::from).collect();
        assert_eq!(quantile(&sorted, 0), Some(0.0));
        assert_eq!(quantile(&sorted, 500), Some(2.0));
        assert_eq!(quantile(&sorted, 25), Some(0.1));
        assert_eq!(quantile(&sorted, 975), Some(3.9));
        assert_eq!(quantile(&sorted, 1000), Some(4.0));
        assert_eq!(quantile(&[7.0], 25), Some(7.0));
        assert_eq!(quantile(&[], 25), None);
    }

    #[test]
    fn degenerate_inputs() {
        assert_eq!(bootstrap_ci95(&[], 0), None);
        assert_eq!(bootstrap_ci95(&[0.0, f64::NAN], 0), None);
        assert_eq!(bootstrap_ci95(&[0.0, f64::INFINITY], 0), None);
        assert_eq!(bootstrap_ci95(&[0.25], 0), Some([0.25, 0.25]));
        assert_eq!(bootstrap_ci95(&[0.0; 50], 0), Some([0.0, 0.0]));
    }

    #[test]
    fn is_a_function_of_values_and_seed() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i).sqrt()).collect();
        assert_eq!(bootstrap_ci95(&values, 5), bootstrap_ci95(&values, 5));
        assert_ne!(bootstrap_ci95(&values, 5), bootstrap_ci95(&values, 6));
    }

    #[test]
    fn has_the_width_that_theory_gives() {
        // 1.96 standard errors on each side of a mean of 0.3 over 1,000 values: 0.0284.
        let values: Vec<f64> = (0..1000).map(|i| f64::from(u8::from(i % 10 < 3))).collect();
        let [low, high] = bootstrap_ci95(&values, 1).unwrap();
        assert!((0.3 - low - 0.0284).abs() < 0.002, "{low}");
        assert!((high - 0.3 - 0.0284).abs() < 0.002, "{high}");
    }
}
