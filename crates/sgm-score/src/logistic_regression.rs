//! Logistic regression with an L2 penalty.

use argmin::core::{CostFunction, Executor, Gradient, IterState, KV, Problem, Solver, State};
use argmin::solver::linesearch::{LineSearch, MoreThuenteLineSearch};
use argmin::solver::quasinewton::LBFGS;

use crate::{Error, Result};

/// A logistic model of two classes.
#[derive(Debug, Clone, PartialEq)]
pub struct LogisticModel {
    /// The weight of each feature.
    pub weights: Vec<f64>,
    /// The log-odds where all features are 0.
    pub bias: f64,
}

impl LogisticModel {
    /// The probability of the class `true`.
    pub fn score(&self, features: &[f32]) -> f32 {
        let log_odds = self.bias + features.iter().zip(&self.weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
        #[allow(clippy::cast_possible_truncation, reason = "scores are f32")]
        {
            (1.0 / (1.0 + (-log_odds).exp())) as f32
        }
    }
}

/// Minimises `|w|^2 / 2 + c sum log(1 + exp(-y (w x + b)))` over standardised features x; the returned weights are for the original
/// features.
///
/// The solver is L-BFGS (Nocedal, Mathematics of Computation 35, 1980). It stops when the gradient's norm is `tolerance` times that at 0,
/// when rounding leaves nothing to improve, or after 500 steps. A constant feature has weight 0.
///
/// # Errors
///
/// [`Error::Fit`] when there are no samples, they have different numbers of features, or one is not finite.
pub fn logistic_regression(samples: &[(&[f32], bool)], c: f64, tolerance: f64) -> Result<LogisticModel> {
    let refuse = |reason: String| Err(Error::Fit { reason });
    let Some((first, _)) = samples.first() else { return refuse("there are no samples".to_owned()) };
    let features = first.len();
    if let Some((row, _)) = samples.iter().find(|(row, _)| row.len() != features || row.iter().any(|x| !x.is_finite())) {
        return refuse(format!("a sample of {} features, expected {features} finite ones", row.len()));
    }
    if !(c.is_finite() && c > 0.0) {
        return refuse(format!("c is {c}, expected a number above 0"));
    }
    let average = |of: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0; features];
        for (row, _) in samples {
            sums.iter_mut().zip(row.iter()).enumerate().for_each(|(i, (sum, x))| *sum += of(i, f64::from(*x)));
        }
        sums.iter_mut().for_each(|sum| *sum /= samples.len() as f64);
        sums
    };
    let mean = average(&|_, x| x);
    let variance = average(&|i, x| mean.get(i).map_or(0.0, |m| (x - m) * (x - m)));
    // Differences below the precision of f32 are rounding errors of the mean: such a feature is constant.
    let inverse = |(v, m): (&f64, &f64)| if v.sqrt() > 1e-10 * m.abs() { v.sqrt().recip() } else { 0.0 };
    let inverse: Vec<f64> = variance.iter().zip(&mean).map(inverse).collect();
    let standard: Vec<(Vec<f64>, f64)> = samples
        .iter()
        .map(|(row, class)| {
            let x = row.iter().zip(&mean).zip(&inverse).map(|((x, m), s)| (f64::from(*x) - m) * s).collect();
            (x, if *class { 1.0 } else { -1.0 })
        })
        .collect();
    let loss = Loss { samples: standard, c };
    let failed = |error: argmin::core::Error| Error::Fit { reason: format!("the search for the minimum failed: {error}") };
    let start = vec![0.0; features + 1];
    let steepest = loss.gradient(&start).map_err(failed)?;
    let search = BoundedLineSearch(MoreThuenteLineSearch::new());
    let solver = LBFGS::new(search, 10).with_tolerance_grad(tolerance * dot(&steepest, &steepest).sqrt()).map_err(failed)?;
    let solver = solver.with_tolerance_cost(0.0).map_err(failed)?;
    let run = Executor::new(loss, solver).configure(|state| state.param(start).max_iters(500)).run().map_err(failed)?;
    let best = run.state().get_best_param().cloned().unwrap_or_default();
    let Some((bias, scaled)) = best.split_last() else { return refuse("the search for the minimum found nothing".to_owned()) };
    let weights: Vec<f64> = scaled.iter().zip(&inverse).map(|(w, s)| w * s).collect();
    let bias = bias - dot(&weights, &mean);
    Ok(LogisticModel { weights, bias })
}

