//! The rows of the comparison: glasses and defences by name, with their settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use sgm::core::Intervention;
use sgm::defend::Recipe;
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

/// Those of the glasses of one calibration that rows need: those of their names, and `live` for defences of another name.
pub(crate) fn glasses<M: Mllm>(
    model: &M,
    calibrated: &Calibrated,
    rows: &[(&str, Recipe)],
) -> Result<BTreeMap<&'static str, Intervention>> {
    let soft = [("det0", Operator::det0(50)), ("damp", Operator::damp(0.5, 200)), ("aura", Operator::aura()), ("sgm", Operator::sgm())];
    let names: Vec<&'static str> = soft.iter().map(|(name, _)| *name).chain(["linear-act"]).chain(Preset::NAMES).collect();
    let worn_by = |row: &str| names.iter().copied().find(|name| *name == row).unwrap_or("live");
    let needed: BTreeSet<&str> = rows.iter().filter(|(_, defence)| defence.wears_glasses()).map(|(row, _)| worn_by(row)).collect();
    let fit = |name: &'static str| -> Result<Intervention> {
        Ok(match soft.iter().find(|(soft, _)| *soft == name) {
            Some((_, operator)) => calibrated.fit(model, &Map::Soft(operator.clone()))?,
            None if name == "linear-act" => {
                calibrated.fit(model, &Map::AtOnce(Transport::linear_act(), Preset::TEXT))?.with_strength(0.5)?
            }
            None => Preset::named(name)?.fit(model, calibrated)?,
        })
    };
    names.iter().filter(|name| needed.contains(**name)).map(|name| Ok((*name, fit(name)?))).collect()
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
