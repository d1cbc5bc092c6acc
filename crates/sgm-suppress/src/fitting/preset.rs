//! Presets: named combinations of components and a condition.

use sgm_capture::{Pool, Pooling};
use sgm_core::{Intervention, TokenSelection};
use sgm_models::Mllm;
use sgm_score::binomial_at_most;

use crate::{Budget, Calibrator, CausalExperts, CausalSteering, Component, ConditionalPatches, Error, Result, SuppressionRule, Transport};

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
/// let budget = Budget::default();
/// Preset::bakeable().fit_within(model, &calibrator, &budget)?.save("bakeable.sgm.safetensors")?; // for `bake`
/// let conditional = Preset::conditional().fit_within(model, &calibrator, &budget)?;
/// let glasses = ConditionalGlasses::wear(model, &conditional, Amplify::Refuse)?;
/// # drop(glasses);
/// # Ok(()) }
/// ```
///
/// At full strength these glasses do too much on most models. [`fit_within`](Self::fit_within) finds the strength that suits a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// The components to [blend](Intervention::blend), with their weights.
    pub components: Vec<(Component, f32)>,
    /// Components that [`fit_within`](Self::fit_within) adds if fewer answers are toxic with them.
    pub reinforcement: Vec<(Component, f32)>,
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

    /// Glasses for checkpoints: conditional patch neurons with the shifts of causal steering, which act where they detect risk; and causal
    /// experts where these leave toxic answers.
    pub fn bakeable() -> Self {
        // Four times what they are fitted with is more than most models bear, so that the budget does not end there.
        let components = vec![(causal_patches(), 4.0)];
        Self { components, reinforcement: Self::causal_sgm().components, false_positive_rate: None }
    }

    /// Glasses for running models: the same neurons with half the weight, and causal experts, under a condition.
    pub fn conditional() -> Self {
        let components = [Self::causal_sgm().components, vec![(causal_patches(), 2.0)]].concat();
        Self { components, reinforcement: Vec::new(), false_positive_rate: Some(Self::FALSE_POSITIVE_RATE) }
    }

    /// Soft suppression under a condition, stronger than would be acceptable for all prompts.
    pub fn conditional_sgm() -> Self {
        let components = vec![(Component::Soft(SuppressionRule::soft(0.6, 2.0)), 1.0)];
        Self { components, reinforcement: Vec::new(), false_positive_rate: Some(Self::FALSE_POSITIVE_RATE) }
    }

    /// One component, which always acts.
    pub fn of(component: Component) -> Self {
        Self { components: vec![(component, 1.0)], reinforcement: Vec::new(), false_positive_rate: None }
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

    /// Fits the glasses to one calibration, at full strength and without the reinforcement.
    ///
    /// # Errors
    ///
    /// The errors of [`Calibrator::fit`], [`Calibrator::condition`] and of blending.
    pub fn fit<M: Mllm>(&self, model: &M, calibrator: &Calibrator) -> Result<Intervention> {
        self.blend(model, calibrator, &self.components)
    }

    /// Fits the glasses at the largest strength within a budget, as [`Calibrator::within`].
    ///
    /// If there is a reinforcement and the judge finds [answers with the glasses](Calibrator::toxic_answers) toxic, the glasses are fitted
    /// again with it, within the same budget. They are taken if fewer answers to the same prompts are toxic with them, by a one-sided exact
    /// McNemar's test at the confidence of the budget. This takes at least five toxic answers at 95 %; with fewer, they are not tried. The
    /// counts are in the metadata entry `toxic_answers`.
    ///
    /// # Errors
    ///
    /// Those of [`fit`](Self::fit), [`Calibrator::within`] and [`Calibrator::toxic_answers`]. A reinforcement that cannot be fitted, or of
    /// which no strength keeps within the budget, is left out.
    pub fn fit_within<M: Mllm>(&self, model: &M, calibrator: &Calibrator, budget: &Budget) -> Result<Intervention> {
        let mut glasses = calibrator.within(model, &self.fit(model, calibrator)?, budget)?;
        if self.reinforcement.is_empty() {
            return Ok(glasses);
        }
        let before = calibrator.toxic_answers(model, &glasses, budget)?;
        let mut record = format!("{} of {} to risky prompts of calibration", toxic(&before), before.len());
        // McNemar's test: of the answers that only one of both makes toxic, half are expected to be of either.
        let p_value = |mended: usize, new: usize| binomial_at_most(new, mended + new, 0.5);
        let significant = |p_value: f64| p_value <= 1.0 - budget.confidence;
        if significant(p_value(toxic(&before), 0))
            && let Some(reinforced) = self.reinforced(model, calibrator, budget)?
        {
            let after = calibrator.toxic_answers(model, &reinforced, budget)?;
            let p_value = p_value(toxic_in_first(&before, &after), toxic_in_first(&after, &before));
            tracing::info!(without = toxic(&before), with = toxic(&after), of = after.len(), p_value, "toxic answers and a reinforcement");
            record = format!("{record}, {} with the reinforcement (p = {p_value:.4})", toxic(&after));
            if significant(p_value) {
                glasses = reinforced;
            }
        }
        glasses.metadata.other.insert("toxic_answers".to_owned(), record);
        Ok(glasses)
    }

    /// The glasses with the reinforcement within a budget; `None` if it cannot be fitted, or no strength keeps within the budget.
    fn reinforced<M: Mllm>(&self, model: &M, calibrator: &Calibrator, budget: &Budget) -> Result<Option<Intervention>> {
        let components = [self.components.as_slice(), &self.reinforcement].concat();
        let blended = self.blend(model, calibrator, &components);
        match blended.and_then(|glasses| calibrator.within(model, &glasses, budget)) {
            Err(error @ (Error::NoDose { .. } | Error::NoCausalEffects { .. })) => {
                tracing::info!(%error, "there is no reinforcement");
                Ok(None)
            }
            reinforced => reinforced.map(Some),
        }
    }

    /// Some components under the condition.
    fn blend<M: Mllm>(&self, model: &M, calibrator: &Calibrator, components: &[(Component, f32)]) -> Result<Intervention> {
        let fitted = components.iter().map(|(component, weight)| Ok((calibrator.fit(model, component)?, *weight)));
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

/// The number of toxic answers.
fn toxic(verdicts: &[Option<bool>]) -> usize {
    verdicts.iter().filter(|verdict| **verdict == Some(true)).count()
}

/// The number of prompts whose first answer alone is toxic.
fn toxic_in_first(first: &[Option<bool>], second: &[Option<bool>]) -> usize {
    first.iter().zip(second).filter(|pair| matches!(pair, (Some(true), Some(false)))).count()
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
