use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sgm_core::{Expertise, Intervention, Projection, Schedule, Site, SiteIntervention};

use crate::{Error, Result};

/// Turns expertise into scales: which neurons are experts, and how strongly each is suppressed.
///
/// With a = AUROC of a neuron, a selected expert's scale is
/// `clamp(max(0, 1 - strength * (2a - 1))^exponent, floor, 1)`, or a constant; every other neuron's is 1.
///
/// The presets `det0`, `damp` and `aura` are those of AurA (arXiv 2407.12824). The equations of SGM (arXiv
/// 2512.15052) are not public beyond its abstract: the preset `sgm` is a **reconstruction** of its
/// "expertise-weighted soft suppression" of a small set of experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// The operator's name in tables and files.
    pub name: String,
    /// Which neurons are experts.
    pub selection: Selection,
    /// What happens to an expert.
    pub response: Response,
    /// How much of that happens in each layer; all of it if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

/// Which neurons are experts: those that pass every test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The AUROC an expert must exceed.
    pub threshold: f32,
    /// Only neurons above the `k`-th value, counted from 0, of the descending AUROCs of all neurons of
    /// all sites; ties at that value select fewer than `k` (AurA's `num_experts`).
    pub top_k: Option<usize>,
    /// Only the first layers, as a share of all in 0..=1, rounded to whole layers.
    pub depth: f32,
    /// Only these layers; all if none are given.
    pub layers: Option<BTreeSet<usize>>,
    /// Only these projections, by their checkpoint names; all if none are given.
    pub projections: Option<BTreeSet<String>>,
    /// Whether neurons that respond *less* to toxic input are experts too: one with AUROC a below 0.5 is then taken as one with
    /// 1 - a. Off in every preset: such a neuron detects non-toxic input, and what suppressing it does to toxicity is an open question.
    #[serde(default)]
    pub negative: bool,
}

/// The scale of an expert.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The same scale for every expert.
    Constant(f32),
    /// The better the expert, the smaller the scale.
    Soft {
        /// How strongly expertise counts: 0 changes nothing, 1 silences a perfect detector.
        strength: f32,
        /// Above 1, middling experts are suppressed more.
        exponent: f32,
        /// The smallest scale.
        floor: f32,
    },
    /// `1 - 2 (a - 0.5)` without bounds: below AUROC 0.5 it amplifies, up to a scale of 2.
    Unbounded,
}

impl Default for Selection {
    /// Every neuron that is better than chance.
    fn default() -> Self {
        Self { threshold: 0.5, top_k: None, depth: 1.0, layers: None, projections: None, negative: false }
    }
}

