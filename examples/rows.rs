//! The rows of the comparison: glasses and defences by name, with their settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sgm::core::{Dose, Intervention, Schedule};
use sgm::models::Mllm;
use sgm::suppress::{Operator, Sentinels, Transport};

use crate::experiment::{Calibrated, Map, PROMPT_MEAN, TEXT_MEAN};

/// The rows of the table: a name, and the defence behind it; a name that [`glasses`] knows wears those.
#[allow(dead_code, reason = "other examples have rows of their own")]
pub(crate) const ROWS: [(&str, &str); 15] = [
    ("none", "none"),
    ("det0", "sgm"),
    ("damp", "sgm"),
    ("aura", "sgm"),
    ("linear-act", "sgm"),
    ("sgm", "sgm"),
    ("foldable", "sgm"),
    ("adaptive-sgm", "sgm"),
    ("adaptive", "sgm"),
    ("live", "sgm"),
    ("self-reminder", "self-reminder"),
    ("ecso", "ecso"),
    ("eta", "eta"),
    ("eta+sgm", "eta+sgm"),
    ("filter+sgm", "filter+sgm"),
];

/// The share of benign prompts that adaptive glasses may act on.
pub(crate) const FALSE_POSITIVE_RATE: f64 = 0.02;

/// Glasses to be fitted: what they change, and when.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preset {
    /// What is blended, with its weights.
    pub(crate) maps: Vec<(Map, f32)>,
    /// How strongly each layer is changed; in full if not given.
    pub(crate) schedule: Option<Schedule>,
    /// The share of benign prompts that the gate may let through; always on if not given.
    pub(crate) gate: Option<f64>,
    /// How the strength grows with the probe's log-odds.
    pub(crate) dose: Option<Dose>,
}

/// The presets whose ingredients are worth taking apart, by the names of their rows.
pub(crate) fn presets() -> BTreeMap<&'static str, Preset> {
    let text = Map::Incremental(Transport::linear_act(), TEXT_MEAN);
    let prompt = Map::Incremental(Transport::mean_act(), PROMPT_MEAN);
    // The first layer knows little of what came before a token.
    let sentinels = Map::Sentinels(Sentinels { false_positive_rate: 0.2, layers: Some(1..=usize::MAX), ..Sentinels::default() });
    let foldable = Preset { maps: vec![(sentinels.clone(), 1.25)], schedule: None, gate: None, dose: None };
    let adaptive = Preset {
        maps: vec![(text.clone(), 0.94), (prompt.clone(), 0.94)],
        schedule: None,
        gate: Some(FALSE_POSITIVE_RATE),
        // What is plainly risky is changed more.
        dose: Some(Dose { least: 0.65, from: 0.0, full: 13.0 }),
    };
    let live = Preset { maps: vec![(text, 0.6), (prompt, 0.6), (sentinels, 0.9)], gate: Some(FALSE_POSITIVE_RATE), ..foldable.clone() };
    // Stronger than what is bearable at all times.
    let soft = Preset { maps: vec![(Map::Soft(Operator::soft(0.6, 2.0)), 1.0)], ..live.clone() };
    [("foldable", foldable), ("live", live), ("adaptive", adaptive), ("adaptive-sgm", soft)].into()
}

impl Preset {
    /// The preset of a name.
    #[allow(dead_code, reason = "some examples fit them all")]
    pub(crate) fn of(name: &str) -> Result<Self> {
        let mut presets = presets();
        let names: Vec<&str> = presets.keys().copied().collect();
        presets.remove(name).with_context(|| format!("no preset `{name}`; there are {}", names.join(", ")))
    }

    /// The glasses of one calibration.
    pub(crate) fn fit<M: Mllm>(&self, model: &M, calibrated: &Calibrated) -> Result<Intervention> {
        let maps = self.maps.iter().map(|(map, weight)| Ok((calibrated.fit(model, map)?, *weight))).collect::<Result<Vec<_>>>()?;
        let mut glasses = match maps.as_slice() {
            [(map, 1.0)] => map.clone(),
            maps => Intervention::blend(&maps.iter().map(|(map, weight)| (map, *weight)).collect::<Vec<_>>())?,
        };
        if let Some(schedule) = &self.schedule {
            glasses = glasses.with_schedule(schedule)?;
        }
        if let Some(rate) = self.gate {
            let mut probe = calibrated.probe(rate)?;
            probe.dose = self.dose;
            glasses.probe = Some(probe);
        }
        Ok(glasses)
    }
}

/// The glasses of one calibration, by the names of their rows.
#[allow(dead_code, reason = "other examples have rows of their own")]
pub(crate) fn glasses<M: Mllm>(model: &M, calibrated: &Calibrated) -> Result<BTreeMap<&'static str, Intervention>> {
    let mut glasses = BTreeMap::new();
    for (name, operator) in
        [("det0", Operator::det0(50)), ("damp", Operator::damp(0.5, 200)), ("aura", Operator::aura()), ("sgm", Operator::sgm())]
    {
        glasses.insert(name, calibrated.fit(model, &Map::Soft(operator))?);
    }
    glasses.insert("linear-act", calibrated.fit(model, &Map::AtOnce(Transport::linear_act(), TEXT_MEAN))?.with_strength(0.5)?);
    for (name, preset) in presets() {
        glasses.insert(name, preset.fit(model, calibrated)?);
    }
    Ok(glasses)
}

/// Where a run keeps the glasses of a row.
#[allow(dead_code, reason = "other examples have rows of their own")]
pub(crate) fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{}.sgm.safetensors", if name == "sgm" { "glasses" } else { name }))
}

/// The glasses that a run kept.
#[allow(dead_code, reason = "other examples have rows of their own")]
pub(crate) fn load(directory: &Path) -> Result<BTreeMap<&'static str, Intervention>> {
    let kept = ROWS.into_iter().map(|(name, _)| (name, file(directory, name))).filter(|(_, file)| file.exists());
    kept.map(|(name, file)| Ok((name, Intervention::load(file)?))).collect()
}
