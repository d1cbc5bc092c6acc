//! Cohen's kappa.

use std::collections::BTreeMap;

/// Cohen's kappa of two raters: their agreement beyond chance, given how often each uses each label.
///
/// `(observed - expected) / (1 - expected)`: 1 for perfect agreement, 0 for chance, negative below chance. `None` without ratings, for
/// different numbers of ratings, and when both raters give one label throughout. Source: J. Cohen, *A Coefficient of Agreement for Nominal
/// Scales* (1960).
///
/// ```
/// let kappa = mm_toxic_qa::metrics::cohen_kappa(&[true, true, false, false], &[true, false, false, false]);
/// assert_eq!(kappa, Some(0.5));
/// ```
pub fn cohen_kappa<T: Ord>(first: &[T], second: &[T]) -> Option<f64> {
    if first.is_empty() || first.len() != second.len() {
        return None;
    }
    let n = first.len() as f64;
    let mut counts: BTreeMap<&T, [usize; 2]> = BTreeMap::new();
    for (a, b) in first.iter().zip(second) {
        counts.entry(a).or_default()[0] += 1;
        counts.entry(b).or_default()[1] += 1;
    }
    let observed = first.iter().zip(second).filter(|(a, b)| a == b).count() as f64 / n;
    let expected = counts.values().map(|[a, b]| (*a as f64 / n) * (*b as f64 / n)).sum::<f64>();
    (expected < 1.0).then(|| (observed - expected) / (1.0 - expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degenerate_ratings_have_no_kappa() {
        assert_eq!(cohen_kappa::<bool>(&[], &[]), None);
        assert_eq!(cohen_kappa(&[true], &[true, false]), None);
        assert_eq!(cohen_kappa(&[true, true], &[true, true]), None);
        assert_eq!(cohen_kappa(&[true, true], &[false, false]), Some(0.0));
        assert_eq!(cohen_kappa(&["a", "b", "c"], &["a", "b", "c"]), Some(1.0));
    }
}
