//! Presets: named combinations of components and a condition.

use sgm_capture::{Pool, Pooling};
use sgm_core::{Intervention, TokenSelection};
use sgm_models::Mllm;

use crate::{Calibrator, CausalExperts, CausalSteering, Component, ConditionalPatches, Error, Result, SuppressionRule, Transport};

/// A specification for glasses: the components to fit, their weights, and the condition.
///
/// ```no_run
/// # fn example(model: &impl sgm_models::Mllm, [samples, neutral]: [Vec<sgm_capture::Example>; 2]) -> sgm_suppress::Result<()> {
/// use sgm_capture::Capture;
/// use sgm_core::Amplify;
/// use sgm_suppress::{Budget, Calibrator, ConditionalGlasses, Preset};
///
/// let capture = Capture { batch_size: 16, ..Capture::new(vec![Preset::TEXT]) };
/// let calibrator = Calibrator::capture(model, samples, capture)?.with_neutral(neutral);
/// let calibrator = calibrator.with_judge(|answers| Ok(answers.iter().map(|answer| Some(answer.response.contains("fool"))).collect()));
/// let within = |preset: Preset| calibrator.within(model, &preset.fit(model, &calibrator)?, &Budget::default());
/// within(Preset::bakeable())?.save("bakeable.sgm.safetensors")?; // for `bake`
/// let conditional = within(Preset::conditional())?;
/// let glasses = ConditionalGlasses::wear(model, &conditional, Amplify::Refuse)?;
/// # drop(glasses);
/// # Ok(()) }
/// ```
///
/// At full strength these glasses do too much on most models. [`Calibrator::within`] finds the strength that suits a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// The components to [blend](Intervention::blend), with their weights.
    pub components: Vec<(Component, f32)>,
    /// The share of benign prompts at which the condition may hold; the glasses always act without it.
    pub false_positive_rate: Option<f64>,
}

impl Preset {
    /// The names of all presets: suppression by expertise, transport, and what is fitted to causal effects.
    pub const NAMES: [&'static str; 10] =
        ["det0", "damp", "aura", "linear-act", "mean-act", "sgm", "conditional-sgm", "causal-sgm", "bakeable", "conditional"];
    /// Former names, with the present ones.
    pub const FORMER: [(&'static str, &'static str); 3] =
        [("foldable", "bakeable"), ("live", "conditional"), ("adaptive-sgm", "conditional-sgm")];
    /// The share of benign prompts at which the conditions of presets may hold.
    pub const FALSE_POSITIVE_RATE: f64 = 0.02;
    /// The pooling for transport fitted to all text.
    pub const TEXT: Pooling = Pooling { pool: Pool::Mean, tokens: TokenSelection::Text };

    /// Suppression of the neurons that cause toxic answers: plain scales.
    pub fn causal_sgm() -> Self {
        Self::of(Component::CausalExperts(CausalExperts::default()))
    }

    /// Glasses for checkpoints: conditional patch neurons with the shifts of causal steering. They act where they detect risk.
    pub fn bakeable() -> Self {
        // Four times what they are fitted with is more than most models bear, so that the budget does not end there.
        Self { components: vec![(causal_patches(), 4.0)], false_positive_rate: None }
    }

    /// Glasses for running models: the same neurons with half the weight, and causal experts, under a condition.
    pub fn conditional() -> Self {
        let components = [Self::causal_sgm().components, vec![(causal_patches(), 2.0)]].concat();
        Self { components, false_positive_rate: Some(Self::FALSE_POSITIVE_RATE) }
    }

    /// Soft suppression under a condition, stronger than would be acceptable for all prompts.
    pub fn conditional_sgm() -> Self {
        let components = vec![(Component::Soft(SuppressionRule::soft(0.6, 2.0)), 1.0)];
        Self { components, false_positive_rate: Some(Self::FALSE_POSITIVE_RATE) }
    }

    /// One component, which always acts.
    pub fn of(component: Component) -> Self {
        Self { components: vec![(component, 1.0)], false_positive_rate: None }
    }

    /// The same with another rate for the condition, if it has one.
    #[must_use]
    pub fn with_false_positive_rate(self, rate: f64) -> Self {
        Self { false_positive_rate: self.false_positive_rate.map(|_| rate), ..self }
    }

    /// The present name of a preset.
    pub fn present_name(name: &str) -> &str {
        Self::FORMER.iter().find(|(former, _)| *former == name).map_or(name, |(_, present)| present)
    }

    /// The preset of a name, present or former: `det0` of the best 50 neurons, `damp` of the best 200 by 0.5, `aura` and `sgm` as
    /// [`SuppressionRule`]s; `linear-act` and `mean-act` as [`Transport`]s of the mean over all text; and the others.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPreset`].
    pub fn named(name: &str) -> Result<Self> {
        match Self::present_name(name) {
            rule @ ("det0" | "damp" | "aura" | "sgm") => Ok(Self::of(Component::Soft(SuppressionRule::preset(rule)?))),
            "linear-act" => Ok(Self::of(Component::AtOnce(Transport::linear_act(), Self::TEXT))),
            "mean-act" => Ok(Self::of(Component::AtOnce(Transport::mean_act(), Self::TEXT))),
            "bakeable" => Ok(Self::bakeable()),
            "conditional" => Ok(Self::conditional()),
            "conditional-sgm" => Ok(Self::conditional_sgm()),
            "causal-sgm" => Ok(Self::causal_sgm()),
            _ => Err(Error::UnknownPreset { kind: "preset", name: name.to_owned(), known: Self::NAMES.join(", ") }),
        }
    }

    /// Fits the glasses to one calibration.
    ///
    /// # Errors
    ///
    /// The errors of [`Calibrator::fit`], [`Calibrator::condition`] and of blending.
    pub fn fit<M: Mllm>(&self, model: &M, calibrator: &Calibrator) -> Result<Intervention> {
        let fitted = self.components.iter().map(|(component, weight)| Ok((calibrator.fit(model, component)?, *weight)));
        let fitted = fitted.collect::<Result<Vec<_>>>()?;
        let mut glasses = match fitted.as_slice() {
            [(only, 1.0)] => only.clone(),
            fitted => Intervention::blend(&fitted.iter().map(|(component, weight)| (component, *weight)).collect::<Vec<_>>())?,
        };
        if let Some(rate) = self.false_positive_rate {
            glasses.condition = Some(calibrator.condition(model, rate)?);
        }
        Ok(glasses)
    }
}

/// Conditional patch neurons in all layers but the first, whose input depends little on earlier tokens.
fn causal_patches() -> Component {
    let settings = ConditionalPatches { false_positive_rate: 0.2, layers: Some(1..=usize::MAX), ..ConditionalPatches::default() };
    Component::CausalPatches(settings, CausalSteering::default())
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
        for (former, name) in [("foldable", "bakeable"), ("live", "conditional"), ("adaptive-sgm", "conditional-sgm")] {
            assert_eq!(Preset::named(former).unwrap(), Preset::named(name).unwrap());
        }
        assert_eq!(Preset::named("damp").unwrap(), Preset::of(Component::Soft(SuppressionRule::damp(0.5, 200))));
        assert_eq!(Preset::named("det0").unwrap(), Preset::of(Component::Soft(SuppressionRule::det0(50))));
        assert_eq!(Preset::conditional().with_false_positive_rate(0.1).false_positive_rate, Some(0.1));
        assert_eq!(Preset::bakeable().with_false_positive_rate(0.1), Preset::bakeable());
        assert!(Preset::named("adaptive").unwrap_err().to_string().contains("conditional-sgm"));
    }
}
