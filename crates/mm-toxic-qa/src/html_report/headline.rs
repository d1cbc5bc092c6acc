//! The table of a report, and its finding in a sentence.

use super::budget::Budget;
use super::document::{Block, Cell, Section, Table, percent};
use crate::metrics::HarmfulRate;
use crate::{Report, Run};

pub(super) fn section(report: &Report, budget: &Budget) -> Section {
    let cell = |(column, text)| if column == 0 { Cell::new(text) } else { Cell::with_detail(text) };
    let rows = report.rows().into_iter().map(|cells| cells.into_iter().enumerate().map(cell).collect()).collect();
    let mut table = Table { head: report.head(), rows, prose: false };
    mark_best(&mut table, report);
    let best = table.rows.iter().flatten().any(|cell| cell.best).then(|| "Marked: the best of the runs with an intervention.".to_owned());
    let mut blocks = vec![Block::Table(table)];
    blocks.extend(report.notes().into_iter().chain(best).map(|text| Block::Note { text }));
    if let Some(text) = finding(report, budget) {
        blocks.insert(0, Block::Finding { text });
    }
    Section { id: "summary", title: "Summary", blocks }
}

/// Whether a run is the model without an intervention.
pub(super) fn is_base(run: &Run) -> bool {
    run.name == "none"
}

/// Marks the best value of every column, apart from the model without an intervention, which costs nothing by definition.
fn mark_best(table: &mut Table, report: &Report) {
    type Value = fn(&Run) -> Option<f64>;
    // Lower is better.
    let columns: [(usize, Value); 6] = [
        (1, |run| run.standard.all.harmful_rate),
        (2, |run| run.adversarial.all.harmful_rate),
        (3, |run| run.help_standard.map(|share| -share)),
        (4, |run| run.help_adversarial.map(|share| -share)),
        (5, |run| run.perplexity),
        (6, |run| run.vqa_accuracy.map(|share| -share)),
    ];
    if report.runs.iter().filter(|run| !is_base(run)).count() < 2 {
        return;
    }
    for (column, value) in columns {
        let measured = report.runs.iter().enumerate().filter(|(_, run)| !is_base(run)).filter_map(|(row, run)| Some((row, value(run)?)));
        let Some((best, _)) = measured.min_by(|(_, a), (_, b)| a.total_cmp(b)) else { continue };
        let Some(text) = table.rows.get(best).and_then(|row| row.get(column)).map(|cell| cell.text.clone()) else { continue };
        // Equal texts are equally good.
        for (row, _) in table.rows.iter_mut().zip(&report.runs).filter(|(_, run)| !is_base(run)) {
            row.get_mut(column).filter(|cell| cell.text == text).into_iter().for_each(|cell| cell.best = true);
        }
    }
}

/// The run with the least harm within the budget, the run with the least harm of all, and the costs of both.
fn finding(report: &Report, budget: &Budget) -> Option<String> {
    let base = report.run("none");
    let least = |runs: &mut dyn Iterator<Item = &'_ Run>| -> Option<String> {
        let measured = runs.filter_map(|run| Some((run.harm()?, &run.name)));
        measured.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name.clone())
    };
    let others = || report.runs.iter().filter(|run| !is_base(run));
    let overall = report.run(&least(&mut others())?)?;
    let Some(base) = base else { return Some(format!("{} leaves the least harm: {}.", overall.name, rates(overall))) };
    let limits = format!("at most {} % more perplexity and {} points less VQA", rounded(budget.perplexity), rounded(budget.vqa));
    let against = format!("against {} without intervention", numbers(base));
    let Some(within) = least(&mut others().filter(|run| budget.holds(run, base))).and_then(|name| report.run(&name)) else {
        let cost = cost(overall, base);
        return Some(format!("No run has {limits}. {} leaves the least harm: {}, {against}{cost}.", overall.name, rates(overall)));
    };
    let (name, cost_within) = (&within.name, cost(within, base));
    let mut text = format!("Of the runs with {limits}, {name} leaves the least harm: {}, {against}{cost_within}", rates(within));
    if overlap(&within.standard.all, &base.standard.all) || overlap(&within.adversarial.all, &base.adversarial.all) {
        text += "; the intervals overlap, so that this may be chance";
    }
    text += ".";
    if within.name != overall.name {
        text += &format!(" {} leaves less, {}{}.", overall.name, numbers(overall), cost(overall, base));
    }
    Some(text)
}

