//! Suppression rules, which turn expertise into scales.

use serde::{Deserialize, Serialize};
use sgm_core::{Expertise, Intervention, Projection, Schedule, Site, SiteIntervention};
use sgm_score::Selection;

use crate::{Error, Result};

/// A rule that turns expertise into scales: the selection of experts, and the scale of each.
///
/// With a = AUROC of a neuron, a selected expert's scale is
/// `clamp(max(0, 1 - strength * (2a - 1))^exponent, floor, 1)`, or a constant; every other neuron's is 1.
///
/// The presets `det0`, `damp` and `aura` are those of AurA (arXiv 2407.12824). The equations of SGM (arXiv
/// 2512.15052) are not public beyond its abstract: the preset `sgm` is a **reconstruction** of its
/// "expertise-weighted soft suppression" of a small set of experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuppressionRule {
    /// The rule's name in tables and files.
    pub name: String,
    /// The selection of experts.
    pub selection: Selection,
    /// The scale of an expert.
    #[serde(alias = "response")]
    pub scale: ExpertScale,
    /// The strength of the suppression in each layer; 1 without a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

/// The scale of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpertScale {
    /// The same scale for every expert.
    Constant(f32),
    /// A scale that decreases with the expert's AUROC.
    Soft {
        /// The effect of expertise: 0 changes nothing, 1 silences a perfect detector.
        strength: f32,
        /// The power; above 1, moderate experts are suppressed more.
        exponent: f32,
        /// The smallest scale.
        floor: f32,
    },
    /// `1 - 2 (a - 0.5)` without bounds: below AUROC 0.5 it amplifies, up to a scale of 2.
    Unbounded,
}

