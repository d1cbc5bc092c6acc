//! Presets: named combinations of components, steering and a condition.

use sgm_capture::{Pool, Pooling};
use sgm_core::{Intervention, TokenSelection};
use sgm_models::Mllm;

use crate::{
    Calibrator, CausalExperts, CausalSteering, Component, ConditionalPatches, Error, GradientSteering, Result, SuppressionRule, Transport,
};

/// A specification for glasses: the components to fit, their weights, and the condition.
///
/// ```no_run
/// # fn example(model: &impl sgm_models::Mllm, samples: Vec<sgm_capture::Example>) -> sgm_suppress::Result<()> {
/// use sgm_capture::Capture;
/// use sgm_core::Amplify;
/// use sgm_suppress::{Calibrator, ConditionalGlasses, Preset};
///
/// let capture = Capture { batch_size: 16, ..Capture::new(vec![Preset::TEXT]) };
/// let calibrator = Calibrator::capture(model, samples, capture)?;
/// let calibrator = calibrator.with_judge(|answers| Ok(answers.iter().map(|answer| Some(answer.response.contains("fool"))).collect()));
/// Preset::bakeable().fit(model, &calibrator)?.save("bakeable.sgm.safetensors")?; // for `bake`
/// let conditional = Preset::conditional().fit(model, &calibrator)?;
/// let glasses = ConditionalGlasses::wear(model, &conditional, Amplify::Refuse)?;
/// # drop(glasses);
/// # Ok(()) }
/// ```
///
/// The weights of the named presets were chosen on the dev split of the embedded organism (`docs/history.md`), those of causal experts for
/// use within a budget. On another model their strength has to be found: [`Calibrator::within`].
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// The components to [blend](Intervention::blend), with their weights.
    pub components: Vec<(Component, f32)>,
    /// The steering added to the blend, fitted while the model wears the blend.
    pub steering: Option<GradientSteering>,
    /// The share of benign prompts at which the condition may hold; the glasses always act without it.
    pub false_positive_rate: Option<f64>,
}

impl Preset {
    /// The names of all presets.
    pub const NAMES: [&'static str; 6] =
        ["bakeable", "conditional", "conditional-sgm", "causal-sgm", "causal-bakeable", "causal-conditional"];
    /// The share of benign prompts at which the conditions of presets may hold.
    pub const FALSE_POSITIVE_RATE: f64 = 0.02;
    /// The pooling for transport fitted to all text.
    pub const TEXT: Pooling = Pooling { pool: Pool::Mean, tokens: TokenSelection::Text };
    /// The pooling for transport fitted to prompts.
    pub const PROMPT: Pooling = Pooling { pool: Pool::Mean, tokens: TokenSelection::Prompt };

    /// Glasses for checkpoints: conditional patch neurons, which always act.
    pub fn bakeable() -> Self {
        Self { components: vec![(conditional_patches(), 1.25)], steering: None, false_positive_rate: None }
    }

    /// Glasses for running models: two transports, conditional patch neurons and gradient steering, under a condition.
    pub fn conditional() -> Self {
        let [text, prompt] = transports();
        Self {
            components: vec![(text, 0.6), (prompt, 1.0), (conditional_patches(), 0.6)],
            steering: Some(GradientSteering::default()),
            false_positive_rate: Some(Self::FALSE_POSITIVE_RATE),
        }
    }

    /// Soft suppression under a condition, stronger than would be acceptable for all prompts.
    pub fn conditional_sgm() -> Self {
        let components = vec![(Component::Soft(SuppressionRule::soft(0.6, 2.0)), 1.0)];
        Self { components, steering: None, false_positive_rate: Some(Self::FALSE_POSITIVE_RATE) }
    }

    /// Suppression of the neurons that cause toxic answers.
    pub fn causal_sgm() -> Self {
        Self { components: vec![(causal_experts(), 1.0)], steering: None, false_positive_rate: None }
    }

    /// Suppression of the neurons that cause toxic answers, and conditional patch neurons: for checkpoints.
    pub fn causal_bakeable() -> Self {
        Self { components: vec![(causal_experts(), 1.0), (conditional_patches(), 1.0)], ..Self::causal_sgm() }
    }

    /// The same with causal steering, under a condition: for running models.
    pub fn causal_conditional() -> Self {
        let mut preset = Self { false_positive_rate: Some(Self::FALSE_POSITIVE_RATE), ..Self::causal_bakeable() };
        preset.components.push((Component::CausalSteering(CausalSteering::default()), 1.0));
        preset
    }

    /// The preset of a name; `foldable`, `live` and `adaptive-sgm` are the former names.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPreset`].
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "bakeable" | "foldable" => Ok(Self::bakeable()),
            "conditional" | "live" => Ok(Self::conditional()),
            "conditional-sgm" | "adaptive-sgm" => Ok(Self::conditional_sgm()),
            "causal-sgm" => Ok(Self::causal_sgm()),
            "causal-bakeable" => Ok(Self::causal_bakeable()),
            "causal-conditional" => Ok(Self::causal_conditional()),
            _ => Err(Error::UnknownPreset { kind: "preset", name: name.to_owned(), known: Self::NAMES.join(", ") }),
        }
    }

    /// Fits the glasses to one calibration.
    ///
    /// # Errors
    ///
    /// The errors of [`Calibrator::fit`], [`Calibrator::steer`], [`Calibrator::condition`] and of blending.
    pub fn fit<M: Mllm>(&self, model: &M, calibrator: &Calibrator) -> Result<Intervention> {
        let fitted = self.components.iter().map(|(component, weight)| Ok((calibrator.fit(model, component)?, *weight)));
        let fitted = fitted.collect::<Result<Vec<_>>>()?;
        let mut glasses = match fitted.as_slice() {
            [(only, 1.0)] => only.clone(),
            fitted => Intervention::blend(&fitted.iter().map(|(component, weight)| (component, *weight)).collect::<Vec<_>>())?,
        };
        if let Some(steering) = &self.steering {
            let steered = calibrator.steer(model, steering, &glasses)?;
            glasses = Intervention::blend(&[(&glasses, 1.0), (&steered, 1.0)])?;
        }
        if let Some(rate) = self.false_positive_rate {
            glasses.condition = Some(calibrator.condition(model, rate)?);
        }
        Ok(glasses)
    }
}

fn transports() -> [Component; 2] {
    [Component::Incremental(Transport::linear_act(), Preset::TEXT), Component::Incremental(Transport::mean_act(), Preset::PROMPT)]
}

fn causal_experts() -> Component {
    Component::CausalExperts(CausalExperts::default())
}

/// Conditional patch neurons in all layers but the first, whose input depends little on earlier tokens.
fn conditional_patches() -> Component {
    let settings = ConditionalPatches { false_positive_rate: 0.2, layers: Some(1..=usize::MAX), ..ConditionalPatches::default() };
    Component::ConditionalPatches(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_preset_of_its_own() {
        let presets = Preset::NAMES.map(|name| Preset::named(name).unwrap());
        for (i, preset) in presets.iter().enumerate() {
            assert_eq!(presets.iter().position(|p| p == preset), Some(i));
        }
        for (former, name) in ["foldable", "live", "adaptive-sgm"].into_iter().zip(Preset::NAMES) {
            assert_eq!(Preset::named(former).unwrap(), Preset::named(name).unwrap());
        }
        assert!(Preset::named("adaptive").unwrap_err().to_string().contains("conditional-sgm"));
    }
}
