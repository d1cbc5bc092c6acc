//! Shifts of what MLPs say that make the model's own harmless answers likelier.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sgm_capture::{ActsAt, Capture, Derivative, Effects, Examples, Layerwise, MeanEffects, MlpTokens, Parameter};
use sgm_core::{Calibration, Intervention, Metadata, Projection, Site, SiteIntervention};
use sgm_models::{Mllm, TokenKind, TokenMask, View};

use crate::logistic::dot;
use crate::{Amplify, Error, Glasses, Result};

/// How MLP outputs are steered: in each layer by the shift that does most for non-toxic answers, to first order, of all shifts of one size.
///
/// What separates toxic from non-toxic samples tells which neurons *detect*, and moving those takes from the model what it noticed, with which it also
/// knew that it had been provoked and might say sorry. This one asks what *causes* the answers: with `g+` and `g-` the mean gradients of the log-likelihood of
/// whole non-toxic and toxic answers by a shift of the MLP's output at all tokens ([`Effects`]), and `C` the covariance of the MLP's output at the tokens that
/// non-toxic answers are predicted from, the shift is
///
/// ```text
/// d = g+ - against * g-        b = strength * C d / sqrt(d . C d)
/// ```
///
/// which maximises `d . b` among shifts with `b . C^-1 b = strength^2`: `strength` is a Mahalanobis distance, in standard deviations of
/// what the MLP says anyway. It is one step, not a descent: layer by layer, each on the model that is steered in the layers before, or
/// [at once](Self::at_once). The formula is this project's own; the
/// gradient as a direction to steer in is common (arXiv 1912.02164 ascends it in the cached keys and values, at every token of an answer).
///
/// Both kinds of answers should be to the same kind of prompts, risky ones, best those that the model gives itself. The shift is the same for all tokens, so that these
/// glasses want a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steering {
    /// How far, in standard deviations of the MLP's output along the shift.
    pub strength: f64,
    /// How much making toxic answers less likely counts beside making non-toxic ones likelier.
    pub against: f64,
    /// Whether all layers are fitted on the model as it is: by one pass forward and back, where layer by layer each takes its own, which is long
    /// for deep models. Layers then do not know of each other, and all together may go further than each was meant to.
    pub at_once: bool,
    /// The layers; all if not given.
    pub layers: Option<RangeInclusive<usize>>,
    /// Samples run together.
    pub batch_size: usize,
}

impl Default for Steering {
    fn default() -> Self {
        Self { strength: 0.6, against: 0.25, at_once: false, layers: None, batch_size: 8 }
    }
}