impl SuppressionRule {
    /// The names of the presets.
    pub const PRESETS: [&'static str; 5] = ["det0", "damp", "aura", "aura_vl", "sgm"];

    /// The preset of a name: `det0` of the best 50 neurons, `damp` of the best 200 by 0.5, `aura`, `aura_vl`, `sgm`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPreset`] listing the names.
    pub fn preset(name: &str) -> Result<Self> {
        match name {
            "det0" => Ok(Self::det0(50)),
            "damp" => Ok(Self::damp(0.5, 200)),
            "aura" => Ok(Self::aura()),
            "aura_vl" => Ok(Self::aura_vl()),
            "sgm" => Ok(Self::sgm()),
            _ => Err(Error::UnknownPreset { kind: "rule", name: name.to_owned(), known: Self::PRESETS.join(", ") }),
        }
    }

    /// Silences the `k` best detectors (Det_zero of the AurA paper).
    pub fn det0(k: usize) -> Self {
        Self::new("det0", Selection::top_k(k), ExpertScale::Constant(0.0))
    }

    /// Multiplies the `k` best detectors by `factor` (Damp of the AurA paper).
    pub fn damp(factor: f32, k: usize) -> Self {
        Self::new("damp", Selection::top_k(k), ExpertScale::Constant(factor))
    }

    /// Scales every neuron better than chance by `1 - 2 (a - 0.5)` (AurA).
    pub fn aura() -> Self {
        Self::new("aura", Selection::default(), ExpertScale::Soft { strength: 1.0, exponent: 1.0, floor: 0.0 })
    }

    /// AurA in a public revision for multimodal models: every neuron above 0.3 is scaled by `1 - 2 (a - 0.5)`, unbounded, so that neurons
    /// between 0.3 and 0.5 are **amplified** by up to 1.4.
    ///
    /// For comparison only: its interventions are refused unless [`Amplify::Allow`](sgm_core::Amplify::Allow) is given.
    pub fn aura_vl() -> Self {
        Self::new("aura_vl", Selection::threshold(0.3), ExpertScale::Unbounded)
    }

    /// Soft suppression of a small set of experts: the reconstruction of SGM.
    ///
    /// Neurons of `gate_proj` and `up_proj` in the first five sixths of the layers whose AUROC is above 0.72 are scaled by
    /// `(2 (1 - a))^2.5`. These settings were chosen on the dev split of the model organism, whose last layers carry fluency more than
    /// toxicity; for other models they should be searched again ([`SuppressionRule::soft`]).
    pub fn sgm() -> Self {
        let mut sgm = Self { name: "sgm".to_owned(), ..Self::soft(0.72, 2.5) };
        sgm.selection.depth = 5.0 / 6.0;
        sgm.selection.projections = Some([Projection::Gate, Projection::Up].into());
        sgm
    }

    /// Soft suppression of the neurons whose AUROC exceeds `threshold`, to the power of `exponent`.
    pub fn soft(threshold: f32, exponent: f32) -> Self {
        Self::new("soft", Selection::threshold(threshold), ExpertScale::Soft { strength: 1.0, exponent, floor: 0.0 })
    }

    /// Changes settings of a [soft](ExpertScale::Soft) scale; those that are not given stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a setting is given and the scale is not soft.
    pub fn set_soft_scale(&mut self, strength: Option<f32>, exponent: Option<f32>, floor: Option<f32>) -> Result<()> {
        let given = [("strength", strength), ("exponent", exponent), ("floor", floor)];
        match &mut self.scale {
            ExpertScale::Soft { strength, exponent, floor } => {
                for (setting, (_, given)) in [strength, exponent, floor].into_iter().zip(given) {
                    *setting = given.unwrap_or(*setting);
                }
                Ok(())
            }
            _ => match given.into_iter().find_map(|(name, value)| Some((name, value?))) {
                None => Ok(()),
                Some((name, value)) => {
                    let expected = "none, because the scale of this rule is not soft; use a schedule to weaken it".to_owned();
                    Err(self.out_of_range(name, value.to_string(), expected))
                }
            },
        }
    }

    fn new(name: &str, selection: Selection, scale: ExpertScale) -> Self {
        Self { name: name.to_owned(), selection, scale, schedule: None }
    }

    /// The intervention on every site of an expertise, with scale 1 for neurons that are not experts.
    ///
    /// The intervention records the expertise and its metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a parameter is out of range, or `top_k` is not below the number of eligible neurons;
    /// [`Error::Score`] when selection by false-discovery rate lacks standard errors; [`Error::Core`] when the schedule is out of range.
    pub fn intervention(&self, expertise: &Expertise) -> Result<Intervention> {
        self.build(expertise, &|_, _| true, serde_json::json!(self))
    }

    /// The intervention with experts from a set of neurons only, such as those of another selection:
    /// `rule.among(&expertise, "q <= 0.05", |site, neuron| experts.contains(site, neuron))`.
    ///
    /// The rule's own selection applies within the set. `described` names the set in the metadata, as `among` of the method.
    ///
    /// # Errors
    ///
    /// As [`intervention`](Self::intervention).
    pub fn among(&self, expertise: &Expertise, described: &str, set: impl Fn(Site, usize) -> bool) -> Result<Intervention> {
        let mut method = serde_json::json!(self);
        if let Some(entries) = method.as_object_mut() {
            entries.insert("among".to_owned(), described.into());
        }
        self.build(expertise, &set, method)
    }

    fn build(&self, expertise: &Expertise, set: &dyn Fn(Site, usize) -> bool, method: serde_json::Value) -> Result<Intervention> {
        self.check()?;
        let experts = self.selection.experts_among(expertise, set).map_err(|error| match error {
            sgm_score::Error::Parameter { parameter, value, expected } => self.out_of_range(parameter, value, expected),
            other => Error::Score(other),
        })?;
        let mut metadata = expertise.metadata.clone();
        metadata.method = Some(method);
        let mut intervention = Intervention::new(metadata);
        for (site, e) in expertise.sites() {
            let scale = |(neuron, auroc): (usize, &f32)| {
                if experts.contains(*site, neuron) { self.scale.of(self.selection.detection(*auroc)) } else { 1.0 }
            };
            let scale = e.auroc.iter().enumerate().map(scale).collect();
            let kept = SiteIntervention { scale, shift: None, auroc: Some(e.auroc.clone()), auroc_se: e.auroc_se.clone() };
            intervention.insert(*site, kept)?;
        }
        Ok(match &self.schedule {
            Some(schedule) => intervention.with_schedule(schedule)?,
            None => intervention,
        })
    }

    fn check(&self) -> Result<()> {
        self.schedule.as_ref().map_or(Ok(()), Schedule::check)?;
        let refuse = |parameter, value: f32, expected: &str| Err(self.out_of_range(parameter, value.to_string(), expected.to_owned()));
        match self.scale {
            ExpertScale::Constant(scale) if !(0.0..=1.0).contains(&scale) => {
                refuse("factor", scale, "a number from 0 to 1; above 1 it would amplify")
            }
            ExpertScale::Soft { strength, .. } if !(strength.is_finite() && strength >= 0.0) => {
                refuse("strength", strength, "a number from 0 up; below 0 it would amplify")
            }
            ExpertScale::Soft { exponent, .. } if !(exponent.is_finite() && exponent > 0.0) => {
                refuse("exponent", exponent, "a number above 0")
            }
            ExpertScale::Soft { floor, .. } if !(0.0..=1.0).contains(&floor) => refuse("floor", floor, "a number from 0 to 1"),
            _ => Ok(()),
        }
    }

    fn out_of_range(&self, parameter: &'static str, value: String, expected: String) -> Error {
        Error::Parameter { rule: self.name.clone(), parameter, value, expected }
    }
}

impl ExpertScale {
    /// The scale of an expert with the given AUROC; in f32 arithmetic, like the reference implementation.
    pub fn of(self, auroc: f32) -> f32 {
        match self {
            Self::Constant(scale) => scale,
            Self::Soft { strength, exponent, floor } => {
                let linear = (1.0 - strength * (2.0 * (auroc - 0.5))).max(0.0);
                let soft = if exponent == 1.0 { linear } else { linear.powf(exponent) };
                soft.clamp(floor, 1.0)
            }
            Self::Unbounded => 1.0 - 2.0 * (auroc - 0.5),
        }
    }
}
