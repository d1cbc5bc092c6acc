//! Gradient steering: shifts of MLP outputs that raise the likelihood of the model's own harmless answers.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use sgm_capture::{AttributionPatching, Capture, Derivative, Examples, Layerwise, MeanAttribution, MlpTokens, Parameter};
use sgm_core::{Amplify, Calibration, Intervention, Metadata, Projection, Site, SiteIntervention, TokenSelection};
use sgm_models::{Mllm, TappedModel, TokenKind};
use sgm_score::dot;

use crate::{Error, Glasses, Result};

use super::linear_algebra::Covariance;

/// The fit of gradient steering: in each layer, the shift of the MLP's output that, to first order and among all shifts of one size, raises
/// the likelihood of non-toxic answers most.
///
/// Neurons that separate toxic from non-toxic samples *detect* toxicity; suppressing them also removes the evidence of a provocation, on
/// which a refusal or an apology depends. Gradient steering uses the *causes* of the answers instead. Let `g+` and `g-` be the mean
/// gradients of the log-likelihood of whole non-toxic and toxic answers with respect to a shift of the MLP's output at all tokens
/// ([`AttributionPatching`]), and `C` the covariance of the MLP's output at the tokens from which non-toxic answers are predicted. The
/// shift is
///
/// ```text
/// d = g+ - against * g-        b = strength * C d / sqrt(d . C d)
/// ```
///
/// which maximises `d . b` among shifts with `b . C^-1 b = strength^2`: `strength` is a Mahalanobis distance, in standard deviations of the
/// MLP's output. It is a single step, layer by layer, each on the model that is steered in the layers before.
/// The formula is this project's own; the gradient as a direction of steering is common (arXiv 1912.02164 ascends it in the cached keys and
/// values, at every token of an answer).
///
/// The answers of both classes should be answers to risky prompts, preferably the model's own. The shift is the same at all tokens, so that
/// these glasses need a condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradientSteering {
    /// The length of each layer's shift, in standard deviations of the MLP's output in its direction.
    pub strength: f64,
    /// The weight of the gradient of toxic answers, which is subtracted from that of non-toxic ones.
    pub against: f64,
    /// The layers; all without a range.
    pub layers: Option<RangeInclusive<usize>>,
    /// Samples run together.
    pub batch_size: usize,
}

impl Default for GradientSteering {
    fn default() -> Self {
        Self { strength: 0.6, against: 0.25, layers: None, batch_size: 4 }
    }
}

impl GradientSteering {
    /// Fits the shifts to labelled answers, on the model with the glasses that it wears.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when a class has no answers or a setting is not finite, and the errors of the model and the samples.
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
            method: Some(serde_json::json!({"name": "gradient-steering", "settings": self})),
            calibration,
            created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()),
            ..Metadata::default()
        });
        let sites: Vec<Site> = info.sites.iter().map(|info| info.site).filter(|site| self.steers(*site)).collect();
        let capture = Capture { batch_size: self.batch_size, ..Capture::new(Vec::new()) };
        // The answers in the unchanged model, and in the model that wears what is fitted so far.
        let mut samples = capture.layerwise(model, examples)?;
        let mut steered = samples.clone();
        for site in sites {
            let _span = tracing::info_span!("steering of layer", layer = site.layer).entered();
            let tapped = TappedModel::new(model);
            let glasses = Glasses::wear(&tapped, &fitted, Amplify::Refuse)?;
            steered.advance_to(&tapped, site.layer)?;
            let gradient = self.gradient(&tapped, &steered, site)?;
            drop(glasses);
            samples.advance_to(model, site.layer)?;
            let shift = output_covariance(model, &samples)?.times(&gradient);
            let length = dot(&gradient, &shift).max(0.0).sqrt();
            let factor = if length > 0.0 { self.strength / length } else { 0.0 };
            #[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32")]
            let shift: Vec<f32> = shift.into_iter().map(|value| (factor * value) as f32).collect();
            let scale = vec![1.0; shift.len()];
            fitted.insert(site, SiteIntervention { shift: Some(shift), ..SiteIntervention::from_scale(scale) })?;
        }
        Ok(fitted)
    }

    fn steers(&self, site: Site) -> bool {
        site.projection == Projection::Down && self.layers.as_ref().is_none_or(|layers| layers.contains(&site.layer))
    }

    /// The direction `d` of a site.
    fn gradient<M: Mllm + ?Sized>(&self, model: &M, samples: &Layerwise<'_>, site: Site) -> Result<Vec<f64>> {
        let derivative = Derivative { parameter: Parameter::Shift, tokens: TokenSelection::All };
        let only = Some([site].into());
        let patching = AttributionPatching { sites: only, batch_size: self.batch_size, ..AttributionPatching::new(vec![derivative]) };
        let [toxic, others] = patching.means_from(model, samples)?;
        let of = |attribution: &MeanAttribution, what: &str| {
            let moments = attribution.derivatives.get(&derivative).and_then(|sites| sites.get(&site));
            let missing = || Error::Fit {
                reason: format!(
                    "there are no {what} answers, and steering needs some of both kinds: give more prompts, or fit a preset without it"
                ),
            };
            moments.map(|moments| moments.mean.clone()).ok_or_else(missing)
        };
        let (others, toxic) = (of(&others, "non-toxic")?, of(&toxic, "toxic")?);
        Ok(others.iter().zip(&toxic).map(|(other, toxic)| other - self.against * toxic).collect())
    }
}

/// The covariance of the next MLP's output at the tokens from which non-toxic answers are predicted.
fn output_covariance<M: Mllm + ?Sized>(model: &M, answers: &Layerwise<'_>) -> Result<Covariance> {
    let chosen = |toxic: bool, kind: TokenKind, end: bool, _: usize| !toxic && (end || kind == TokenKind::Response);
    let answers = answers.mlp_tokens(model, chosen)?;
    let rows: Vec<&[f32]> = answers.iter().flat_map(MlpTokens::tokens).map(|(_, _, _, output)| output).collect();
    Ok(Covariance::of(&rows))
}
