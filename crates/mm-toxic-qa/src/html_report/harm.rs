//! Harm by condition and category: a dot with its interval for every run, a panel for every set of prompts.

use super::axis::Axis;
use super::document::{Block, Cell, Figure, Section, Table, percent};
use super::headline::is_base;
use super::svg::{Anchor, FONT, Svg, shortened, width};
use crate::metrics::{Harm, HarmfulRate};
use crate::{Condition, Report, Run};

/// A set of prompts.
struct Panel {
    title: String,
    condition: Condition,
    /// The category; `None` for all prompts of the condition.
    category: Option<String>,
}

impl Panel {
    fn rate<'a>(&self, run: &'a Run) -> Option<&'a HarmfulRate> {
        let harm = harm(run, self.condition);
        match &self.category {
            None => Some(&harm.all),
            Some(category) => harm.by_category.get(category),
        }
    }
}

fn harm(run: &Run, condition: Condition) -> &Harm {
    match condition {
        Condition::Standard => &run.standard,
        Condition::Adversarial => &run.adversarial,
    }
}

pub(super) fn section(report: &Report) -> Option<Section> {
    let panels = panels(report);
    if panels.is_empty() {
        return None;
    }
    let head = std::iter::once("run".to_owned()).chain(panels.iter().map(|panel| panel.title.clone())).collect();
    let row = |run: &Run| {
        let cells = panels
            .iter()
            .map(|panel| Cell::with_detail(panel.rate(run).and_then(crate::runs::table::harmful).unwrap_or_else(|| "-".to_owned())));
        std::iter::once(Cell::new(&run.name)).chain(cells).collect()
    };
    let figure = Figure {
        drawings: vec![drawing(report, &panels)],
        legend: Vec::new(),
        caption:
            "Harmful answers in per cent of prompts, with 95 % bootstrap intervals over prompts; the dashed line is the model without \
             intervention, the number of prompts is in brackets."
                .to_owned(),
        numbers: Table { head, rows: report.runs.iter().map(row).collect(), prose: false },
    };
    Some(Section { id: "harm", title: "Harm by category", blocks: vec![Block::Figure(figure)] })
}

/// The harmful rates on all prompts of each condition as an SVG file of its own; `None` if nothing was measured.
pub(super) fn svg(report: &Report, style: &str) -> Option<String> {
    let panels: Vec<Panel> = panels(report).into_iter().filter(|panel| panel.category.is_none()).collect();
    // In a page, SVG elements need no name space and take the page's style.
    let namespace = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"100%\"";
    let styled = |drawing: String| drawing.replacen("<svg", namespace, 1).replacen('>', &format!("><style>{style}</style>"), 1);
    (!panels.is_empty()).then(|| styled(drawing(report, &panels)))
}

/// Every condition that was measured, and its categories where there are several.
fn panels(report: &Report) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (name, condition) in [("standard", Condition::Standard), ("adversarial", Condition::Adversarial)] {
        let mut measured = report.runs.iter().map(|run| harm(run, condition)).filter(|harm| harm.all.harmful_rate.is_some());
        let Some(first) = measured.next() else { continue };
        panels.push(Panel { title: format!("{name} ({})", first.all.n), condition, category: None });
        if first.by_category.len() > 1 {
            panels.extend(first.by_category.iter().map(|(category, rate)| {
                let title = format!("{name}, {category} ({})", rate.n);
                Panel { title, condition, category: Some(category.clone()) }
            }));
        }
    }
    panels
}

const WIDTH: f64 = 760.0;
/// The distance from one run to the next.
const ROW: f64 = 20.0;

fn drawing(report: &Report, panels: &[Panel]) -> String {
    let names = report.runs.iter().map(|run| width(&run.name)).fold(0.0, f64::max).min(300.0) + 10.0;
    // Panels of a least width, evenly on as few lines as possible.
    let most = ((WIDTH - names) / 125.0).floor().max(1.0);
    let count = panels.iter().map(|_| 1.0).sum::<f64>();
    let lines = (count / most).ceil();
    let in_a_line = (count / lines).ceil();
    let column = (WIDTH - names) / in_a_line;
    let rows = report.runs.iter().map(|_| ROW).sum::<f64>();
    let line_height = rows + 4.2 * FONT;
    let title = format!("Harmful rate with interval of {} runs on {} sets of prompts", report.runs.len(), panels.len());
    let mut svg = Svg::new([WIDTH, lines * line_height + 4.0], &title);
    let (mut line, mut place) = (0.0, 0.0);
    for panel in panels {
        let (left, top) = (names + place * column, line * line_height + 1.6 * FONT);
        if place == 0.0 {
            let mut y = top;
            for run in &report.runs {
                svg.text("label", Anchor::End, [names - 8.0, y + 0.5 * ROW + 4.0], &shortened(&run.name, names - 10.0));
                y += ROW;
            }
        }
        draw(&mut svg, report, panel, [left + 6.0, top], [column - 32.0, rows]);
        place += 1.0;
        if place >= in_a_line {
            (place, line) = (0.0, line + 1.0);
        }
    }
    svg.finish()
}

fn draw(svg: &mut Svg, report: &Report, panel: &Panel, [left, top]: [f64; 2], [width, height]: [f64; 2]) {
    let axis = Axis::over([0.0, 100.0], [left, left + width], 2);
    svg.text("strong", Anchor::Start, [left, top - 6.0], &shortened(&panel.title, width + 12.0));
    for (x, label) in axis.ticks() {
        svg.line("grid", [x, top], [x, top + height]);
        svg.text("tick", Anchor::Middle, [x, top + height + 1.2 * FONT], &label);
    }
    if let Some(base) = report.run("none").and_then(|run| panel.rate(run)?.harmful_rate) {
        svg.line("reference", [axis.at(100.0 * base), top], [axis.at(100.0 * base), top + height]);
    }
    let mut y = top + 0.5 * ROW;
    for run in &report.runs {
        let class = if is_base(run) { "muted" } else { "c1" };
        if let Some(rate) = panel.rate(run) {
            if let Some([low, high]) = rate.ci95 {
                svg.line(&format!("whisker {class}"), [axis.at(100.0 * low), y], [axis.at(100.0 * high), y]);
            }
            if let Some(share) = rate.harmful_rate {
                let tip = format!("{}, {}: {} %", run.name, panel.title, percent(share));
                svg.dot(&format!("dot {class}"), [axis.at(100.0 * share), y], 4.0, &tip);
            }
        }
        y += ROW;
    }
}
