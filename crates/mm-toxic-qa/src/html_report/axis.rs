//! Linear axes with round ticks.

/// A linear axis from round number to round number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    domain: [f64; 2],
    range: [f64; 2],
    step: f64,
}

impl Axis {
    /// An axis with about `intervals` intervals between ticks that holds all the finite values, at the places `range`.
    pub(super) fn over(values: impl IntoIterator<Item = f64>, range: [f64; 2], intervals: u8) -> Self {
        // Measurements are smaller; the bound keeps spans finite.
        let finite = values.into_iter().filter(|value| value.abs() < 1e100);
        let (mut low, mut high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= 1e-9 * low.abs().max(high.abs()).max(1e-9) {
            let margin = 0.1 * high.abs().max(1e-3);
            (low, high) = (low - margin, high + margin);
        }
        let step = round_step((high - low) / f64::from(intervals.max(1)));
        // A value that lies on a tick, apart from rounding, needs no further tick.
        Self { domain: [(low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step], range, step }
    }

    /// The place of a value.
    pub(super) fn at(&self, value: f64) -> f64 {
        let ([low, high], [from, to]) = (self.domain, self.range);
        from + (value - low) / (high - low) * (to - from)
    }

    /// The places of the ticks, with their labels.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let [low, high] = self.domain;
        let decimals = decimals(self.step);
        let label = |value: f64| match value.abs() {
            small if small < 1e-6 * self.step => "0".to_owned(),
            large if large >= 1e6 => format!("{value:e}"),
            _ => format!("{value:.decimals$}"),
        };
        let values = (0..=u8::MAX).map(|n| low + f64::from(n) * self.step).take_while(|value| *value <= high + 1e-6 * self.step);
        values.map(|value| (self.at(value), label(value))).collect()
    }
}

/// The smallest number of the form 1, 2 or 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|step| *step >= least * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

/// The number of decimals that distinguish multiples of a step.
fn decimals(step: f64) -> usize {
    let mut scaled = step;
    (0..12)
        .find(|_| {
            let whole = (scaled - scaled.round()).abs() < 1e-6 * scaled;
            scaled *= 10.0;
            whole
        })
        .unwrap_or(12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(values: &[f64], intervals: u8) -> Vec<String> {
        Axis::over(values.iter().copied(), [0.0, 100.0], intervals).ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_by_hand() {
        assert_eq!(labels(&[0.0, 100.0], 4), ["0", "50", "100"]);
        assert_eq!(labels(&[0.0, 100.0], 5), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(labels(&[-8.7, 0.3], 5), ["-10", "-8", "-6", "-4", "-2", "0", "2"]);
        assert_eq!(labels(&[0.02, 0.07], 3), ["0.02", "0.04", "0.06", "0.08"]);
        assert_eq!(labels(&[0.0, 0.3], 3), ["0.0", "0.1", "0.2", "0.3"].map(|l| if l == "0.0" { "0" } else { l }));
        assert_eq!(labels(&[], 2), ["0", "0.5", "1.0"]);
        assert_eq!(labels(&[f64::NAN, f64::INFINITY], 2), ["0", "0.5", "1.0"]);
        assert_eq!(labels(&[5.0, 5.0], 2), ["4.5", "5.0", "5.5"]);
        assert_eq!(labels(&[0.0, 4e6], 2), ["0", "2e6", "4e6"]);
        let axis = Axis::over([0.0, 10.0], [20.0, 120.0], 2);
        assert_eq!((axis.at(0.0), axis.at(5.0), axis.at(10.0)), (20.0, 70.0, 120.0));
    }

    proptest! {
        #[test]
        fn an_axis_holds_its_values_between_a_few_round_ticks(
            values in prop::collection::vec(-1e6f64..1e6, 1..20), scale in -9i32..9, n in 1u8..10
        ) {
            let values: Vec<f64> = values.iter().map(|v| v * 10f64.powi(scale)).collect();
            let axis = Axis::over(values.iter().copied(), [0.0, 100.0], n);
            let ticks = axis.ticks();
            prop_assert!((2..=usize::from(n) + 3).contains(&ticks.len()), "{:?}", ticks);
            prop_assert!(ticks.windows(2).all(|pair| pair[0].0 < pair[1].0));
            prop_assert!((ticks[0].0).abs() < 1e-3 && (ticks[ticks.len() - 1].0 - 100.0).abs() < 1e-3, "{:?}", ticks);
            for value in values {
                prop_assert!((-1e-3..=100.0 + 1e-3).contains(&axis.at(value)), "{} {:?}", value, axis);
            }
        }
    }
}
