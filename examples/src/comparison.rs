//! The rows of the comparison: glasses and defences by name, with their settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use sgm::core::Intervention;
use sgm::defend::DefenceStack;
use sgm::models::Mllm;
use sgm::suppress::{Budget, Calibrator, Component, Preset, SuppressionRule, Transport};

/// A row of the comparison: its name, and the defences around the model.
pub type Row = (String, DefenceStack);

/// The names of all rows, with their defences. A row whose name is that of glasses wears these, any other the glasses `conditional`.
pub const ROWS: [(&str, &str); 17] = [
    ("none", "none"),
    ("det0", "sgm"),
    ("damp", "sgm"),
    ("aura", "sgm"),
    ("linear-act", "sgm"),
    ("sgm", "sgm"),
    ("bakeable", "sgm"),
    ("conditional-sgm", "sgm"),
    ("conditional", "sgm"),
    ("causal-sgm", "sgm"),
    ("causal-bakeable", "sgm"),
    ("causal-conditional", "sgm"),
    ("self-reminder", "self-reminder"),
    ("ecso", "ecso"),
    ("eta", "eta"),
    ("eta+sgm", "eta+sgm"),
    ("filter+sgm", "filter+sgm"),
];

/// The rows that answer what most people ask first: no glasses, AurA, SGM, both presets, and the best combination with another defence.
pub const MAIN_ROWS: [&str; 6] = ["none", "aura", "sgm", "bakeable", "conditional", "filter+sgm"];

/// The rows within a budget: no glasses, SGM, and the presets of causal experts.
pub const ROWS_WITHIN_A_BUDGET: [&str; 5] = ["none", "sgm", "causal-sgm", "causal-bakeable", "causal-conditional"];

/// Former names of rows.
const FORMER: [(&str, &str); 3] = [("foldable", "bakeable"), ("live", "conditional"), ("adaptive-sgm", "conditional-sgm")];

/// The row of a name, or of a stack of defences such as `self-reminder+ecso+sgm`.
///
/// # Errors
///
/// For a name that is neither.
pub fn row(name: &str) -> Result<Row> {
    let name = FORMER.iter().find(|(former, _)| *former == name).map_or(name, |(_, name)| name);
    let defences = ROWS.iter().find(|(row, _)| *row == name).map_or(name, |(_, defences)| defences);
    let known = || format!("no row `{name}`: it is none of {}, and no stack of defences", ROWS.map(|(row, _)| row).join(", "));
    Ok((name.to_owned(), defences.parse().map_err(|error| anyhow::Error::from(error).context(known()))?))
}

/// The rows of a comparison: those named, or else all, or the main ones with or without a budget, and further ones.
///
/// # Errors
///
/// For a name of no row.
pub fn rows(named: &[String], all: bool, budget: bool, further: &[String]) -> Result<Vec<Row>> {
    let names: Vec<&str> = match (named.is_empty(), all, budget) {
        (false, ..) => named.iter().map(String::as_str).collect(),
        (true, true, _) => ROWS.iter().map(|(name, _)| *name).collect(),
        (true, false, false) => MAIN_ROWS.to_vec(),
        (true, false, true) => ROWS_WITHIN_A_BUDGET.to_vec(),
    };
    names.into_iter().chain(further.iter().map(String::as_str)).map(row).collect()
}

/// The glasses that a row wears, by name.
pub fn glasses_of((name, defences): &Row) -> Option<&str> {
    let own = ROWS.iter().any(|(row, defences)| row == name && *defences == "sgm");
    defences.wears_glasses().then_some(if own { name } else { "conditional" })
}

/// The names of the glasses that rows wear.
pub fn names_of_glasses(rows: &[Row]) -> BTreeSet<&str> {
    rows.iter().filter_map(glasses_of).collect()
}

/// Fits glasses by name: conditions hold for at most a share of benign prompts, and with a budget the strength is the largest within it.
///
/// # Errors
///
/// Those of the fit.
pub fn fit<M: Mllm>(model: &M, calibrator: &Calibrator, name: &str, gate_rate: f64, budget: Option<&Budget>) -> Result<Intervention> {
    let soft = |rule| calibrator.fit(model, &Component::Soft(rule));
    let glasses = match name {
        "det0" => soft(SuppressionRule::det0(50)),
        "damp" => soft(SuppressionRule::damp(0.5, 200)),
        "aura" => soft(SuppressionRule::aura()),
        "sgm" => soft(SuppressionRule::sgm()),
        "linear-act" => {
            let component = Component::AtOnce(Transport::linear_act(), Preset::TEXT);
            // A budget chooses the strength; without one, half was the best on the organism.
            Ok(calibrator.fit(model, &component)?.with_strength(if budget.is_some() { 1.0 } else { 0.5 })?)
        }
        preset => {
            let preset = Preset::named(preset)?;
            let false_positive_rate = preset.false_positive_rate.map(|_| gate_rate);
            Preset { false_positive_rate, ..preset }.fit(model, calibrator)
        }
    }?;
    Ok(match budget {
        None => glasses,
        Some(budget) => calibrator.within(model, &glasses, budget)?,
    })
}

/// The file of a row's glasses.
pub fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{}.sgm.safetensors", if name == "sgm" { "glasses" } else { name }))
}

/// The glasses in a directory that an earlier run wrote, under their present names.
///
/// # Errors
///
/// Those of reading them.
pub fn load(directory: &Path) -> Result<BTreeMap<String, Intervention>> {
    let mut glasses = BTreeMap::new();
    for (former, name) in FORMER.into_iter().chain(ROWS.iter().map(|(name, _)| (*name, *name))) {
        let file = file(directory, former);
        if file.exists() {
            glasses.insert(name.to_owned(), Intervention::load(file)?);
        }
    }
    Ok(glasses)
}

/// What to run after a comparison whose files are in `out`.
pub fn next_steps(out: &Path) -> String {
    let out = out.display();
    format!(
        "Next: `cargo run --release --example glasses -- --full` compares all rows over three seeds;
`--example bake -- --model organism --intervention {out}/bakeable.sgm.safetensors --out BAKED` writes a checkpoint for other engines;
`--model DIR --manifest FILE.jsonl --judge lexicon:WORDS.txt` does all this on your model (docs/getting-started.md)."
    )
}