/// The harmful rates of a run.
fn numbers(run: &Run) -> String {
    let rates = [&run.standard.all, &run.adversarial.all].into_iter().filter_map(|rate| rate.harmful_rate);
    rates.map(|rate| format!("{} %", percent(rate))).collect::<Vec<_>>().join(" and ")
}

/// The harmful rates of a run with the names of the prompts.
fn rates(run: &Run) -> String {
    let of = |rate: &HarmfulRate, prompts| rate.harmful_rate.map(|rate| format!("{} % of {prompts}", percent(rate)));
    let rates = [of(&run.standard.all, "standard"), of(&run.adversarial.all, "adversarial")].into_iter().flatten();
    format!("{} prompts", rates.collect::<Vec<_>>().join(" and "))
}

fn cost(run: &Run, base: &Run) -> String {
    let perplexity = run.perplexity_change(base).map(|change| format!("{:+.1} % perplexity", 100.0 * change));
    let vqa = run.vqa_change(base).map(|change| format!("{:+.1} points of VQA", 100.0 * change));
    let costs: Vec<String> = [perplexity, vqa].into_iter().flatten().collect();
    if costs.is_empty() { String::new() } else { format!(", at {}", costs.join(" and ")) }
}

fn rounded(share: f64) -> f64 {
    (1000.0 * share).round() / 10.0
}

fn overlap(a: &HarmfulRate, b: &HarmfulRate) -> bool {
    matches!((a.ci95, b.ci95), (Some([a_low, a_high]), Some([b_low, b_high])) if a_low <= b_high && b_low <= a_high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Provenance;
    use crate::metrics::Harm;

    fn harm(rate: f64) -> Harm {
        let all = HarmfulRate { harmful_rate: Some(rate), ci95: Some([rate - 0.03, rate + 0.03]), n: 100, n_unparsed: 0 };
        Harm { all, ..Harm::default() }
    }

    fn run(name: &str, [standard, adversarial, perplexity, vqa]: [f64; 4]) -> Run {
        Run {
            name: name.into(),
            standard: harm(standard),
            adversarial: harm(adversarial),
            perplexity: Some(perplexity),
            vqa_accuracy: Some(vqa),
            ..Run::default()
        }
    }

    fn sentence(runs: Vec<Run>) -> String {
        finding(&Report::new(Provenance::default(), runs), &Budget::default()).unwrap()
    }

    #[test]
    fn the_finding_weighs_harm_against_the_budget() {
        let none = || run("none", [0.484, 0.908, 2.0, 0.77]);
        let (sgm, aura) = (|| run("sgm", [0.116, 0.37, 2.08, 0.75]), || run("aura", [0.09, 0.34, 2.4, 0.70]));
        assert_eq!(
            sentence(vec![none(), aura(), sgm()]),
            "Of the runs with at most 5 % more perplexity and 2 points less VQA, sgm leaves the least harm: 11.6 % of standard and 37.0 % \
             of adversarial prompts, against 48.4 % and 90.8 % without intervention, at +4.0 % perplexity and -2.0 points of VQA. aura \
             leaves less, 9.0 % and 34.0 %, at +20.0 % perplexity and -7.0 points of VQA."
        );
        assert!(sentence(vec![none(), aura()]).starts_with("No run has at most"));
        assert!(sentence(vec![none(), run("weak", [0.47, 0.6, 2.0, 0.77])]).contains("may be chance"));
        assert_eq!(sentence(vec![aura()]), "aura leaves the least harm: 9.0 % of standard and 34.0 % of adversarial prompts.");
        assert_eq!(finding(&Report::new(Provenance::default(), vec![none(), Run::default()]), &Budget::default()), None);
    }

    #[test]
    fn the_best_are_marked_ties_among_them() {
        let runs = vec![
            run("none", [0.01, 0.9, 1.0, 0.9]),
            run("a", [0.1, 0.3, 1.2, 0.7]),
            run("b", [0.10001, 0.2, 1.1, 0.7]),
            run("c", [0.3, 0.4, 1.3, 0.6]),
        ];
        let section = section(&Report::new(Provenance::default(), runs), &Budget::default());
        let Some(Block::Table(table)) = section.blocks.get(1) else { panic!("{section:?}") };
        let best: Vec<Vec<usize>> =
            table.rows.iter().map(|row| row.iter().enumerate().filter(|(_, cell)| cell.best).map(|(column, _)| column).collect()).collect();
        assert_eq!(best, [vec![], vec![1, 6], vec![1, 2, 5, 6], vec![]]);
    }
}
