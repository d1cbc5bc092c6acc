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

/// The 95 % interval of [`cohen_kappa`], `[low, high]` within -1 and 1, from its large-sample standard error.
///
/// Like every interval of this kind it has no width at perfect agreement, and is too narrow for few ratings. `None` as for the kappa.
///
/// Source: J. L. Fleiss, J. Cohen, B. S. Everitt, *Large Sample Standard Errors of Kappa and Weighted Kappa* (1969), equation 13.
///
/// ```
/// let [low, high] = mm_toxic_qa::metrics::cohen_kappa_ci95(&[true, true, false, false], &[true, false, false, false]).unwrap();
/// assert!(low < 0.5 && 0.5 < high);
/// ```
pub fn cohen_kappa_ci95<T: Ord>(first: &[T], second: &[T]) -> Option<[f64; 2]> {
    let kappa = cohen_kappa(first, second)?;
    let n = first.len() as f64;
    let mut cells: BTreeMap<(&T, &T), f64> = BTreeMap::new();
    let (mut of_first, mut of_second): (BTreeMap<&T, f64>, BTreeMap<&T, f64>) = Default::default();
    for (a, b) in first.iter().zip(second) {
        *cells.entry((a, b)).or_default() += 1.0 / n;
        *of_first.entry(a).or_default() += 1.0 / n;
        *of_second.entry(b).or_default() += 1.0 / n;
    }
    let share = |of: &BTreeMap<&T, f64>, label: &T| of.get(label).copied().unwrap_or(0.0);
    let expected: f64 = of_first.iter().map(|(label, p)| p * share(&of_second, label)).sum();
    let terms = cells.iter().map(|((a, b), p)| {
        let margins = if a == b { share(&of_first, a) + share(&of_second, a) } else { share(&of_second, a) + share(&of_first, b) };
        let weight = if a == b { 1.0 - margins * (1.0 - kappa) } else { margins * (1.0 - kappa) };
        p * weight * weight
    });
    let variance = terms.sum::<f64>() - (kappa - expected * (1.0 - kappa)).powi(2);
    let half = 1.959_963_984_540_054 * (variance.max(0.0) / n).sqrt() / (1.0 - expected);
    Some([(kappa - half).max(-1.0), (kappa + half).min(1.0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [([[usize; 3]; 3], [f64; 2]); 3] = [
        ([[40, 7, 0], [5, 48, 0], [0, 0, 0]], [0.630528406101144, 0.8865742095930209]),
        ([[3, 20, 0], [9, 118, 0], [0, 0, 0]], [-0.10414865327290404, 0.2522968014210518]),
        ([[44, 5, 1], [7, 20, 3], [9, 5, 6]], [0.35015820121748686, 0.6328926462401401]),
    ];

    #[test]
    fn intervals_are_those_of_statsmodels() {
        // statsmodels.stats.inter_rater.cohens_kappa(table, return_results=True): kappa_low, kappa_upp.
        for (table, [low, high]) in GOLDEN {
            let mut labels: (Vec<usize>, Vec<usize>) = Default::default();
            for (a, row) in table.iter().enumerate() {
                for (b, count) in row.iter().enumerate() {
                    labels.0.extend(std::iter::repeat_n(a, *count));
                    labels.1.extend(std::iter::repeat_n(b, *count));
                }
            }
            let found = cohen_kappa_ci95(&labels.0, &labels.1).unwrap();
            assert!((found[0] - low).abs() < 1e-12 && (found[1] - high).abs() < 1e-12, "{found:?}");
        }
        assert_eq!(cohen_kappa_ci95(&[1, 2], &[1, 2]), Some([1.0, 1.0]));
        assert_eq!(cohen_kappa_ci95::<bool>(&[], &[]), None);
    }

    #[test]
    fn degenerate_ratings_have_no_kappa() {
        assert_eq!(cohen_kappa::<bool>(&[], &[]), None);
        assert_eq!(cohen_kappa(&[true], &[true, false]), None);
        assert_eq!(cohen_kappa(&[true, true], &[true, true]), None);
        assert_eq!(cohen_kappa(&[true, true], &[false, false]), Some(0.0));
        assert_eq!(cohen_kappa(&["a", "b", "c"], &["a", "b", "c"]), Some(1.0));
    }
}