impl Operator {
    /// The presets, as [`preset`](Self::preset) knows them.
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
            _ => Err(Error::UnknownPreset { kind: "operator", name: name.to_owned(), known: Self::PRESETS.join(", ") }),
        }
    }

    /// Silences the `k` best detectors (Det_zero of the AurA paper).
    pub fn det0(k: usize) -> Self {
        Self::new("det0", top(k), Response::Constant(0.0))
    }

    /// Multiplies the `k` best detectors by `factor` (Damp of the AurA paper).
    pub fn damp(factor: f32, k: usize) -> Self {
        Self::new("damp", top(k), Response::Constant(factor))
    }

    /// Scales every neuron better than chance by `1 - 2 (a - 0.5)` (AurA).
    pub fn aura() -> Self {
        Self::new("aura", Selection::default(), Response::Soft { strength: 1.0, exponent: 1.0, floor: 0.0 })
    }

    /// AurA as a public revision for multimodal models has it: every neuron above 0.3 is scaled by `1 - 2 (a - 0.5)`, unbounded, so
    /// that those between 0.3 and 0.5 are **amplified** by up to 1.4.
    ///
    /// For comparison only. What applies its interventions refuses them unless [`Amplify::Allow`](crate::Amplify::Allow) is given.
    pub fn aura_vl() -> Self {
        Self::new("aura_vl", Selection { threshold: 0.3, ..Selection::default() }, Response::Unbounded)
    }

    /// Soft suppression of a small set of experts: the reconstruction of SGM.
    ///
    /// Neurons of `gate_proj` and `up_proj` in the first five sixths of the layers whose AUROC is above 0.72 are
    /// scaled by `(2 (1 - a))^2.5`. These settings were chosen on the dev split of the model organism, where the
    /// last layers turned out to carry fluency more than toxicity; another model deserves a search of its own
    /// ([`Operator::soft`]).
    pub fn sgm() -> Self {
        let mut sgm = Self { name: "sgm".to_owned(), ..Self::soft(0.72, 2.5) };
        sgm.selection.depth = 5.0 / 6.0;
        sgm.selection.projections = Some([Projection::Gate, Projection::Up].map(|p| p.name().to_owned()).into());
        sgm
    }

    /// Soft suppression of the neurons whose AUROC exceeds `threshold`, to the power of `exponent`.
    pub fn soft(threshold: f32, exponent: f32) -> Self {
        let selection = Selection { threshold, ..Selection::default() };
        Self::new("soft", selection, Response::Soft { strength: 1.0, exponent, floor: 0.0 })
    }

    fn new(name: &str, selection: Selection, response: Response) -> Self {
        Self { name: name.to_owned(), selection, response, schedule: None }
    }

    /// The intervention on every site of an expertise: scale 1 where a neuron is no expert.
    ///
    /// The expertise and its metadata are kept in the intervention.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a parameter is out of range, or `top_k` is not below the number of eligible neurons;
    /// [`Error::Core`] when the schedule is none.
    pub fn intervention(&self, expertise: &Expertise) -> Result<Intervention> {
        self.build(expertise, &|_, _| true, serde_json::json!(self))
    }

    /// The same with experts only among the neurons of a set, such as those that pass a false-discovery rate in `sgm-score`:
    /// `operator.among(&expertise, "q <= 0.05", |site, neuron| experts.contains(site, neuron))`.
    ///
    /// The operator's own selection still applies, within the set. `described` says in the file's metadata, under `among` of the
    /// operator, what the set is.
    ///
    /// # Errors
    ///
    /// As [`intervention`](Self::intervention).
    pub fn among(&self, expertise: &Expertise, described: &str, set: impl Fn(Site, usize) -> bool) -> Result<Intervention> {
        let mut operator = serde_json::json!(self);
        if let Some(entries) = operator.as_object_mut() {
            entries.insert("among".to_owned(), described.into());
        }
        self.build(expertise, &set, operator)
    }

    fn build(&self, expertise: &Expertise, set: &dyn Fn(Site, usize) -> bool, operator: serde_json::Value) -> Result<Intervention> {
        let sites = self.eligible(expertise);
        let eligible = |site: Site, neuron: usize| sites.contains(&site) && set(site, neuron);
        let detection = |auroc: f32| if self.selection.negative { auroc.max(1.0 - auroc) } else { auroc };
        let mut neurons = Vec::new();
        for (site, e) in expertise.sites() {
            neurons.extend(e.auroc.iter().enumerate().filter(|(neuron, _)| eligible(*site, *neuron)).map(|(_, a)| detection(*a)));
        }
        self.check(neurons.len())?;
        let threshold = self.threshold(neurons);
        let mut metadata = expertise.metadata.clone();
        metadata.operator = Some(operator);
        metadata.positions = Some("all".to_owned());
        let mut intervention = Intervention::new(metadata);
        for (site, e) in expertise.sites() {
            let scale = |(neuron, auroc): (usize, &f32)| {
                let a = detection(*auroc);
                if a > threshold && eligible(*site, neuron) { self.response.scale(a) } else { 1.0 }
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

    /// The sites whose neurons may be experts at all.
    fn eligible(&self, expertise: &Expertise) -> BTreeSet<Site> {
        let s = &self.selection;
        let layers = expertise.sites().keys().map(|site| site.layer + 1).max().unwrap_or(0) as f32;
        let eligible = |site: &Site| {
            (site.layer as f32) < (s.depth * layers).round()
                && s.layers.as_ref().is_none_or(|l| l.contains(&site.layer))
                && s.projections.as_ref().is_none_or(|p| p.contains(site.projection.name()))
        };
        expertise.sites().keys().copied().filter(eligible).collect()
    }

    /// The AUROC that an expert must exceed, from the threshold and the top-k rule.
    fn threshold(&self, mut neurons: Vec<f32>) -> f32 {
        let Some(k) = self.selection.top_k else { return self.selection.threshold };
        neurons.sort_unstable_by(|a, b| b.total_cmp(a));
        neurons.get(k).map_or(self.selection.threshold, |kth| kth.max(self.selection.threshold))
    }

    fn check(&self, neurons: usize) -> Result<()> {
        self.schedule.as_ref().map_or(Ok(()), Schedule::check)?;
        let refuse = |parameter, value: String, expected| Err(Error::Parameter { operator: self.name.clone(), parameter, value, expected });
        let s = &self.selection;
        if !(0.0..=1.0).contains(&s.threshold) {
            return refuse("threshold", s.threshold.to_string(), "a number from 0 to 1");
        }
        if !(0.0..=1.0).contains(&s.depth) {
            return refuse("depth", s.depth.to_string(), "a number from 0 to 1");
        }
        if let Some(k) = s.top_k
            && k >= neurons
        {
            return refuse("top_k", k.to_string(), "fewer than there are neurons");
        }
        if let Some(name) = s.projections.iter().flatten().find(|name| Projection::ALL.iter().all(|p| p.name() != **name)) {
            return refuse("projections", name.clone(), "gate_proj, up_proj or down_proj");
        }
        match self.response {
            Response::Constant(scale) if !(0.0..=1.0).contains(&scale) => {
                refuse("factor", scale.to_string(), "a number from 0 to 1; above 1 it would amplify")
            }
            Response::Soft { strength, .. } if !(strength.is_finite() && strength >= 0.0) => {
                refuse("strength", strength.to_string(), "a number from 0 up; below 0 it would amplify")
            }
            Response::Soft { exponent, .. } if !(exponent.is_finite() && exponent > 0.0) => {
                refuse("exponent", exponent.to_string(), "a number above 0")
            }
            Response::Soft { floor, .. } if !(0.0..=1.0).contains(&floor) => refuse("floor", floor.to_string(), "a number from 0 to 1"),
            _ => Ok(()),
        }
    }
}

fn top(k: usize) -> Selection {
    // AurA's rule has no threshold beside the top-k one.
    Selection { threshold: 0.0, top_k: Some(k), ..Selection::default() }
}

impl Response {
    /// The scale of an expert with the given AUROC; f32 arithmetic, as in the reference.
    pub fn scale(self, auroc: f32) -> f32 {
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
