//! Scores of many neurons: AUROC, standard errors, average precision and effect sizes.

use ndarray::{ArrayView1, ArrayView2, Axis};

use crate::blocks::{columns_within, each_block, refuse_nan};
use crate::classes::{Classes, toxic_first};
use crate::order::Ordered as _;
use crate::tally::Tally;
use crate::{Effect, Response, Responses, Result};

/// The scores to compute beside the AUROC, and the memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreOptions {
    /// The working memory of all threads together, in bytes, without the responses and the results.
    pub memory: usize,
    /// Average precision of each neuron.
    pub average_precision: bool,
    /// The difference of the classes' means, Cohen's d and Welch's t of each neuron.
    pub effect: bool,
}

impl Default for ScoreOptions {
    /// AUROC and its standard error only, in 256 MiB.
    fn default() -> Self {
        Self { memory: 256 << 20, average_precision: false, effect: false }
    }
}

/// The scores of neurons as detectors of toxic samples; every vector is `[neurons]`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// The area under the ROC curve.
    pub auroc: Vec<f64>,
    /// DeLong's standard error of the AUROC; NaN if a class has a single sample.
    ///
    /// DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), from ranks as by Sun and Xu, IEEE Signal
    /// Processing Letters 21 (2014); exact with ties.
    pub auroc_se: Vec<f64>,
    /// Average precision: the sum over thresholds of precision times the gain in recall (scikit-learn's definition: tied responses are one
    /// threshold); empty unless requested.
    pub average_precision: Vec<f64>,
    /// Effect sizes; empty unless requested.
    pub effect: Vec<Effect>,
}

/// The area under the ROC curve of one response vector as a detector of `true` labels.
///
/// Exact: with mid-ranks r of the responses, `(sum of r over toxic - n1 (n1 + 1) / 2) / (n1 n0)`, the
/// Mann-Whitney statistic, in integers up to the division. Equal responses tie, `-0.0` with `0.0` too;
/// infinities are ordered like other numbers.
///
/// # Errors
///
/// [`Error::SingleClass`](crate::Error::SingleClass), [`Error::Labels`](crate::Error::Labels),
/// [`Error::NotANumber`](crate::Error::NotANumber) (with neuron 0).
pub fn auroc<T: Response>(responses: &[T], labels: &[bool]) -> Result<f64> {
    let column = ArrayView1::from(responses).insert_axis(Axis(1));
    let scores = score(&column, labels, &ScoreOptions { memory: usize::MAX, ..Default::default() })?;
    Ok(scores.auroc.first().copied().unwrap_or(f64::NAN))
}

/// The AUROC of every column of `[samples, neurons]` responses, f64 `[neurons]`, in parallel.
///
/// # Errors
///
/// As [`auroc`]; the first offending neuron is named.
pub fn auroc_columns<T: Response>(responses: ArrayView2<'_, T>, labels: &[bool]) -> Result<Vec<f64>> {
    Ok(score(&responses, labels, &ScoreOptions::default())?.auroc)
}

/// Scores every neuron of any source of responses, on the threads of the current rayon pool.
///
/// Blocks of columns are read one after the other; `options.memory` bounds their size for any number of neurons. AUROC, its standard error
/// and average precision are the same bits for any number of threads, any memory limit and any order of the samples; effect sizes for any
/// number of threads and any memory limit.
///
/// # Errors
///
/// [`Error::SingleClass`](crate::Error::SingleClass), [`Error::Labels`](crate::Error::Labels),
/// [`Error::NotANumber`](crate::Error::NotANumber) naming the first offending neuron,
/// [`Error::Memory`](crate::Error::Memory) when one neuron per thread exceeds the memory limit.
pub fn score<R: Responses>(responses: &R, labels: &[bool], options: &ScoreOptions) -> Result<Scores> {
    let classes = Classes::of(labels, responses.samples())?;
    let order = toxic_first(labels);
    let toxic = labels.iter().filter(|l| **l).count();
    let width = columns_within(responses, options.memory, 0)?;
    let neurons = each_block(responses, &order, width, |block, scratch| {
        let one = |(neuron, column): (usize, &[R::Value])| {
            refuse_nan(neuron, column, &order)?;
            let mut tally = Tally::new(classes, options.average_precision);
            R::Value::tally(column, toxic, scratch, &mut tally);
            let effect = options.effect.then(|| Effect::of(column, toxic));
            Ok((tally.auroc(), tally.standard_error(), tally.average_precision(), effect))
        };
        block.columns().map(one).collect()
    })?;
    let mut scores = Scores::default();
    for (auroc, se, precision, effect) in neurons {
        scores.auroc.push(auroc);
        scores.auroc_se.push(se);
        if options.average_precision {
            scores.average_precision.push(precision);
        }
        scores.effect.extend(effect);
    }
    Ok(scores)
}

/// The standard error of an AUROC from the class sizes alone, by Hanley and McNeil, Radiology 143 (1982),
/// equation 2, with their estimates for exponential responses; cheaper and less accurate than DeLong's.
pub fn hanley_mcneil_se(auroc: f64, toxic: usize, non_toxic: usize) -> f64 {
    let (a, n1, n0) = (auroc, toxic as f64, non_toxic as f64);
    let (q1, q2) = (a / (2.0 - a), 2.0 * a * a / (1.0 + a));
    let variance = (a * (1.0 - a) + (n1 - 1.0) * (q1 - a * a) + (n0 - 1.0) * (q2 - a * a)) / (n1 * n0);
    variance.max(0.0).sqrt()
}
