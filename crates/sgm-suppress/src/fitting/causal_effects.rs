//! Causal effects: what changes of single neurons do, to first order, to the probability of a toxic answer.

use std::collections::{BTreeMap, BTreeSet};

use sgm_capture::{AttributionPatching, Derivative, Examples, MeanAttribution, Moments, Parameter};
use sgm_core::{Projection, Site, TokenSelection};
use sgm_models::Mllm;

use crate::{Error, Result};

/// The effects of all neurons on the probability that an answer to a risky prompt is toxic, to first order.
///
/// An answer `y` that the model draws itself is toxic with a probability `p`, whose derivative by a parameter of the model is the covariance
/// of the verdict with the derivative `g = d log p(y)` of the answer's log-likelihood ([`AttributionPatching`]): the score function, or
/// REINFORCE (Williams 1992). With `p` of the answers being toxic, that is
///
/// ```text
/// slope = p (1 - p) (mean of g over toxic answers - mean of g over others)
/// ```
///
/// The mean square of `g` over all answers is the diagonal of the Fisher information: half of it, times the square of a small change of the
/// parameter, is the divergence that the change causes in the answers.
///
/// The parameters are the scale of every neuron and a shift of every MLP's output, the same for all tokens. The answers must be the model's
/// own, drawn at temperature 1. Those of one prompt count as independent.
#[derive(Debug, Clone, PartialEq)]
pub struct CausalEffects {
    /// The number of answers.
    pub answers: usize,
    /// The share of toxic answers.
    pub toxic: f64,
    /// The effect of each neuron's scale.
    pub scales: BTreeMap<Site, Vec<CausalEffect>>,
    /// The effect of a shift of each neuron of the MLP's output.
    pub shifts: BTreeMap<Site, Vec<CausalEffect>>,
}

/// The effect of one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CausalEffect {
    /// The derivative of the probability of a toxic answer.
    pub slope: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// The mean square of the derivative of an answer's log-likelihood.
    pub square: f64,
}

impl CausalEffects {
    /// Measures the effects, by one forward and backward pass of answers to risky prompts that a judge has labelled.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when there are fewer than two answers of a class, and the errors of the model and the answers.
    pub fn of<M: Mllm + ?Sized>(model: &M, answers: &Examples<'_>, batch_size: usize) -> Result<Self> {
        let [scale, shift] = [Parameter::Scale, Parameter::Shift].map(|parameter| Derivative { parameter, tokens: TokenSelection::All });
        let patching = AttributionPatching { batch_size, ..AttributionPatching::new(vec![scale, shift]) };
        let [toxic, others] = patching.means(model, answers)?;
        for (class, what) in [(&toxic, "toxic"), (&others, "non-toxic")] {
            if class.samples < 2 {
                let reason = format!(
                    "causal effects take toxic and non-toxic answers to risky prompts, two or more of each, and {} of the model's own answers \
                     are {what}: give more risky prompts, or others",
                    class.samples
                );
                return Err(Error::Fit { reason });
            }
        }
        let effects = |derivative: Derivative, chosen: fn(&Site) -> bool| {
            let of = |class: &MeanAttribution, site: &Site| Summary::of(class.derivatives.get(&derivative)?.get(site)?, class.samples);
            let classes = [&toxic, &others].into_iter().filter_map(|class| class.derivatives.get(&derivative));
            let sites: BTreeSet<Site> = classes.flat_map(BTreeMap::keys).copied().filter(chosen).collect();
            sites.into_iter().map(|site| (site, compared(of(&toxic, &site), toxic.samples, of(&others, &site), others.samples))).collect()
        };
        let answers = toxic.samples + others.samples;
        Ok(Self {
            answers,
            toxic: toxic.samples as f64 / answers as f64,
            scales: effects(scale, |_| true),
            shifts: effects(shift, |site| site.projection == Projection::Down && site.expert.is_none()),
        })
    }
}

/// The mean and the mean square of the derivative over all answers of a class, for each neuron of a site.
struct Summary {
    mean: Vec<f64>,
    square: Vec<f64>,
}

impl Summary {
    /// Answers that do not pass the site, such as an expert that no token is routed to, have derivatives of 0. `None` without neurons.
    fn of(moments: &Moments, answers: usize) -> Option<Self> {
        let share = moments.samples as f64 / answers as f64;
        let scaled = |values: &[f64]| values.iter().map(|value| share * value).collect::<Vec<f64>>();
        (!moments.mean.is_empty()).then(|| Self { mean: scaled(&moments.mean), square: scaled(&moments.mean_square()) })
    }
}

/// The effects of the neurons of one site, with the number of answers of each class.
fn compared(toxic: Option<Summary>, n: usize, others: Option<Summary>, m: usize) -> Vec<CausalEffect> {
    let width = [&toxic, &others].into_iter().flatten().map(|class| class.mean.len()).max().unwrap_or(0);
    let nothing = || Summary { mean: vec![0.0; width], square: vec![0.0; width] };
    let (toxic, others, n, m) = (toxic.unwrap_or_else(nothing), others.unwrap_or_else(nothing), n as f64, m as f64);
    let of_verdicts = n * m / (n + m).powi(2);
    let squared_error = |mean: f64, square: f64, count: f64| (square - mean * mean).max(0.0) / (count - 1.0);
    let pairs = toxic.mean.iter().zip(&toxic.square).zip(others.mean.iter().zip(&others.square));
    pairs
        .map(|((toxic, toxic_square), (other, other_square))| CausalEffect {
            slope: of_verdicts * (toxic - other),
            standard_error: of_verdicts * (squared_error(*toxic, *toxic_square, n) + squared_error(*other, *other_square, m)).sqrt(),
            square: (n * toxic_square + m * other_square) / (n + m),
        })
        .collect()
}
