//! Causal experts: the neurons that make answers toxic, suppressed in proportion to benefit over cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sgm_capture::{AttributionPatching, Derivative, Examples, Moments, Parameter};
use sgm_core::{Calibration, Intervention, Site, SiteIntervention, TokenSelection};
use sgm_models::Mllm;
use sgm_score::{Correction, normal_upper, q_values};

use crate::{Error, Result};

use super::causal_effects::{CausalEffect, CausalEffects, share_of_entropy};
use super::metadata::metadata;

/// The soft suppression of neurons that *cause* toxic answers.
///
/// An AUROC says that a neuron detects toxicity, and in a wide model every tenth neuron does. Which of them to suppress, and how far, is a
/// question of what it brings and what it costs:
///
/// * the *benefit* `b` of suppressing a neuron is the derivative of the probability of a toxic answer by its scale ([`CausalEffects`]);
/// * its *cost* `f` is the mean square of the derivative of the log-likelihood of neutral texts by its scale: the diagonal of the Fisher
///   information, of which half, times the square of a small change of the scale, is the divergence that the change causes. A tenth of the
///   mean over all neurons is added: where little is known to change, much may.
///
/// *Causal experts* are the neurons whose benefit is above 0 at a [false-discovery rate](Self::false_discovery_rate), by the procedure of
/// Benjamini and Hochberg (1995). Among all suppressions of one cost, those in proportion to `b / f` lower the probability of a toxic
/// answer most, to first order and as if neurons had no common effects:
///
/// ```text
/// scale = 1 - min(1, (b / f) / q)
/// ```
///
/// where `q` is such that the sum of `b (1 - scale)` is [`change`](Self::change). How much of this is worn is found by a
/// [`Budget`](crate::Budget). As in [`CausalSteering`](crate::CausalSteering), `b` in the numerator lacks what would make the model's
/// predictions less certain; an expert of which nothing is left keeps its scale.
///
/// The formula is this project's own; it is the natural gradient (Amari 1998) with a diagonal metric, clipped to suppression. Gradient
/// times activation as the first-order effect of a neuron is that of Molchanov et al. (arXiv 1611.06440), the Fisher information as its
/// cost that of Fisher pruning (Theis et al., arXiv 1801.05787).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CausalExperts {
    /// The largest expected share of neurons among the experts that have no effect.
    pub false_discovery_rate: f64,
    /// By how much the probability of a toxic answer would fall at full strength if all effects were of first order: a unit, which may be
    /// above 1.
    pub change: f64,
    /// Neutral texts run together.
    pub batch_size: usize,
}

impl Default for CausalExperts {
    fn default() -> Self {
        Self { false_discovery_rate: 0.1, change: 2.0, batch_size: 4 }
    }
}

/// What is added to each cost, as a share of the mean cost.
const DAMPING: f64 = 0.1;

/// A neuron that causes toxic answers.
struct Expert {
    site: Site,
    neuron: usize,
    benefit: f64,
    /// Benefit over cost.
    ratio: f64,
}

/// The ratio of benefit over cost from which experts are silenced, so that the benefits of all suppressions add up to `change`, or as near
/// as can be.
fn silenced(experts: &[Expert], change: f64) -> Option<f64> {
    let mut sorted: Vec<(f64, f64)> = experts.iter().map(|expert| (expert.ratio, expert.benefit)).collect();
    sorted.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    // The suppressions of the experts with smaller ratios add up to their sum over the ratio that is silenced.
    let mut below: f64 = sorted.iter().map(|(ratio, benefit)| ratio * benefit).sum();
    let mut above = 0.0;
    for (ratio, benefit) in &sorted {
        if above + below / ratio >= change {
            return Some((below / (change - above)).max(*ratio));
        }
        (above, below) = (above + benefit, below - ratio * benefit);
    }
    sorted.last().map(|(ratio, _)| *ratio)
}

