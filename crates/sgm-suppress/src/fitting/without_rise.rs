//! Changes of parameters that raise none of some quantities.

/// Steps of the bisection for one multiplier.
const BISECTIONS: usize = 60;
/// The largest number of rounds over all multipliers.
const ROUNDS: usize = 1000;

/// The change `d` nearest to `slopes / costs` that raises none of some quantities, to first order: the solution of
///
/// ```text
/// minimise sum of costs (d - slopes / costs)^2   where   sum of d * quantity <= 0 for each quantity,   and d >= 0 if `positive`
/// ```
///
/// A quantity is given by its derivative by each parameter. Parameters without a cost stay as they are. The dual problem has one multiplier
/// for each quantity, found in turn by bisection (Hildreth, "A quadratic programming procedure", 1957).
pub(super) fn without_rise(slopes: &[f64], costs: &[f64], quantities: &[Vec<f64>], positive: bool) -> Vec<f64> {
    let change = |left: f64, cost: f64| if cost > 0.0 { (if positive { left.max(0.0) } else { left }) / cost } else { 0.0 };
    // What is left of the slopes without the quantities.
    let mut left = slopes.to_vec();
    let mut multipliers = vec![0.0; quantities.len()];
    for _ in 0..ROUNDS {
        let mut moved = false;
        for (quantity, multiplier) in quantities.iter().zip(&mut multipliers) {
            let rise = |by: f64| -> f64 {
                left.iter().zip(quantity).zip(costs).map(|((left, quantity), cost)| quantity * change(left - by * quantity, *cost)).sum()
            };
            let square: f64 =
                quantity.iter().zip(costs).filter(|(_, cost)| **cost > 0.0).map(|(quantity, cost)| quantity * quantity / cost).sum();
            let scale: f64 =
                left.iter().zip(quantity).zip(costs).map(|((left, quantity), cost)| (quantity * change(*left, *cost)).abs()).sum();
            let now = rise(0.0);
            // At the boundary, or inside with nothing to give back.
            if now.abs() <= 1e-12 * scale || (now < 0.0 && *multiplier == 0.0) || square <= 0.0 {
                continue;
            }
            // The multiplier's change, between one that raises the quantity and one that does not.
            let (mut below, mut above) = if now > 0.0 {
                let mut above = now / square;
                while rise(above) > 0.0 && above.is_finite() {
                    above *= 2.0;
                }
                (0.0, above)
            } else {
                (-*multiplier, 0.0)
            };
            if rise(below) <= 0.0 {
                above = below;
            }
            for _ in 0..BISECTIONS {
                let middle = f64::midpoint(below, above);
                if rise(middle) > 0.0 { below = middle } else { above = middle }
            }
            moved |= above != 0.0;
            *multiplier += above;
            left.iter_mut().zip(quantity).for_each(|(left, quantity)| *left -= above * quantity);
        }
        if !moved {
            break;
        }
    }
    left.into_iter().zip(costs).map(|(left, cost)| change(left, *cost)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn what_raises_nothing_stays() {
        let [slopes, costs] = [[2.0, -1.0, 3.0], [1.0, 2.0, 4.0]];
        assert_eq!(without_rise(&slopes, &costs, &[], false), [2.0, -0.5, 0.75]);
        assert_eq!(without_rise(&slopes, &costs, &[vec![-1.0, 0.0, 0.0]], false), [2.0, -0.5, 0.75]);
        assert_eq!(without_rise(&slopes, &costs, &[vec![0.0; 3]], true), [2.0, 0.0, 0.75]);
        assert_eq!(without_rise(&slopes, &[1.0, 0.0, 4.0], &[vec![-1.0, 0.0, 0.0]], false), [2.0, 0.0, 0.75]);
    }

    #[test]
    fn one_quantity_is_projected_out_in_the_metric_of_the_costs() {
        let [slopes, costs] = [[2.0, -1.0, 3.0], [1.0, 2.0, 4.0]];
        let quantity = vec![1.0, 1.0, -0.5];
        let share = (2.0 - 0.5 - 0.375) / (1.0 + 0.5 + 0.0625);
        let expected = [2.0 - share, (-1.0 - share) / 2.0, (3.0 + 0.5 * share) / 4.0];
        let found = without_rise(&slopes, &costs, std::slice::from_ref(&quantity), false);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
        }
        assert!(dot(&found, &quantity).abs() < 1e-12);
    }

    /// With a change that is clipped, too.
    #[test]
    fn several_quantities_are_kept_at_once() {
        let numbers = |seed: u32| (0..200_u32).map(move |i| f64::from((i * 7919 + seed * 104_729) % 1009) / 1009.0);
        let slopes: Vec<f64> = numbers(1).collect();
        let costs: Vec<f64> = numbers(2).map(|cost| 0.1 + cost).collect();
        let quantities: Vec<Vec<f64>> = [3, 4, 5].map(|seed| numbers(seed).map(|value| value - 0.4).collect()).into();
        for positive in [false, true] {
            let wanted = without_rise(&slopes, &costs, &[], positive);
            assert!(quantities.iter().all(|quantity| dot(&wanted, quantity) > 0.1), "all would rise");
            let found = without_rise(&slopes, &costs, &quantities, positive);
            for quantity in &quantities {
                assert!(dot(&found, quantity).abs() < 1e-8, "{}", dot(&found, quantity));
            }
            assert!(!positive || found.iter().all(|change| *change >= 0.0) && found.contains(&0.0));
            // No other change that keeps the quantities is nearer.
            let distance = |change: &[f64]| -> f64 {
                change.iter().zip(&slopes).zip(&costs).map(|((change, slope), cost)| cost * (change - slope / cost).powi(2)).sum()
            };
            for seed in 6..40 {
                let other: Vec<f64> = found.iter().zip(numbers(seed)).map(|(found, by)| found + 0.05 * (by - 0.5)).collect();
                let other: Vec<f64> = other.iter().zip(&costs).map(|(other, cost)| other * cost).collect();
                let other = without_rise(&other, &costs, &quantities, positive);
                assert!(distance(&other) >= distance(&found) - 1e-9);
            }
        }
    }
}
