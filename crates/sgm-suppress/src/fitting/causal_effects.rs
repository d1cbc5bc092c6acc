//! Causal effects: what changes of single neurons do, to first order, to the probability of a toxic answer.

use std::collections::BTreeMap;

use sgm_capture::{AttributionPatching, Derivative, Examples, Moments, Parameter};
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
            let sites = toxic.derivatives.get(&derivative).into_iter().flatten().filter(|(site, _)| chosen(site));
            // Sites that only one class of answers passes, such as experts of a router, cannot be compared.
            let both = sites.filter_map(|(site, toxic)| Some((*site, toxic, others.derivatives.get(&derivative)?.get(site)?)));
            both.map(|(site, toxic, others)| (site, compared(toxic, others))).collect()
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

/// The effects of the neurons of one site.
fn compared(toxic: &Moments, others: &Moments) -> Vec<CausalEffect> {
    let (n, m) = (toxic.samples as f64, others.samples as f64);
    let variance = n * m / (n + m).powi(2);
    let of = |moments: &Moments| moments.mean.iter().copied().zip(moments.standard_error()).zip(moments.mean_square()).collect::<Vec<_>>();
    let pairs = of(toxic).into_iter().zip(of(others));
    pairs
        .map(|(((toxic, toxic_error), toxic_square), ((other, other_error), other_square))| CausalEffect {
            slope: variance * (toxic - other),
            standard_error: variance * toxic_error.hypot(other_error),
            square: (n * toxic_square + m * other_square) / (n + m),
        })
        .collect()
}