/// The line search of Moré and Thuente (ACM Transactions on Mathematical Software 20, 1994), given up after a number of steps. L-BFGS then
/// stops at the best point that it has met. argmin's own never gives up, where rounding leaves nothing to improve for instance.
#[derive(Clone)]
struct BoundedLineSearch(MoreThuenteLineSearch<Vec<f64>, Vec<f64>, f64>);

impl BoundedLineSearch {
    /// The most steps along one direction, as many as scikit-learn allows.
    const STEPS: u64 = 50;
}

impl LineSearch<Vec<f64>, f64> for BoundedLineSearch {
    fn search_direction(&mut self, direction: Vec<f64>) {
        self.0.search_direction(direction);
    }

    fn initial_step_length(&mut self, step_length: f64) -> Outcome<()> {
        self.0.initial_step_length(step_length)
    }
}

/// The state of a search for the minimum.
type Searched = IterState<Vec<f64>, Vec<f64>, (), (), (), f64>;

impl<P: CostFunction<Param = Vec<f64>, Output = f64> + Gradient<Param = Vec<f64>, Gradient = Vec<f64>>> Solver<P, Searched>
    for BoundedLineSearch
{
    fn name(&self) -> &'static str {
        "bounded line search"
    }

    fn init(&mut self, problem: &mut Problem<P>, state: Searched) -> Outcome<(Searched, Option<KV>)> {
        self.0.init(problem, state)
    }

    fn next_iter(&mut self, problem: &mut Problem<P>, state: Searched) -> Outcome<(Searched, Option<KV>)> {
        if state.get_iter() == Self::STEPS {
            return Err(argmin::core::Error::msg("no minimum along the direction"));
        }
        self.0.next_iter(problem, state)
    }
}

/// The penalised loss on standardised samples with labels 1 and -1; the last parameter is the bias.
struct Loss {
    samples: Vec<(Vec<f64>, f64)>,
    c: f64,
}

impl Loss {
    fn margin((x, y): &(Vec<f64>, f64), w: &[f64]) -> f64 {
        y * (dot(x, w) + w.last().copied().unwrap_or_default())
    }
}

type Outcome<T> = std::result::Result<T, argmin::core::Error>;

impl CostFunction for Loss {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, w: &Self::Param) -> Outcome<f64> {
        // log(1 + exp(-m)) without overflow.
        let loss = |m: f64| (-m.abs()).exp().ln_1p() + (-m).max(0.0);
        let weights = w.split_last().map_or(&[][..], |(_, weights)| weights);
        Ok(dot(weights, weights) / 2.0 + self.c * self.samples.iter().map(|sample| loss(Self::margin(sample, w))).sum::<f64>())
    }
}

impl Gradient for Loss {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, w: &Self::Param) -> Outcome<Vec<f64>> {
        let (mut gradient, mut bias) = (w.clone(), 0.0);
        for sample in &self.samples {
            let (x, y) = sample;
            let slope = -self.c * y / (1.0 + Self::margin(sample, w).exp());
            gradient.iter_mut().zip(x).for_each(|(g, x)| *g += slope * x);
            bias += slope;
        }
        gradient.last_mut().into_iter().for_each(|last| *last = bias);
        Ok(gradient)
    }
}

/// The dot product of two vectors, up to the length of the shorter one, summed in eight lanes for vector instructions.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let length = a.len().min(b.len()) / LANES * LANES;
    let ((a, a_rest), (b, b_rest)) = (a.split_at(length), b.split_at(length));
    let mut lanes = [0.0; LANES];
    for (a, b) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}
