//! Successive halving, a search with a fixed budget.

/// Successive halving: measures all candidates cheaply, keeps the better half, measures that half at a higher cost, and so on (Jamieson and
/// Talwalkar, arXiv 1502.07943, with a factor of 2).
///
/// `measure` gets a candidate and the rung, 0 first, and returns a loss; NaN is worse than any number. The result is the candidates of the
/// last rung, the best first; of equal ones the earlier comes first. A rung whose measurements cost twice as much costs as much as the rung
/// before, so `n` candidates on `r` rungs cost about `r * n` cheap measurements.
///
/// ```
/// use mm_toxic_qa::metrics::successive_halving;
///
/// let mut measured = Vec::new();
/// let best = successive_halving(vec![4, 1, 3, 2], 2, |candidate, rung| {
///     measured.push((*candidate, rung));
///     Ok::<_, ()>(f64::from(*candidate))
/// })?;
/// assert_eq!(best, [1, 2]);
/// assert_eq!(measured, [(4, 0), (1, 0), (3, 0), (2, 0), (1, 1), (2, 1)]);
/// # Ok::<(), ()>(())
/// ```
///
/// # Errors
///
/// The errors of `measure`.
pub fn successive_halving<C, E>(
    candidates: Vec<C>,
    rungs: usize,
    mut measure: impl FnMut(&C, usize) -> Result<f64, E>,
) -> Result<Vec<C>, E> {
    let mut kept = candidates;
    for rung in 0..rungs.max(1) {
        if rung > 0 {
            kept.truncate(kept.len().div_ceil(2));
        }
        let mut measured = kept.into_iter().map(|candidate| Ok((measure(&candidate, rung)?, candidate))).collect::<Result<Vec<_>, E>>()?;
        let rank = |loss: f64| if loss.is_nan() { f64::INFINITY } else { loss };
        measured.sort_by(|(a, _), (b, _)| rank(*a).total_cmp(&rank(*b)));
        kept = measured.into_iter().map(|(_, candidate)| candidate).collect();
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_be_measured_comes_last_and_errors_end_it() {
        let losses = [f64::NAN, 2.0, f64::INFINITY, 2.0, -1.0];
        let of = |index: &usize, _| Ok::<_, ()>(losses.get(*index).copied().unwrap_or_default());
        assert_eq!(successive_halving((0..5).collect(), 1, of), Ok(vec![4, 1, 3, 0, 2]));
        assert_eq!(successive_halving((0..5).collect(), 0, of), Ok(vec![4, 1, 3, 0, 2]));
        assert_eq!(successive_halving((0..5).collect(), 9, of), Ok(vec![4]));
        assert_eq!(successive_halving(Vec::new(), 2, of), Ok(vec![]));
        assert_eq!(successive_halving(vec![0, 1], 2, |_, rung| if rung == 0 { Ok(0.0) } else { Err("gone") }), Err("gone"));
    }

    proptest! {
        /// The best candidate is found where cheap measurements are right.
        #[test]
        fn the_best_one_survives(losses in prop::collection::vec(0u16..1000, 1..60), rungs in 1usize..8) {
            let mut cost = 0;
            let kept = successive_halving((0..losses.len()).collect(), rungs, |index, rung| {
                cost += 1 << rung;
                Ok::<_, ()>(f64::from(losses[*index]))
            }).unwrap();
            prop_assert_eq!(losses[kept[0]], *losses.iter().min().unwrap());
            // Rounding up keeps at most one candidate too many on each rung.
            prop_assert!(cost <= rungs * losses.len() + (1 << rungs));
        }
    }
}