impl CausalExperts {
    /// Finds the experts by their effects, and by what they cost on neutral texts.
    ///
    /// # Errors
    ///
    /// [`Error::NoCausalEffects`] when no neuron is an expert, [`Error::Fit`] when there are no neutral texts or a setting is out of range,
    /// and the errors of the model and the texts.
    pub fn fit<M: Mllm + ?Sized>(
        &self,
        model: &M,
        effects: &CausalEffects,
        neutral: &Examples<'_>,
        calibration: Option<Calibration>,
    ) -> Result<Intervention> {
        if !(self.false_discovery_rate > 0.0 && self.false_discovery_rate < 1.0) {
            let reason = format!("a false-discovery rate of {}; expected a number between 0 and 1", self.false_discovery_rate);
            return Err(Error::Fit { reason });
        }
        if !(self.change > 0.0 && self.change.is_finite()) {
            return Err(Error::Fit { reason: format!("a change of {}; expected a finite number above 0", self.change) });
        }
        if neutral.is_empty() {
            return Err(Error::Fit { reason: "what causal experts cost is measured on neutral texts, and there are none".to_owned() });
        }
        let neurons =
            || effects.scales.iter().flat_map(|(site, effects)| effects.iter().enumerate().map(|(at, effect)| (*site, at, effect)));
        let p_value = |effect: &CausalEffect| if effect.slope > 0.0 { normal_upper(effect.slope / effect.standard_error) } else { 1.0 };
        let p_values: Vec<f64> = neurons().map(|(_, _, effect)| p_value(effect)).collect();
        let q_values = q_values(&p_values, Correction::BenjaminiHochberg)?;
        let costs = self.costs(model, effects, neutral)?;
        let cost = |site: Site, at: usize| costs.iter().filter_map(|sites| sites.get(&site)?.get(at)).sum::<f64>();
        let mean = neurons().map(|(site, at, _)| cost(site, at)).sum::<f64>() / p_values.len().max(1) as f64;
        let chosen = || neurons().zip(&q_values).filter(|(_, q)| **q <= self.false_discovery_rate).map(|(neuron, _)| neuron);
        let damped = |site, at| cost(site, at) + DAMPING * mean;
        let share = share_of_entropy(chosen().map(|(site, at, effect)| (effect, damped(site, at))));
        let experts: Vec<Expert> = chosen()
            .map(|(site, at, effect)| (site, at, effect.slope, (effect.slope - share * effect.entropy) / damped(site, at)))
            .filter(|(.., ratio)| *ratio > 0.0)
            .map(|(site, neuron, benefit, ratio)| Expert { site, neuron, benefit, ratio })
            .filter(|expert| expert.ratio.is_finite())
            .collect();
        tracing::info!(experts = experts.len(), answers = effects.answers, "neurons that cause toxic answers");
        let Some(silenced) = silenced(&experts, self.change) else {
            let reason = format!(
                "no neuron has an effect that is above chance on {} answers, {:.0} % of them toxic",
                effects.answers,
                100.0 * effects.toxic
            );
            return Err(Error::NoCausalEffects { reason });
        };
        let mut scales: BTreeMap<Site, Vec<f32>> = BTreeMap::new();
        for Expert { site, neuron, ratio, .. } in &experts {
            let width = effects.scales.get(site).map_or(0, Vec::len);
            let scale = scales.entry(*site).or_insert_with(|| vec![1.0; width]);
            #[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32")]
            scale.get_mut(*neuron).into_iter().for_each(|scale| *scale = (1.0 - (ratio / silenced).min(1.0)) as f32);
        }
        let info = model.info();
        let mut fitted = Intervention::new(metadata(info, "causal-experts", self, calibration));
        for (site, scale) in scales {
            fitted.insert(site, SiteIntervention::from_scale(scale))?;
        }
        Ok(fitted)
    }
    /// The mean square of the derivative of each scale over texts, of those of either label; texts that do not pass a site have derivatives
    /// of 0.
    fn costs<M: Mllm + ?Sized>(&self, model: &M, effects: &CausalEffects, texts: &Examples<'_>) -> Result<Vec<BTreeMap<Site, Vec<f64>>>> {
        let derivative = Derivative { parameter: Parameter::Scale, tokens: TokenSelection::All };
        let sites = Some(effects.scales.keys().copied().collect());
        let patching = AttributionPatching { sites, batch_size: self.batch_size, ..AttributionPatching::new(vec![derivative]) };
        let squares = |moments: &Moments| -> Vec<f64> {
            let share = moments.samples as f64 / texts.len() as f64;
            moments.mean_square().into_iter().map(|square| share * square).collect()
        };
        let of_class = |sites: BTreeMap<Site, Moments>| sites.into_iter().map(|(site, moments)| (site, squares(&moments))).collect();
        let classes = patching.means(model, texts)?.into_iter();
        Ok(classes.flat_map(|class| class.derivatives.into_values()).map(of_class).collect())
    }
}
