//! The rows of the comparison: glasses and defences by name, with their settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use sgm::core::{Dose, Intervention};
use sgm::models::Mllm;
use sgm::suppress::{Operator, Transport};

use crate::experiment::Calibrated;

/// The rows of the table: a name, and the defence behind it; a name that [`glasses`] knows wears those.
pub(crate) const ROWS: [(&str, &str); 13] = [
    ("none", "none"),
    ("det0", "sgm"),
    ("damp", "sgm"),
    ("aura", "sgm"),
    ("linear-act", "sgm"),
    ("sgm", "sgm"),
    ("adaptive-sgm", "sgm"),
    ("adaptive", "sgm"),
    ("self-reminder", "self-reminder"),
    ("ecso", "ecso"),
    ("eta", "eta"),
    ("eta+sgm", "eta+sgm"),
    ("filter+sgm", "filter+sgm"),
];

/// The share of benign prompts that adaptive glasses may act on.
pub(crate) const FALSE_POSITIVE_RATE: f64 = 0.02;

/// What is plainly risky is changed more.
const DOSE: Dose = Dose { least: 0.65, from: 0.0, full: 13.0 };

/// The glasses of one calibration, by the names of their rows.
pub(crate) fn glasses<M: Mllm>(model: &M, calibrated: &Calibrated) -> Result<BTreeMap<&'static str, Intervention>> {
    let expertise = calibrated.expertise()?;
    let mut glasses = BTreeMap::new();
    for (name, operator) in
        [("det0", Operator::det0(50)), ("damp", Operator::damp(0.5, 200)), ("aura", Operator::aura()), ("sgm", Operator::sgm())]
    {
        glasses.insert(name, operator.intervention(&expertise)?);
    }
    glasses.insert("linear-act", Transport::linear_act().intervention(&calibrated.text_mean()?)?.with_strength(0.5)?);
    // Stronger than what is bearable at all times.
    let probe = calibrated.probe(FALSE_POSITIVE_RATE)?;
    let soft = Operator::soft(0.6, 2.0).intervention(&expertise)?;
    let transport = calibrated.blend(model)?;
    for (name, mut intervention, dose) in [("adaptive-sgm", soft, None), ("adaptive", transport, Some(DOSE))] {
        let mut probe = probe.clone();
        probe.dose = dose;
        intervention.probe = Some(probe);
        glasses.insert(name, intervention);
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
