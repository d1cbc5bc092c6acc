//! Causal effects: what changes of single neurons do, to first order, to the probability of a toxic answer.

use std::collections::{BTreeMap, BTreeSet};

use sgm_capture::{AttributionPatching, Derivative, Examples, MeanAttribution, Moments, Parameter};
use sgm_core::{Projection, Site, TokenSelection};
use sgm_models::{Mllm, Objective};

use crate::{Error, Result};

/// The effects of all neurons on the probability that an answer to a risky prompt is toxic, to first order.
///
/// An answer `y` that the model draws itself is toxic with a probability `p`, whose derivative by a parameter of the model is the
/// covariance of the verdict with the derivative `g = d log p(y)` of the answer's log-likelihood ([`AttributionPatching`]): the score
/// function, or REINFORCE (Williams 1992). With `p` of the answers being toxic, that is
///
/// ```text
/// slope = p (1 - p) (mean of g over toxic answers - mean of g over others)
/// ```
///
/// The mean square of `g` over all answers is the diagonal of the Fisher information: half of it, times the square of a small change of the
/// parameter, is the divergence that the change causes in the answers. The derivative of the mean entropy of the predictions in the answers
/// tells changes that make the model less certain.
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
    /// The derivative of the mean entropy of the predictions of the answers' tokens, in nats.
    pub entropy: f64,
}

impl CausalEffects {
    /// Measures the effects, by one forward and backward pass of answers to risky prompts that a judge has labelled, and a second one of up to
    /// 160 of them for the entropies. The neurons whose scales are measured are those of some sites.
    ///
    /// # Errors
    ///
    /// [`Error::NoCausalEffects`] when there are fewer than two answers of a class, and the errors of the model and the answers.
    pub fn of<M: Mllm + ?Sized>(model: &M, sites: &BTreeSet<Site>, answers: &Examples<'_>, batch_size: usize) -> Result<Self> {
        let [scale, shift] = [Parameter::Scale, Parameter::Shift].map(|parameter| Derivative { parameter, tokens: TokenSelection::All });
        let outputs: BTreeSet<Site> =
            model.info().sites.iter().map(|info| info.site).filter(|site| site.projection == Projection::Down).collect();
        let measured = Some(sites.union(&outputs).copied().collect());
        let patching = AttributionPatching { sites: measured, batch_size, ..AttributionPatching::new(vec![scale, shift]) };
        let [toxic, others] = patching.means(model, answers)?;
        for (class, what) in [(&toxic, "toxic"), (&others, "non-toxic")] {
            if class.samples < 2 {
                let (count, of) = (class.samples, answers.len());
                let reason = format!("{count} of the model's own {of} answers are {what}, and it takes two of either kind");
                return Err(Error::NoCausalEffects { reason });
            }
        }
        // A derivative of an entropy does not depend on what was drawn, and takes fewer answers.
        let some = (0..answers.len()).step_by(answers.len().div_ceil(ENTROPIES).max(1));
        let some = some.map(|number| answers.get(number)).collect::<std::result::Result<Vec<_>, _>>()?;
        let entropies = AttributionPatching { objective: Objective::Entropy, ..patching }.means(model, &Examples::from_slice(&some))?;
        let effects = |derivative: Derivative, sites: &BTreeSet<Site>| {
            let of = |class: &MeanAttribution, site: &Site, answers| Summary::of(class.derivatives.get(&derivative)?.get(site)?, answers);
            let compare = |site: &Site| {
                let mut effects =
                    compared(of(&toxic, site, toxic.samples), toxic.samples, of(&others, site, others.samples), others.samples);
                for entropy in entropies.iter().filter_map(|class| of(class, site, some.len())) {
                    effects.iter_mut().zip(entropy.mean).for_each(|(effect, entropy)| effect.entropy += entropy);
                }
                (*site, effects)
            };
            sites.iter().map(compare).filter(|(_, effects)| !effects.is_empty()).collect()
        };
        let answers = toxic.samples + others.samples;
        Ok(Self { answers, toxic: toxic.samples as f64 / answers as f64, scales: effects(scale, sites), shifts: effects(shift, &outputs) })
    }
}

/// The largest number of answers whose entropies are differentiated.
const ENTROPIES: usize = 160;

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
            entropy: 0.0,
        })
        .collect()
}
