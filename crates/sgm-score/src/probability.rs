//! Distribution functions.

/// The probability that a standard normal variable exceeds `z`.
pub fn normal_upper(z: f64) -> f64 {
    0.5 * libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2)
}

/// The probability of at most `most` successes in `trials` independent trials, each with probability `p`.
///
/// ```
/// let all_heads_or_all_tails = 2.0 * sgm_score::binomial_at_most(0, 5, 0.5);
/// assert!((all_heads_or_all_tails - 2.0 / 32.0).abs() < 1e-12);
/// ```
pub fn binomial_at_most(most: usize, trials: usize, p: f64) -> f64 {
    if most >= trials || p <= 0.0 {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    let (most, n) = (most as f64, trials as f64);
    let (ln_p, ln_q) = (p.ln(), (-p).ln_1p());
    // From the largest number down, the terms shrink as soon as it is below the mean; each follows from the one before.
    let ln_first = libm::lgamma(n + 1.0) - libm::lgamma(most + 1.0) - libm::lgamma(n - most + 1.0) + most * ln_p + (n - most) * ln_q;
    let (mut sum, mut term, mut k) = (1.0, 1.0, most);
    while k > 0.0 && term > sum * 1e-18 {
        term *= k / (n - k + 1.0) * (1.0 - p) / p;
        sum += term;
        k -= 1.0;
    }
    (ln_first.exp() * sum).min(1.0)
}

/// The probability that the absolute value of Student's t with `freedom` degrees exceeds `|t|`.
///
/// It is the regularised incomplete beta function I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2)
/// (Abramowitz and Stegun 26.7.1 and 26.5.2).
pub(crate) fn student_t_two_sided(t: f64, freedom: f64) -> f64 {
    if t.is_infinite() && !freedom.is_nan() {
        return 0.0;
    }
    // The complement is computed separately, because 1 - x loses digits.
    let (square, half) = (t * t, freedom / 2.0);
    incomplete_beta(half, freedom / (freedom + square), square / (freedom + square))
}

/// The regularised incomplete beta function I_x(a, 1/2), where `y` is 1 - x.
fn incomplete_beta(a: f64, x: f64, y: f64) -> f64 {
    const B: f64 = 0.5;
    if x.is_nan() || a.is_nan() {
        return f64::NAN;
    }
    if x <= 0.0 || y <= 0.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    let ln_x = if x < 0.5 { x.ln() } else { (-y).ln_1p() };
    let front = (ln_gamma_step(a) - 0.5 * std::f64::consts::PI.ln() + a * ln_x + B * y.ln()).exp();
    // The fraction converges fast on this side of the mean.
    if x <= (a + 1.0) / (a + B + 2.0) { front * fraction(a, B, x) / a } else { 1.0 - front * fraction(B, a, y) / B }
}

/// ln(gamma(a + 1/2) / gamma(a)): for small a the difference of logarithms, otherwise the series in 1/a.
fn ln_gamma_step(a: f64) -> f64 {
    if a < 20.0 {
        return libm::lgamma(a + 0.5) - libm::lgamma(a);
    }
    let r = 1.0 / (a * a);
    0.5 * a.ln() - (1.0 / 8.0 - r * (1.0 / 192.0 - r * (1.0 / 640.0 - r * 17.0 / 14_336.0))) / a
}

/// The continued fraction of the incomplete beta function (Abramowitz and Stegun 26.5.8), by Lentz's method.
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let away = |v: f64| if v.abs() < 1e-300 { 1e-300 } else { v };
    let (mut c, mut d) = (1.0, 1.0 / away(1.0 - (a + b) * x / (a + 1.0)));
    let mut value = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut step = 1.0;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            step = c * d;
            value *= step;
        }
        if (step - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_equals_its_closed_forms() {
        for t in [0.0, 0.01, 0.5, 1.0, 3.0, 40.0, 1e6] {
            // One degree: Cauchy. Two degrees: algebraic.
            let cauchy = 1.0 - 2.0 * f64::atan(t) / std::f64::consts::PI;
            assert!((student_t_two_sided(t, 1.0) - cauchy).abs() < 1e-13, "{t}");
            let two = 1.0 - t / (2.0 + t * t).sqrt();
            assert!((student_t_two_sided(-t, 2.0) - two).abs() < 1e-13, "{t}");
            // Many degrees: normal.
            assert!((student_t_two_sided(t, 1e9) - 2.0 * normal_upper(t)).abs() < 1e-8, "{t}");
        }
        assert_eq!(student_t_two_sided(f64::INFINITY, 3.0), 0.0);
        assert!(student_t_two_sided(f64::NAN, 3.0).is_nan());
    }
}
