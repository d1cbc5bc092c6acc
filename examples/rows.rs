//! The rows of the comparison: glasses and defences by name, with their settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sgm::core::Intervention;
use sgm::models::Mllm;
use sgm::suppress::{Calibrated, Map, Operator, Preset, Transport};

/// The rows of the table: a name, and the defence behind it; a name that [`glasses`] knows wears those.
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

/// The glasses of one calibration, by the names of their rows.
pub(crate) fn glasses<M: Mllm>(model: &M, calibrated: &Calibrated) -> Result<BTreeMap<&'static str, Intervention>> {
    let mut glasses = BTreeMap::new();
    for (name, operator) in
        [("det0", Operator::det0(50)), ("damp", Operator::damp(0.5, 200)), ("aura", Operator::aura()), ("sgm", Operator::sgm())]
    {
        glasses.insert(name, calibrated.fit(model, &Map::Soft(operator))?);
    }
    glasses.insert("linear-act", calibrated.fit(model, &Map::AtOnce(Transport::linear_act(), Preset::TEXT))?.with_strength(0.5)?);
    for name in Preset::NAMES {
        glasses.insert(name, Preset::named(name)?.fit(model, calibrated)?);
    }
    Ok(glasses)
}

/// Where a run keeps the glasses of a row.
pub(crate) fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{}.sgm.safetensors", if name == "sgm" { "glasses" } else { name }))
}

/// The glasses that a run kept.
pub(crate) fn load(directory: &Path) -> Result<BTreeMap<&'static str, Intervention>> {
    let kept = ROWS.into_iter().map(|(name, _)| (name, file(directory, name))).filter(|(_, file)| file.exists());
    kept.map(|(name, file)| Ok((name, Intervention::load(file)?))).collect()
}
