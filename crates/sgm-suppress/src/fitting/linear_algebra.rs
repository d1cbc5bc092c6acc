//! Means, covariances and least squares of vectors.

use argmin::core::{Executor, Operator, State};
use argmin::solver::conjugategradient::ConjugateGradient;
use rayon::prelude::*;
use sgm_score::dot;

/// A running mean of vectors.
#[derive(Default)]
pub(super) struct Mean {
    pub(super) count: usize,
    pub(super) values: Vec<f64>,
}

impl Mean {
    /// Adds a vector.
    pub(super) fn add(&mut self, values: &[f32]) {
        self.count += 1;
        self.values.resize(values.len(), 0.0);
        self.values.iter_mut().zip(values).for_each(|(mean, value)| *mean += (f64::from(*value) - *mean) / self.count as f64);
    }
}

/// The dot product of weights and features.
pub(super) fn product(weights: &[f64], x: &[f32]) -> f64 {
    weights.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()
}

/// The least-squares solution u of `u . x = 1` for rows x, by conjugate gradients on the normal equations.
pub(super) fn constant(rows: &[&[f32]]) -> Result<Vec<f64>, argmin::core::Error> {
    let width = rows.first().map_or(0, |row| row.len());
    // Partial sums are of fixed size and added in order: the same bits for any number of threads.
    let parts: Vec<(Vec<f64>, Vec<f64>)> = rows
        .par_chunks(1024)
        .map(|rows| {
            let (mut gram, mut sums) = (vec![0.0; width * width], vec![0.0; width]);
            for row in rows {
                let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
                for (gram, x) in gram.chunks_exact_mut(width.max(1)).zip(&row) {
                    gram.iter_mut().zip(&row).for_each(|(gram, y)| *gram += x * y);
                }
            }
            (gram, sums)
        })
        .collect();
    let (mut gram, mut sums) = (vec![0.0; width * width], vec![0.0; width]);
    for (part_gram, part_sums) in &parts {
        gram.iter_mut().zip(part_gram).for_each(|(gram, part)| *gram += part);
        sums.iter_mut().zip(part_sums).for_each(|(sum, part)| *sum += part);
    }
    let solver: ConjugateGradient<Vec<f64>, f64> = ConjugateGradient::new(sums);
    let most = 4 * u64::try_from(width).unwrap_or(u64::MAX);
    let solved = Executor::new(Gram { width, values: gram }, solver);
    let solved = solved.configure(|state| state.param(vec![0.0; width]).target_cost(1e-9).max_iters(most)).run()?;
    Ok(solved.state().get_best_param().cloned().unwrap_or_default())
}

/// A symmetric matrix.
struct Gram {
    width: usize,
    values: Vec<f64>,
}

impl Operator for Gram {
    type Param = Vec<f64>;
    type Output = Vec<f64>;

    fn apply(&self, u: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        Ok(self.values.chunks_exact(self.width.max(1)).map(|row| dot(row, u)).collect())
    }
}
