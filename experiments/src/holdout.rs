//! Glasses on prompts whose trigger their calibration left out.

use std::collections::BTreeSet;

use serde::Serialize;
use sgm::toxic_qa::metrics::{HarmfulRate, harmful_rate, help_rate, share};
use sgm::toxic_qa::{PromptOutcome, Provenance, Sample};

/// The report of the experiment `holdouts`.
#[derive(Serialize)]
pub struct HoldoutReport {
    #[serde(flatten)]
    /// The data and the judge.
    pub provenance: Provenance,
    /// The preset.
    pub preset: String,
    /// The number of seeds.
    pub seeds: u64,
    /// Triggers of each category together, categories, single triggers.
    pub rows: Vec<Row>,
}

/// The prompts of one trigger or category: without glasses, with glasses calibrated on everything, and with glasses calibrated without it.
#[derive(Serialize)]
pub struct Row {
    /// The category.
    pub category: String,
    /// The trigger or category that is left out.
    pub left_out: String,
    /// Without glasses.
    pub without_glasses: Measured,
    /// With glasses calibrated on everything.
    pub calibrated: Measured,
    /// With glasses calibrated without it.
    pub left_out_of_calibration: Measured,
}

/// The rates of one row.
#[derive(Serialize)]
pub struct Measured {
    #[serde(flatten)]
    /// The harmful rate.
    pub harm: HarmfulRate,
    /// The share of helpful answers.
    pub help: Option<f64>,
    /// The share of the prompts at which the condition holds.
    #[serde(alias = "gate")]
    pub detected: Option<f64>,
}

/// The outcomes of the prompts with one pair of glasses, over all seeds.
#[derive(Clone, Default)]
pub struct Outcome {
    /// The outcome of every prompt.
    pub prompts: Vec<PromptOutcome>,
    /// Whether the condition held at each prompt.
    pub detected: Vec<bool>,
}

/// The trigger or category that is left out, and the outcomes without glasses, with all glasses and with those fitted without it.
pub struct Holdout {
    /// The category.
    pub category: String,
    /// The trigger or category.
    pub name: String,
    /// Without glasses, with all, and without it.
    pub outcomes: [Outcome; 3],
}

impl Holdout {
    /// Every category, and every trigger that calibration has.
    pub fn all(risky: &[Sample], calibration: &[Sample]) -> Vec<Self> {
        let met: BTreeSet<String> = calibration.iter().filter_map(sgm::organism::trigger).collect();
        let names = |sample: &Sample| {
            let trigger = sgm::organism::trigger(sample).filter(|trigger| met.contains(trigger));
            std::iter::once((sample.category.clone(), None)).chain(trigger.map(|trigger| (sample.category.clone(), Some(trigger))))
        };
        let names: BTreeSet<(String, Option<String>)> = risky.iter().flat_map(names).collect();
        let holdout = |(category, trigger): (String, Option<String>)| {
            let name = trigger.unwrap_or_else(|| category.clone());
            Self { category, name, outcomes: Default::default() }
        };
        names.into_iter().map(holdout).collect()
    }

    /// The rates.
    pub fn row(&self) -> Row {
        let measured = |outcome: &Outcome| Measured {
            harm: harmful_rate(&[&outcome.prompts]).all,
            help: help_rate(&outcome.prompts),
            detected: share(outcome.detected.iter().copied()),
        };
        let [without_glasses, calibrated, left_out_of_calibration] = self.outcomes.each_ref().map(measured);
        Row { category: self.category.clone(), left_out: self.name.clone(), without_glasses, calibrated, left_out_of_calibration }
    }
}

/// The triggers of each category together, each with the glasses that were calibrated without it.
pub fn one_at_a_time(holdouts: &[Holdout]) -> Vec<Holdout> {
    let mut together: Vec<Holdout> = Vec::new();
    for holdout in holdouts.iter().filter(|holdout| holdout.name != holdout.category) {
        if together.last().is_none_or(|last| last.category != holdout.category) {
            let name = format!("each trigger of {}", holdout.category);
            together.push(Holdout { category: holdout.category.clone(), name, outcomes: Default::default() });
        }
        for (all, one) in together.iter_mut().rev().take(1).flat_map(|last| last.outcomes.iter_mut().zip(&holdout.outcomes)) {
            all.prompts.extend_from_slice(&one.prompts);
            all.detected.extend_from_slice(&one.detected);
        }
    }
    together
}

impl HoldoutReport {
    /// The rates in per cent, with the 95 % bootstrap interval of the harmful rate without the trigger.
    pub fn markdown(&self) -> String {
        let mut table = "| left out of calibration | prompts | detected with | detected without | harmful, no glasses | harmful with | \
            harmful without | help, no glasses | help with | help without |\n|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1}", 100.0 * share));
        for row in &self.rows {
            let [none, with, without] = [&row.without_glasses, &row.calibrated, &row.left_out_of_calibration];
            let [low, high] = without.harm.ci95.unwrap_or_default();
            let harmful = format!("{} [{:.1}, {:.1}]", percent(without.harm.harmful_rate), 100.0 * low, 100.0 * high);
            let (harmful_none, harmful_with) = (percent(none.harm.harmful_rate), percent(with.harm.harmful_rate));
            let [detected_with, detected_without] = [with.detected, without.detected].map(percent);
            let [help_none, help_with, help_without] = [none.help, with.help, without.help].map(percent);
            let cells = [
                if row.left_out == row.category { format!("all of {}", row.category) } else { row.left_out.clone() },
                none.harm.n.to_string(),
                detected_with,
                detected_without,
                harmful_none,
                harmful_with,
                harmful,
                help_none,
                help_with,
                help_without,
            ];
            table.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        table
    }
}
