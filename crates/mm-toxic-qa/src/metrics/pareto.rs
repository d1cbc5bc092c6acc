//! The Pareto front.

/// The Pareto front: the indices of the points that no other point dominates. Lower is better in every coordinate.
///
/// A point dominates another if it is nowhere worse and somewhere better, so equal points are on the front together. A point with an
/// unmeasured coordinate (`None` or NaN) is not on the front and dominates nothing.
///
/// ```
/// use mm_toxic_qa::metrics::pareto_front;
///
/// let harm_and_cost = [[Some(0.5), Some(0.0)], [Some(0.2), Some(0.1)], [Some(0.3), Some(0.2)], [Some(0.1), None]];
/// assert_eq!(pareto_front(&harm_and_cost), [0, 1]);
/// ```
pub fn pareto_front<const N: usize>(points: &[[Option<f64>; N]]) -> Vec<usize> {
    let measured: Vec<(usize, [f64; N])> = points
        .iter()
        .map(|point| point.map(|coordinate| coordinate.unwrap_or(f64::NAN)))
        .enumerate()
        .filter(|(_, point)| !point.iter().any(|coordinate| coordinate.is_nan()))
        .collect();
    let dominates = |a: &[f64; N], b: &[f64; N]| a.iter().zip(b).all(|(a, b)| a <= b) && a != b;
    measured.iter().filter(|(_, point)| !measured.iter().any(|(_, other)| dominates(other, point))).map(|(index, _)| *index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_and_what_was_not_measured() {
        let point = |x, y| [Some(x), Some(y)];
        assert_eq!(pareto_front::<2>(&[]), [0; 0]);
        assert_eq!(pareto_front(&[point(1.0, 1.0), point(1.0, 1.0)]), [0, 1], "equal points");
        assert_eq!(pareto_front(&[point(1.0, 1.0), point(1.0, 2.0), point(0.0, 3.0)]), [0, 2], "a tie in one coordinate");
        assert_eq!(pareto_front(&[point(f64::NAN, 0.0), [None, Some(0.0)], point(5.0, 5.0)]), [2]);
        assert_eq!(pareto_front(&[point(f64::NEG_INFINITY, 1.0), point(0.0, 1.0)]), [0]);
        assert_eq!(pareto_front(&[[Some(1.0), Some(0.0), Some(0.0)], [Some(0.0), Some(1.0), Some(0.0)]]), [0, 1]);
    }

    proptest! {
        /// On a coarse grid, so that there are ties.
        #[test]
        fn every_point_off_the_front_is_dominated_by_one_on_it(
            points in prop::collection::vec([prop::option::weighted(0.9, 0u8..5), prop::option::weighted(0.9, 0u8..5)], 0..40)
        ) {
            let points: Vec<[Option<f64>; 2]> = points.iter().map(|p| p.map(|c| c.map(f64::from))).collect();
            let front = pareto_front(&points);
            let dominates = |a: [Option<f64>; 2], b: [Option<f64>; 2]| a[0] <= b[0] && a[1] <= b[1] && (a[0] < b[0] || a[1] < b[1]);
            for (index, point) in points.iter().enumerate() {
                let measured = point.iter().all(Option::is_some);
                let dominated = front.iter().any(|f| dominates(points[*f], *point));
                prop_assert_eq!(front.contains(&index), measured && !dominated, "{:?}", point);
            }
        }
    }
}
