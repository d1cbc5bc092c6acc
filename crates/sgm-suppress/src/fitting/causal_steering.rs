//! Causal steering: shifts of MLP outputs that make toxic answers less probable.

use serde::{Deserialize, Serialize};
use sgm_core::{Calibration, Intervention, SiteIntervention};
use sgm_models::Mllm;

use crate::{Error, Result};

use super::causal_effects::{CausalEffect, CausalEffects};
use super::metadata::metadata;
use super::without_rise::without_rise;

/// The shift of all MLPs' outputs that lowers the probability of a toxic answer most, at what it changes in the answers.
///
/// With the derivative `s` of this probability by the shift of an output, and the mean square `f` of the derivative of an answer's
/// log-likelihood ([`CausalEffects`]), to which its mean over the outputs of the layer is added, the shift of each output is
///
/// ```text
/// shift = -change * (s / f) / sum(s^2 / f)
/// ```
///
/// with the sum over all outputs of all layers: the natural gradient (Amari 1998) with a diagonal metric, of a length at which the products
/// of derivative and shift add up to minus [`change`](Self::change). Layers whose shifts do more for what they cost get more of it, so that
/// no layers need to be chosen. The shift is the same at all tokens, so that these glasses need a condition.
///
/// Where this would make the model's predictions less certain, so much of the derivative of their mean [entropy](CausalEffect::entropy) is
/// taken from `s` in the numerator that the entropy stays as it is, to first order. An uncertain model is less often toxic because it says
/// everything less often, and its answers are word salad.
///
/// The formula is this project's own; the gradient as a direction of steering is common (arXiv 1912.02164 ascends it in the cached keys and
/// values, at every token of an answer).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CausalSteering {
    /// By how much the probability of a toxic answer would fall at full strength if all effects were of first order: a unit, which may be
    /// above 1.
    pub change: f64,
}

impl Default for CausalSteering {
    fn default() -> Self {
        Self { change: 1.0 }
    }
}

impl CausalSteering {
    /// The shifts, by the effects on one model.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when the change is not a finite number above 0, [`Error::NoCausalEffects`] when no shift has an effect.
    pub fn fit<M: Mllm + ?Sized>(&self, model: &M, effects: &CausalEffects, calibration: Option<Calibration>) -> Result<Intervention> {
        if !(self.change > 0.0 && self.change.is_finite()) {
            return Err(Error::Fit { reason: format!("a change of {}; expected a finite number above 0", self.change) });
        }
        let costs = |effects: &[CausalEffect]| -> Vec<f64> {
            let mean = effects.iter().map(|effect| effect.square).sum::<f64>() / effects.len().max(1) as f64;
            effects.iter().map(|effect| effect.square + mean).collect()
        };
        let all = || effects.shifts.values().flatten();
        let slopes: Vec<f64> = all().map(|effect| effect.slope).collect();
        let entropies: Vec<f64> = all().map(|effect| -effect.entropy).collect();
        let costs: Vec<f64> = effects.shifts.values().flat_map(|effects| costs(effects)).collect();
        let ratios = without_rise(&slopes, &costs, &[entropies], false);
        let total: f64 = ratios.iter().zip(&slopes).map(|(ratio, slope)| ratio * slope).sum();
        let factor = -self.change / total;
        if !factor.is_finite() {
            return Err(Error::NoCausalEffects { reason: "no shift of an MLP's output has an effect".to_owned() });
        }
        let info = model.info();
        let mut fitted = Intervention::new(metadata(info, "causal-steering", self, calibration));
        #[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32")]
        let mut shifts = ratios.into_iter().map(|ratio| (factor * ratio) as f32);
        for (site, effects) in &effects.shifts {
            let shift: Vec<f32> = shifts.by_ref().take(effects.len()).collect();
            fitted.insert(*site, SiteIntervention { shift: Some(shift), ..SiteIntervention::from_scale(vec![1.0; effects.len()]) })?;
        }
        Ok(fitted)
    }
}
