//! Causal experts: the neurons that make answers toxic, suppressed in proportion to benefit over cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sgm_capture::{AttributionPatching, Derivative, Examples, Parameter};
use sgm_core::{Calibration, Intervention, Site, SiteIntervention, TokenSelection};
use sgm_models::Mllm;
use sgm_score::{Correction, normal_upper, q_values};

use crate::{Error, Result};

use super::causal_effects::{CausalEffect, CausalEffects};
use super::metadata::metadata;
use super::without_rise::without_rise;

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
/// [`Budget`](crate::Budget).
///
/// Two things have to stay, to first order: the model's predictions do not become less certain, as in
/// [`CausalSteering`](crate::CausalSteering), and no set of kept texts becomes less likely on average. Where `b / f` does not keep to this,
/// the nearest suppression that does takes its place, in the metric of the costs; an expert of which nothing is left keeps its scale. This
/// is exact as long as no expert is silenced, and holds in part where `q` is so small that some are. A divergence grows with the square of
/// a small change, but the likelihood of what people wrote falls in proportion to it, so that it would be spent long before.
///
/// The formula is this project's own; it is the natural gradient (Amari 1998) with a diagonal metric, projected on what is allowed.
/// Gradient times activation as the first-order effect of a neuron is that of Molchanov et al. (arXiv 1611.06440), the Fisher information
/// as its cost that of Fisher pruning (Theis et al., arXiv 1801.05787).
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
    /// Finds the experts by their effects, and by what they cost on sets of texts that have to stay as likely as they are, such as neutral
    /// texts and harmless replies.
    ///
    /// # Errors
    ///
    /// [`Error::NoCausalEffects`] when no neuron is an expert, or none can be suppressed without making texts less likely; [`Error::Fit`]
    /// when there are no texts or a setting is out of range; and the errors of the model and the texts.
    pub fn fit<M: Mllm + ?Sized>(
        &self,
        model: &M,
        effects: &CausalEffects,
        kept: &[Examples<'_>],
        calibration: Option<Calibration>,
    ) -> Result<Intervention> {
        if !(self.false_discovery_rate > 0.0 && self.false_discovery_rate < 1.0) {
            let reason = format!("a false-discovery rate of {}; expected a number between 0 and 1", self.false_discovery_rate);
            return Err(Error::Fit { reason });
        }
        if !(self.change > 0.0 && self.change.is_finite()) {
            return Err(Error::Fit { reason: format!("a change of {}; expected a finite number above 0", self.change) });
        }
        if kept.iter().all(Examples::is_empty) {
            return Err(Error::Fit { reason: "what causal experts cost is measured on neutral texts, and there are none".to_owned() });
        }
        let neurons =
            || effects.scales.iter().flat_map(|(site, effects)| effects.iter().enumerate().map(|(at, effect)| (*site, at, effect)));
        let p_value = |effect: &CausalEffect| if effect.slope > 0.0 { normal_upper(effect.slope / effect.standard_error) } else { 1.0 };
        let p_values: Vec<f64> = neurons().map(|(_, _, effect)| p_value(effect)).collect();
        let q_values = q_values(&p_values, Correction::BenjaminiHochberg)?;
        let texts = kept.iter().filter(|texts| !texts.is_empty()).map(|texts| self.likelihood(model, effects, texts));
        let texts = texts.collect::<Result<Vec<Likelihood>>>()?;
        let all = kept.iter().map(Examples::len).sum::<usize>() as f64;
        let cost = |site: Site, at: usize| -> f64 {
            texts.iter().filter_map(|set| Some(set.texts / all * set.derivatives.get(&site)?.get(at)?.square)).sum()
        };
        let mean = neurons().map(|(site, at, _)| cost(site, at)).sum::<f64>() / p_values.len().max(1) as f64;
        let chosen: Vec<(Site, usize, &CausalEffect)> =
            neurons().zip(&q_values).filter(|(_, q)| **q <= self.false_discovery_rate).map(|(neuron, _)| neuron).collect();
        let costs: Vec<f64> = chosen.iter().map(|(site, at, _)| cost(*site, *at) + DAMPING * mean).collect();
        let slopes: Vec<f64> = chosen.iter().map(|(_, _, effect)| effect.slope).collect();
        // Suppression lowers what has a positive derivative by the scale.
        let mut risen: Vec<Vec<f64>> = vec![chosen.iter().map(|(_, _, effect)| -effect.entropy).collect()];
        for set in &texts {
            let derivative =
                |site: &Site, at: usize| set.derivatives.get(site).and_then(|site| site.get(at)).map_or(0.0, |moment| moment.mean);
            risen.push(chosen.iter().map(|(site, at, _)| derivative(site, *at)).collect());
        }
        let experts: Vec<Expert> = chosen
            .iter()
            .zip(without_rise(&slopes, &costs, &risen, true))
            .map(|((site, neuron, effect), ratio)| Expert { site: *site, neuron: *neuron, benefit: effect.slope, ratio })
            .filter(|expert| expert.ratio > 0.0 && expert.ratio.is_finite())
            .collect();
        tracing::info!(experts = experts.len(), answers = effects.answers, "neurons that cause toxic answers");
        let Some(silenced) = silenced(&experts, self.change) else {
            let (answers, toxic) = (effects.answers, 100.0 * effects.toxic);
            let reason = if chosen.is_empty() {
                format!("no neuron has an effect that is above chance on {answers} answers, {toxic:.0} % of them toxic")
            } else {
                format!("none of {} neurons that cause toxic answers can be suppressed without making kept texts less likely", chosen.len())
            };
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

    /// The derivatives of the log-likelihoods of texts by each scale; texts that do not pass a site have derivatives of 0.
    fn likelihood<M: Mllm + ?Sized>(&self, model: &M, effects: &CausalEffects, texts: &Examples<'_>) -> Result<Likelihood> {
        let derivative = Derivative { parameter: Parameter::Scale, tokens: TokenSelection::All };
        let sites = Some(effects.scales.keys().copied().collect());
        let patching = AttributionPatching { sites, batch_size: self.batch_size, ..AttributionPatching::new(vec![derivative]) };
        let mut derivatives: BTreeMap<Site, Vec<Moment>> = BTreeMap::new();
        // Of texts of either label.
        for (site, moments) in patching.means(model, texts)?.into_iter().flat_map(|class| class.derivatives.into_values()).flatten() {
            let share = moments.samples as f64 / texts.len() as f64;
            let sums = derivatives.entry(site).or_insert_with(|| vec![Moment::default(); moments.mean.len()]);
            for (sum, (mean, square)) in sums.iter_mut().zip(moments.mean.iter().zip(moments.mean_square())) {
                (sum.mean, sum.square) = (sum.mean + share * mean, sum.square + share * square);
            }
        }
        Ok(Likelihood { texts: texts.len() as f64, derivatives })
    }
}

/// The derivatives of the log-likelihoods of some texts.
struct Likelihood {
    /// The number of texts.
    texts: f64,
    derivatives: BTreeMap<Site, Vec<Moment>>,
}

/// The mean and the mean square of a derivative over texts.
#[derive(Clone, Copy, Default)]
struct Moment {
    mean: f64,
    square: f64,
}
