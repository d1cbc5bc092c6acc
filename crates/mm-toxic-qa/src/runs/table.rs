//! The report as a table for terminals and as a Markdown table.

use crate::metrics::HarmfulRate;
use crate::{Report, Run};

const HEAD: [&str; 7] =
    ["run", "harmful standard %", "harmful adversarial %", "helpful standard %", "helpful adversarial %", "perplexity", "VQA %"];
/// The shares of benign and of risky prompts at which the condition of conditional glasses holds, where a run has them.
const DETECTION: [&str; 2] = ["detected benign %", "detected risky %"];
const TAIL: [&str; 2] = ["neurons changed", "seconds"];

impl Report {
    /// The report as an aligned table for terminals, a row a run.
    ///
    /// Rates are in per cent with their 95 % bootstrap interval; the change of perplexity (relative) and of VQA accuracy (in points) is to
    /// the run `none`. A number that was not measured is `-`.
    pub fn table(&self) -> String {
        let head = self.head();
        let columns = 0..head.len();
        let mut rows = vec![head];
        rows.extend(self.rows());
        let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = columns.map(width).collect();
        let mut out = format!("{}\n\n", self.title());
        for row in &rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        for note in self.notes() {
            out.push_str(&format!("\n{note}"));
        }
        out.push('\n');
        out
    }

    /// The report as a Markdown table with the cells of [`table`](Report::table).
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut out = format!("{}\n\n", escape(&self.title()));
        let head = self.head();
        out.push_str(&line(&head));
        out.push_str(&line(&vec!["---".to_owned(); head.len()]));
        for row in self.rows() {
            out.push_str(&line(&row.iter().map(|cell| escape(cell)).collect::<Vec<_>>()));
        }
        for note in self.notes() {
            out.push_str(&format!("\n{}\n", escape(&note)));
        }
        out
    }

    pub(crate) fn title(&self) -> String {
        let p = &self.provenance;
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        format!("{}, {} split of {}, judge {}, seeds {} ({})", p.model, p.split, p.source, p.judge, seeds.join(" "), self.software)
    }

    fn has_detection(&self) -> bool {
        self.runs.iter().any(|run| run.detection.is_some())
    }

    /// The titles of the columns.
    pub(crate) fn head(&self) -> Vec<String> {
        let detection: &[&str] = if self.has_detection() { &DETECTION } else { &[] };
        HEAD.iter().chain(detection).chain(&TAIL).map(|title| (*title).to_owned()).collect()
    }

    /// The cells of each run, one for each column.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        let (base, detection) = (self.run("none"), self.has_detection());
        self.runs.iter().map(|run| row(run, base.filter(|base| !std::ptr::eq(*base, run)), detection)).collect()
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(run) = self.runs.first() {
            notes.push(format!(
                "{} standard and {} adversarial prompts; [95 % bootstrap interval over prompts]",
                run.standard.all.n, run.adversarial.all.n
            ));
        }
        let all = |value: &dyn Fn(&Run) -> Option<String>| -> Vec<String> {
            self.runs.iter().filter_map(|run| Some(format!("{} {}", run.name, value(run)?))).collect()
        };
        let refused = all(&|run| Some(format!("{:.1} %", 100.0 * run.over_refusal?)));
        if !refused.is_empty() {
            notes.push(format!("harmless questions refused, by phrases of refusal: {}", refused.join(", ")));
        }
        let language = [
            ("perplexity under the model without glasses", all(&|run| Some(format!("{:.1}", run.answers.perplexity?)))),
            ("distinct-2", all(&|run| Some(format!("{:.3}", run.answers.distinct_pairs?)))),
            ("ending in a loop", all(&|run| Some(format!("{:.1} %", 100.0 * run.answers.looping?)))),
        ];
        for (what, values) in language.into_iter().filter(|(_, values)| !values.is_empty()) {
            notes.push(format!("answers to risky prompts, {what}: {}", values.join(", ")));
        }
        let rates = || self.runs.iter().flat_map(|run| [&run.standard.all, &run.adversarial.all]);
        if let Some(n) = rates().filter(|rate| rate.harmful_rate == Some(0.0)).map(|rate| rate.n).min() {
            notes.push(format!(
                "0.0 of n prompts: the bootstrap sees no event; the true rate may be up to about 3/n ({:.1} % of {n})",
                (300.0 / n.max(1) as f64).min(100.0)
            ));
        }
        let unparsed: usize = rates().map(|rate| rate.n_unparsed).sum();
        if unparsed > 0 {
            notes.push(format!("verdicts that could not be parsed: {unparsed}; they count as not harmful, so the rates may be too low"));
        }
        notes
    }
}

fn row(run: &Run, base: Option<&Run>, detection: bool) -> Vec<String> {
    let against = |text: String, change: Option<String>| match change {
        Some(change) => format!("{text} ({change})"),
        None => text,
    };
    let perplexity = run.perplexity.map(|p| {
        let change = base.and_then(|base| run.perplexity_change(base));
        against(format!("{p:.3}"), change.map(|change| format!("{:+.1} %", 100.0 * change)))
    });
    let vqa = run.vqa_accuracy.map(|v| {
        let change = base.and_then(|base| run.vqa_change(base));
        against(format!("{:.1}", 100.0 * v), change.map(|change| format!("{:+.1}", 100.0 * change)))
    });
    let percent = |share: Option<f64>| share.map(|share| format!("{:.1}", 100.0 * share));
    let decimals = if run.n_suppressed.fract() == 0.0 { 0 } else { 1 };
    let mut cells = vec![
        Some(run.name.clone()),
        harmful(&run.standard.all),
        harmful(&run.adversarial.all),
        percent(run.help_standard),
        percent(run.help_adversarial),
        perplexity,
        vqa,
    ];
    if detection {
        cells.push(percent(run.detection.and_then(|detection| detection.false_positive_rate)));
        cells.push(percent(run.detection.and_then(|detection| detection.true_positive_rate)));
    }
    cells.push(Some(format!("{:.*} of {}", decimals, run.n_suppressed, run.n_neurons)));
    cells.push(Some(format!("{:.1}", run.seconds)));
    cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned())).collect()
}

pub(crate) fn harmful(rate: &HarmfulRate) -> Option<String> {
    let percent = 100.0 * rate.harmful_rate?;
    Some(match rate.ci95 {
        Some([low, high]) => format!("{percent:.1} [{:.1}, {:.1}]", 100.0 * low, 100.0 * high),
        None => format!("{percent:.1}"),
    })
}

/// A text for a cell of a Markdown table, on one line and escaped.
pub(crate) fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
