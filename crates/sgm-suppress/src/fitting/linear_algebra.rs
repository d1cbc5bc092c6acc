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

/// A covariance, stored as centred rows and their degrees of freedom.
pub(super) struct Covariance {
    rows: Vec<Vec<f32>>,
    freedom: f64,
}

impl Covariance {
    /// The covariance of rows.
    pub(super) fn of(rows: &[&[f32]]) -> Self {
        let mut mean = vec![0.0f64; rows.first().map_or(0, |row| row.len())];
        for row in rows {
            mean.iter_mut().zip(*row).for_each(|(mean, value)| *mean += f64::from(*value) / rows.len() as f64);
        }
        #[allow(clippy::cast_possible_truncation, reason = "the outputs are f32")]
        let centred = |row: &&[f32]| row.iter().zip(&mean).map(|(value, mean)| (f64::from(*value) - mean) as f32).collect();
        Self { rows: rows.iter().map(centred).collect(), freedom: (rows.len() as f64 - 1.0).max(1.0) }
    }

    /// The covariance times a vector. Partial sums are of fixed size and added in order: the same bits for any number of threads.
    pub(super) fn times(&self, direction: &[f64]) -> Vec<f64> {
        let part = |rows: &[Vec<f32>]| {
            let mut sum = vec![0.0f64; direction.len()];
            for row in rows {
                let along: f64 = row.iter().zip(direction).map(|(value, d)| f64::from(*value) * d).sum();
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += along * f64::from(*value));
            }
            sum
        };
        let parts: Vec<Vec<f64>> = self.rows.par_chunks(1024).map(part).collect();
        let mut product = vec![0.0; direction.len()];
        parts.iter().for_each(|part| product.iter_mut().zip(part).for_each(|(sum, value)| *sum += value / self.freedom));
        product
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_numpys_covariance() {
        let rows: [&[f32]; 4] = [&[1.0, 2.0], &[3.0, -1.0], &[-2.0, 0.5], &[0.0, 4.0]];
        // numpy.cov of the rows' columns.
        let expected = [[4.333_333_333_333_333, -1.583_333_333_333_333_3], [-1.583_333_333_333_333_3, 4.5625]];
        let covariance = Covariance::of(&rows);
        for (axis, column) in expected.iter().enumerate() {
            let unit: Vec<f64> = (0..2).map(|other| f64::from(u8::from(other == axis))).collect();
            let product = covariance.times(&unit);
            for (got, expected) in product.iter().zip(column) {
                assert!((got - expected).abs() < 1e-6, "{product:?} {column:?}");
            }
        }
    }
}
