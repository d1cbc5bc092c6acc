//! Exponentials of slices of f32, several at a time.
//!
//! The method is that of Cephes' `expf` (S. L. Moshier, 1989): `exp(x) = 2^n * exp(r)` with `n = round(x / ln 2)`, `|r| <=
//! ln 2 / 2` and a polynomial of degree 7 for `exp(r)`. Results lie within 2 units in the last place; below -87.3 they are 0,
//! above 88.3 infinite.

/// Replaces each value by `exp(value - maximum)`; returns the sum of the results.
pub(crate) fn exponentials(values: &mut [f32], maximum: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features.
        #[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
        return unsafe { avx2::exponentials(values, maximum) };
    }
    exponentials_with(values, maximum, |a, b, c| a * b + c)
}

/// Replaces each value `x` by `x * sigmoid(slope * x)`: SiLU with a slope of 1.
pub(crate) fn scaled_silu(values: &mut [f32], slope: f32) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has the features.
        #[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
        return unsafe { avx2::scaled_silu(values, slope) };
    }
    scaled_silu_with(values, slope, |a, b, c| a * b + c);
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn exponentials(values: &mut [f32], maximum: f32) -> f32 {
        super::exponentials_with(values, maximum, f32::mul_add)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn scaled_silu(values: &mut [f32], slope: f32) {
        super::scaled_silu_with(values, slope, f32::mul_add);
    }
}

/// Values that are processed together.
const LANES: usize = 16;

#[inline(always)]
fn exponentials_with(values: &mut [f32], maximum: f32, fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (whole, rest) = values.as_chunks_mut::<LANES>();
    for values in whole {
        for (value, sum) in values.iter_mut().zip(&mut sums) {
            *value = exp(*value - maximum, &fma);
            *sum += *value;
        }
    }
    let mut sum = sums.iter().sum();
    for value in rest {
        *value = exp(*value - maximum, &fma);
        sum += *value;
    }
    sum
}

#[inline(always)]
fn scaled_silu_with(values: &mut [f32], slope: f32, fma: impl Fn(f32, f32, f32) -> f32) {
    for value in values {
        *value /= 1.0 + exp(-slope * *value, &fma);
    }
}

/// `exp(x)`; `fma(a, b, c)` is `a * b + c`.
#[inline(always)]
fn exp(x: f32, fma: impl Fn(f32, f32, f32) -> f32) -> f32 {
    /// Adding and subtracting it rounds to an integer, which the low bits of the sum hold.
    const ROUND: f32 = 12_582_912.0;
    /// The range in which `2^n` is a normal f32.
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.3;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = fma(x.clamp(LOWEST, HIGHEST), std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma(n, -LN_2_LOW, fma(n, -LN_2_HIGH, x.clamp(LOWEST, HIGHEST)));
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        polynomial = fma(polynomial, r, coefficient);
    }
    let exp_r = fma(polynomial, r * r, r) + 1.0;
    let result = exp_r * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < LOWEST {
        0.0
    } else if x > HIGHEST {
        f32::INFINITY
    } else {
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_lie_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (-873_000..883_000).map(|i| i as f32 * 1e-4).collect();
        let mut results = x.clone();
        exponentials(&mut results, 0.0);
        for (x, result) in x.iter().zip(&results) {
            let exact = f64::from(*x).exp();
            // A unit in the last place is at most 2^-23 of the value.
            assert!((f64::from(*result) - exact).abs() <= exact * 2f64.powi(-22), "exp({x}) = {result}, not {exact}");
        }
    }

    #[test]
    fn limits_are_those_of_the_exponential() {
        let mut x = [f32::NEG_INFINITY, -1e30, -87.4, 0.0, 89.0, f32::INFINITY, f32::NAN];
        exponentials(&mut x, 0.0);
        assert_eq!(x[..6], [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]);
        assert!(x[6].is_nan());
    }

    #[test]
    fn sums_are_those_of_the_results() {
        let mut x: Vec<f32> = (0..37).map(|i| i as f32 * 0.1).collect();
        let sum = exponentials(&mut x, 3.0);
        assert!((sum - x.iter().sum::<f32>()).abs() < 1e-5 * sum);
    }
}
