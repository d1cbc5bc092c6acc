//! What glasses do about the prompts that were left out of their calibration.

use std::collections::BTreeSet;

use serde::Serialize;
use sgm::toxic_qa::metrics::{HarmfulRate, harmful_rate, help_rate, share};
use sgm::toxic_qa::{PromptOutcome, Provenance, Sample};

#[derive(Serialize)]
pub(crate) struct HoldoutReport {
    #[serde(flatten)]
    pub(crate) provenance: Provenance,
    pub(crate) preset: String,
    pub(crate) seeds: u64,
    pub(crate) rows: Vec<Row>,
}

/// The prompts of what is left out: without glasses, with glasses calibrated on everything, and with those that have never met it.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) category: String,
    pub(crate) left_out: String,
    pub(crate) without_glasses: Measured,
    pub(crate) calibrated: Measured,
    pub(crate) left_out_of_calibration: Measured,
}

#[derive(Serialize)]
pub(crate) struct Measured {
    #[serde(flatten)]
    pub(crate) harm: HarmfulRate,
    pub(crate) help: Option<f64>,
    /// The share of the prompts for which the gate opens.
    pub(crate) gate: Option<f64>,
}

/// What became of the prompts under one pair of glasses, over all seeds.
#[derive(Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) prompts: Vec<PromptOutcome>,
    pub(crate) opened: Vec<bool>,
}

/// What is left out, and the outcomes without glasses, with all glasses and with those fitted without it.
pub(crate) struct Holdout {
    pub(crate) category: String,
    pub(crate) name: String,
    pub(crate) outcomes: [Outcome; 3],
}

impl Holdout {
    /// Every category, and every trigger that calibration has.
    pub(crate) fn all(risky: &[Sample], calibration: &[Sample]) -> Vec<Self> {
        let met: BTreeSet<String> = calibration.iter().filter_map(Sample::trigger).collect();
        let names = |sample: &Sample| {
            let trigger = sample.trigger().filter(|trigger| met.contains(trigger));
            std::iter::once((sample.category.clone(), None)).chain(trigger.map(|trigger| (sample.category.clone(), Some(trigger))))
        };
        let names: BTreeSet<(String, Option<String>)> = risky.iter().flat_map(names).collect();
        let holdout = |(category, trigger): (String, Option<String>)| {
            let name = trigger.unwrap_or_else(|| category.clone());
            Self { category, name, outcomes: Default::default() }
        };
        names.into_iter().map(holdout).collect()
    }

    /// What was measured, in figures.
    pub(crate) fn row(&self) -> Row {
        let measured = |outcome: &Outcome| Measured {
            harm: harmful_rate(&[&outcome.prompts]).all,
            help: help_rate(&outcome.prompts),
            gate: share(outcome.opened.iter().copied()),
        };
        let [without_glasses, calibrated, left_out_of_calibration] = self.outcomes.each_ref().map(measured);
        Row { category: self.category.clone(), left_out: self.name.clone(), without_glasses, calibrated, left_out_of_calibration }
    }
}

/// The triggers of each category together, each with the glasses that have never met it.
pub(crate) fn one_at_a_time(holdouts: &[Holdout]) -> Vec<Holdout> {
    let mut together: Vec<Holdout> = Vec::new();
    for holdout in holdouts.iter().filter(|holdout| holdout.name != holdout.category) {
        if together.last().is_none_or(|last| last.category != holdout.category) {
            let name = format!("each trigger of {}", holdout.category);
            together.push(Holdout { category: holdout.category.clone(), name, outcomes: Default::default() });
        }
        for (all, one) in together.iter_mut().rev().take(1).flat_map(|last| last.outcomes.iter_mut().zip(&holdout.outcomes)) {
            all.prompts.extend_from_slice(&one.prompts);
            all.opened.extend_from_slice(&one.opened);
        }
    }
    together
}

impl HoldoutReport {
    /// Figures in per cent, with the 95 % bootstrap interval of what counts.
    pub(crate) fn markdown(&self) -> String {
        let mut table = "| left out of calibration | prompts | gate with | gate without | harmful, no glasses | harmful with | \
            harmful without | help, no glasses | help with | help without |\n|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1}", 100.0 * share));
        for row in &self.rows {
            let [none, with, without] = [&row.without_glasses, &row.calibrated, &row.left_out_of_calibration];
            let [low, high] = without.harm.ci95.unwrap_or_default();
            let harmful = format!("{} [{:.1}, {:.1}]", percent(without.harm.harmful_rate), 100.0 * low, 100.0 * high);
            let (harmful_none, harmful_with) = (percent(none.harm.harmful_rate), percent(with.harm.harmful_rate));
            let [gate_with, gate_without] = [with.gate, without.gate].map(percent);
            let [help_none, help_with, help_without] = [none.help, with.help, without.help].map(percent);
            let cells = [
                if row.left_out == row.category { format!("all of {}", row.category) } else { row.left_out.clone() },
                none.harm.n.to_string(),
                gate_with,
                gate_without,
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
