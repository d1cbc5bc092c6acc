//! The rows of the comparison: glasses and defences by name, with their settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sgm::core::Intervention;
use sgm::defend::DefenceStack;
use sgm::models::Mllm;
use sgm::suppress::{Budget, Calibrator, Preset};

use crate::budget_arguments::positive;

/// A row of the comparison: its name, and the defences around the model.
pub type Row = (String, DefenceStack);

/// Rows that are stacks of defences; `sgm` in them is the glasses `conditional`.
const STACKS: [&str; 5] = ["self-reminder", "ecso", "eta", "eta+sgm", "filter+sgm"];

/// The rows that answer what most people ask first: no glasses, SGM, and the presets.
pub const MAIN_ROWS: [&str; 5] = ["none", "sgm", "causal-sgm", "bakeable", "conditional"];

/// The names of all rows.
fn all_rows() -> impl Iterator<Item = &'static str> {
    std::iter::once("none").chain(Preset::NAMES).chain(STACKS)
}

/// The row of a name, of glasses within a budget of their own such as `bakeable@0.005`, or of a stack of defences such as
/// `self-reminder+ecso+sgm`.
///
/// # Errors
///
/// For a name that is none of these.
pub fn row(name: &str) -> Result<Row> {
    if let Some((glasses, nats)) = name.split_once('@') {
        let (glasses, defences) = row(glasses)?;
        ensure!(own_glasses(&glasses), "`{name}` has a budget, but `{glasses}` is no row of glasses; leave `@{nats}` out");
        budget_of(nats)?;
        return Ok((format!("{glasses}@{nats}"), defences));
    }
    let name = Preset::present_name(name);
    let defences = if own_glasses(name) { "sgm" } else { name };
    let known = || format!("no row `{name}`: it is none of {}, and no stack of defences", all_rows().collect::<Vec<_>>().join(", "));
    Ok((name.to_owned(), defences.parse().map_err(|error| anyhow::Error::from(error).context(known()))?))
}

/// The rows of a comparison: those named, or else all, or the main ones, and further ones.
///
/// # Errors
///
/// For a name of no row.
pub fn rows(named: &[String], all: bool, further: &[String]) -> Result<Vec<Row>> {
    let names: Vec<&str> = match (named.is_empty(), all) {
        (false, _) => named.iter().map(String::as_str).collect(),
        (true, true) => all_rows().collect(),
        (true, false) => MAIN_ROWS.to_vec(),
    };
    names.into_iter().chain(further.iter().map(String::as_str)).map(row).collect()
}

/// The glasses that a row wears, by name.
pub fn glasses_of((name, defences): &Row) -> Option<&str> {
    defences.wears_glasses().then_some(if own_glasses(name) { name } else { "conditional" })
}

/// Whether a row is named after its glasses.
fn own_glasses(name: &str) -> bool {
    let glasses = name.split_once('@').map_or(name, |(glasses, _)| glasses);
    Preset::NAMES.contains(&glasses)
}

/// The budget of so many nats.
fn budget_of(nats: &str) -> Result<Budget> {
    let divergence = positive(nats).with_context(|| format!("a budget of {nats:?}; expected a number above 0"))?;
    Ok(Budget { divergence, ..Budget::default() })
}

/// The names of the glasses that rows wear.
pub fn names_of_glasses(rows: &[Row]) -> BTreeSet<&str> {
    rows.iter().filter_map(glasses_of).collect()
}

/// Fits glasses by name: conditions hold for at most a share of benign prompts, and with a budget, that of the name first, the strength is the
/// largest within it.
///
/// # Errors
///
/// Those of the fit.
pub fn fit<M: Mllm>(model: &M, calibrator: &Calibrator, name: &str, gate_rate: f64, budget: Option<&Budget>) -> Result<Intervention> {
    let (name, own) = match name.split_once('@') {
        Some((name, nats)) => (name, Some(budget_of(nats)?)),
        None => (name, None),
    };
    let glasses = Preset::named(name)?.with_false_positive_rate(gate_rate).fit(model, calibrator)?;
    Ok(match own.as_ref().or(budget) {
        None => glasses,
        Some(budget) => calibrator.within(model, &glasses, budget)?,
    })
}

/// The directory of the glasses of a seed, in that of a comparison: those of seed 0 lie beside the report.
pub fn directory_of(comparison: &Path, seed: u64) -> PathBuf {
    if seed == 0 { comparison.to_owned() } else { comparison.join(format!("seed-{seed}")) }
}

/// The file of a row's glasses.
pub fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{}.sgm.safetensors", if name == "sgm" { "glasses" } else { name }))
}

/// The glasses of some names in a directory that an earlier run wrote, maybe under former names.
///
/// # Errors
///
/// Those of reading them, and when there are none of a name.
pub fn load(directory: &Path, names: &BTreeSet<&str>) -> Result<BTreeMap<String, Intervention>> {
    let mut glasses = BTreeMap::new();
    for name in names {
        let former = Preset::FORMER.iter().filter(|(_, present)| present == name).map(|(former, _)| *former);
        let mut files = std::iter::once(*name).chain(former).map(|name| file(directory, name));
        let none = || format!("no glasses `{name}` in {}; leave the row out, or take fewer seeds", directory.display());
        glasses.insert((*name).to_owned(), Intervention::load(files.find(|file| file.exists()).with_context(none)?)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_glasses_may_have_a_budget_of_their_own() {
        let own = row("foldable@0.005").unwrap();
        assert_eq!((own.0.as_str(), glasses_of(&own)), ("bakeable@0.005", Some("bakeable@0.005")));
        assert_eq!(glasses_of(&row("filter+sgm").unwrap()), Some("conditional"));
        assert_eq!(glasses_of(&row("none").unwrap()), None);
        for (wrong, part) in
            [("none@0.01", "leave `@0.01` out"), ("filter+sgm@0.01", "no row of glasses"), ("bakeable@0", "above 0"), ("x@1", "no row")]
        {
            let error = format!("{:#}", row(wrong).unwrap_err());
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }
}