impl Steering {
    /// Fits the shifts to labelled answers, on the model as it is: with the glasses on that it wears.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when there are no answers of a class or a setting is not finite, and what model and samples report.
    pub fn fit<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, calibration: Option<Calibration>) -> Result<Intervention> {
        if !self.strength.is_finite() || !self.against.is_finite() {
            let reason =
                format!("a strength of {} and a weight against toxic answers of {}; expected finite numbers", self.strength, self.against);
            return Err(Error::Fit { reason });
        }
        let info = model.info();
        let mut fitted = Intervention::new(Metadata {
            base_model: Some(info.name.clone()),
            config_sha256: Some(info.config_sha256.clone()),
            operator: Some(serde_json::json!({"name": "steering", "settings": self})),
            positions: Some("all".to_owned()),
            calibration,
            created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()),
            ..Metadata::default()
        });
        let sites: Vec<Site> = info.sites.iter().map(|info| info.site).filter(|site| self.steers(*site)).collect();
        let capture = Capture { batch_size: self.batch_size, ..Capture::new(Vec::new()) };
        let mut samples = capture.layerwise(model, examples)?;
        let step = if self.at_once { sites.len().max(1) } else { 1 };
        for sites in sites.chunks(step) {
            let view = View::new(model);
            let worn = Glasses::wear(&view, &fitted, Amplify::Refuse)?;
            let gradients = self.gradients(&view, examples, sites)?;
            drop(worn);
            for (site, gradient) in gradients {
                samples.advance_to(model, site.layer)?;
                let shift = spread(model, &samples)?.times(&gradient);
                let length = dot(&gradient, &shift).max(0.0).sqrt();
                let factor = if length > 0.0 { self.strength / length } else { 0.0 };
                #[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32")]
                let shift: Vec<f32> = shift.into_iter().map(|value| (factor * value) as f32).collect();
                let scale = vec![1.0; shift.len()];
                fitted.insert(site, SiteIntervention { shift: Some(shift), ..SiteIntervention::from_scale(scale) })?;
            }
        }
        Ok(fitted)
    }

    fn steers(&self, site: Site) -> bool {
        site.projection == Projection::Down && self.layers.as_ref().is_none_or(|layers| layers.contains(&site.layer))
    }

    /// What the shift of each site is to ascend.
    fn gradients<M: Mllm + ?Sized>(&self, model: &M, examples: &Examples<'_>, sites: &[Site]) -> Result<BTreeMap<Site, Vec<f64>>> {
        let derivative = Derivative { parameter: Parameter::Shift, tokens: ActsAt::Mask(TokenMask::All) };
        let only = Some(sites.iter().copied().collect());
        let effects = Effects { sites: only, batch_size: self.batch_size, ..Effects::new(vec![derivative]) };
        let [toxic, others] = effects.means(model, examples)?;
        let of = |effects: &MeanEffects, site: Site, what: &str| {
            let moments = effects.derivatives.get(&derivative).and_then(|sites| sites.get(&site));
            let missing = || Error::Fit {
                reason: format!(
                    "there are no {what} answers, and steering needs some of both kinds: give more prompts, or fit a preset without it"
                ),
            };
            moments.map(|moments| moments.mean.clone()).ok_or_else(missing)
        };
        let gradient = |site: &Site| {
            let (others, toxic) = (of(&others, *site, "non-toxic")?, of(&toxic, *site, "toxic")?);
            Ok((*site, others.iter().zip(&toxic).map(|(other, toxic)| other - self.against * toxic).collect()))
        };
        sites.iter().map(gradient).collect()
    }
}

/// How the output of the MLP that answers are before varies at the tokens that non-toxic ones are predicted from.
fn spread<M: Mllm + ?Sized>(model: &M, answers: &Layerwise<'_>) -> Result<Spread> {
    let chosen = |toxic: bool, kind: TokenKind, end: bool, _: usize| !toxic && (end || kind == TokenKind::Response);
    let answers = answers.mlp_tokens(model, chosen)?;
    let rows: Vec<&[f32]> = answers.iter().flat_map(MlpTokens::tokens).map(|(_, _, _, output)| output).collect();
    Ok(Spread::of(&rows))
}

/// Rows around their mean, and how many degrees of freedom they have: a covariance that is never written out.
struct Spread {
    rows: Vec<Vec<f32>>,
    freedom: f64,
}

impl Spread {
    fn of(rows: &[&[f32]]) -> Self {
        let mut mean = vec![0.0f64; rows.first().map_or(0, |row| row.len())];
        for row in rows {
            mean.iter_mut().zip(*row).for_each(|(mean, value)| *mean += f64::from(*value) / rows.len() as f64);
        }
        #[allow(clippy::cast_possible_truncation, reason = "as wide as the outputs themselves")]
        let centred = |row: &&[f32]| row.iter().zip(&mean).map(|(value, mean)| (f64::from(*value) - mean) as f32).collect();
        Self { rows: rows.iter().map(centred).collect(), freedom: (rows.len() as f64 - 1.0).max(1.0) }
    }

    /// The covariance times a vector. Sums are over parts of a fixed size, in order: the same bits for any number of threads.
    fn times(&self, direction: &[f64]) -> Vec<f64> {
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
    fn a_spread_is_the_covariance() {
        let rows: [&[f32]; 4] = [&[1.0, 2.0], &[3.0, -1.0], &[-2.0, 0.5], &[0.0, 4.0]];
        // numpy.cov of the rows' columns.
        let covariance = [[4.333_333_333_333_333, -1.583_333_333_333_333_3], [-1.583_333_333_333_333_3, 4.5625]];
        let spread = Spread::of(&rows);
        for (axis, column) in covariance.iter().enumerate() {
            let unit: Vec<f64> = (0..2).map(|other| f64::from(u8::from(other == axis))).collect();
            let product = spread.times(&unit);
            for (got, expected) in product.iter().zip(column) {
                assert!((got - expected).abs() < 1e-6, "{product:?} {column:?}");
            }
        }
    }
}
