//! Harm against the price of avoiding it, over many runs, with the runs on the Pareto front.

use super::axis::Axis;
use super::budget::Budget;
use super::document::{Block, Cell, Figure, Section, Table, percent};
use super::headline;
use super::svg::{Anchor, FONT, Svg, width};
use crate::metrics::pareto_front;
use crate::{Report, Run};

/// A price of less harm.
struct Price {
    title: &'static str,
    decimals: usize,
    /// Whether higher is better.
    gain: bool,
    of: fn(&Run, &Run) -> Option<f64>,
    /// The highest price that a budget allows.
    most: fn(&Budget) -> Option<f64>,
}

impl Price {
    fn shown(&self, value: f64) -> String {
        format!("{value:.*}", self.decimals)
    }
}

const PRICES: [Price; 4] = [
    Price {
        title: "divergence on neutral texts, nats",
        decimals: 4,
        gain: false,
        // The model without glasses does not diverge from itself.
        of: |run, base| if std::ptr::eq(run, base) { Some(0.0) } else { run.divergence },
        most: |_| None,
    },
    Price {
        title: "perplexity, % more",
        decimals: 1,
        gain: false,
        of: |run, base| Some(100.0 * run.perplexity_change(base)?),
        most: |budget| Some(100.0 * budget.perplexity),
    },
    Price {
        title: "VQA, points gained",
        decimals: 1,
        gain: true,
        of: |run, base| Some(100.0 * run.vqa_change(base)?),
        most: |budget| Some(-100.0 * budget.vqa),
    },
    Price { title: "helpful answers, %", decimals: 1, gain: true, of: |run, _| Some(100.0 * run.help()?), most: |_| None },
];

/// A run in the plane of harm and a price.
struct Point {
    run: usize,
    place: [f64; 2],
    on_front: bool,
}

pub(super) fn section(report: &Report, tuning: bool, budget: &Budget) -> Option<Section> {
    let base = report.run("none")?;
    if report.runs.len() < 3 {
        return None;
    }
    let fronts = PRICES.map(|price| points(report, base, &price));
    if fronts.iter().all(Vec::is_empty) {
        return None;
    }
    let labels = labels(report, &fronts);
    let drawings = PRICES.iter().zip(&fronts).filter(|(_, points)| !points.is_empty());
    let figure = Figure {
        drawings: drawings.map(|(price, points)| drawing(report, price, points, &labels, budget)).collect(),
        legend: vec![("c1", "on the front: no run has less harm at no higher price".to_owned()), ("muted", "dominated".to_owned())],
        caption:
            "Harmful answers in per cent (the mean of the rates on standard and on adversarial prompts) against what they cost. Lower is \
             better; so is left for divergence and perplexity, and right for VQA and help. The dashed lines are the budget. Labels \
             without room in the drawing are in the numbers below."
                .to_owned(),
        numbers: numbers(report, base, &fronts, &labels),
    };
    let text = match tuning {
        true => format!("{} runs of {}.", report.runs.len(), report.title()),
        false => "The runs of the table above.".to_owned(),
    };
    Some(Section { id: "trade-off", title: "Trade-off", blocks: vec![Block::Text { text }, Block::Figure(figure)] })
}

fn points(report: &Report, base: &Run, price: &Price) -> Vec<Point> {
    let measured = |run: &Run| Some([(price.of)(run, base)?, 100.0 * run.harm()?]).filter(|place| place.iter().all(|c| c.is_finite()));
    let costs: Vec<[Option<f64>; 2]> = report
        .runs
        .iter()
        .map(|run| measured(run).map_or([None, None], |[x, y]| [Some(if price.gain { -x } else { x }), Some(y)]))
        .collect();
    let front = pareto_front(&costs);
    let points = report.runs.iter().enumerate();
    let points = points.filter_map(|(run, r)| Some(Point { run, place: measured(r)?, on_front: front.contains(&run) }));
    // A price that only the model without glasses has is none.
    Some(points.collect()).filter(|points: &Vec<Point>| points.len() > 1).unwrap_or_default()
}

/// The labels of the runs on a front: their names where all names are short, else numbers in the order of harm.
fn labels(report: &Report, fronts: &[Vec<Point>; 4]) -> Vec<Option<String>> {
    let short = report.runs.iter().all(|run| width(&run.name) <= width("conditional sgm*"));
    let mut labels = vec![None; report.runs.len()];
    let mut number = 0;
    for index in in_order_of_harm(fronts) {
        let (Some(run), Some(label)) = (report.runs.get(index), labels.get_mut(index)) else { continue };
        let named = short || headline::is_base(run);
        number += usize::from(!named);
        *label = Some(if named { run.name.clone() } else { number.to_string() });
    }
    labels
}

/// The runs on any front, the least harmful first.
fn in_order_of_harm(fronts: &[Vec<Point>; 4]) -> Vec<usize> {
    let mut points: Vec<&Point> = fronts.iter().flatten().filter(|point| point.on_front).collect();
    points.sort_by(|a, b| a.place[1].total_cmp(&b.place[1]).then(a.run.cmp(&b.run)));
    points.dedup_by_key(|point| point.run);
    points.into_iter().map(|point| point.run).collect()
}

/// A table of the runs on a front.
fn numbers(report: &Report, base: &Run, fronts: &[Vec<Point>; 4], labels: &[Option<String>]) -> Table {
    let head = ["run", "harm %", "divergence", "perplexity, % more", "VQA, points gained", "help %", "on the front of"];
    let mut rows = Vec::new();
    for index in in_order_of_harm(fronts) {
        let (Some(run), Some(Some(label))) = (report.runs.get(index), labels.get(index)) else { continue };
        let on: Vec<&str> = fronts
            .iter()
            .zip(["divergence", "perplexity", "VQA", "help"])
            .filter(|(points, _)| points.iter().any(|point| point.run == index && point.on_front))
            .map(|(_, name)| name)
            .collect();
        let prices = PRICES.map(|price| (price.of)(run, base).map_or_else(|| "-".to_owned(), |value| price.shown(value)));
        let [divergence, perplexity, vqa, help] = prices;
        let harm = run.harm().map_or_else(|| "-".to_owned(), percent);
        let name = if *label == run.name { label.clone() } else { format!("{label}: {}", run.name) };
        let cells = [name, harm, divergence, perplexity, vqa, help, on.join(", ")];
        rows.push(cells.map(Cell::new).to_vec());
    }
    Table { head: head.map(str::to_owned).to_vec(), rows, prose: false }
}

const SIZE: [f64; 2] = [320.0, 300.0];

fn drawing(report: &Report, price: &Price, points: &[Point], labels: &[Option<String>], budget: &Budget) -> String {
    let [full, height] = SIZE;
    let (left, right, top, bottom) = (34.0, full - 12.0, 1.8 * FONT, height - 3.2 * FONT);
    let x = Axis::over(points.iter().map(|p| p.place[0]), [left, right], 5);
    let y = Axis::over(points.iter().map(|p| p.place[1]).chain([0.0]), [bottom, top], 5);
    let mut svg = Svg::new(SIZE, &format!("Harm against {}, {} runs", price.title, points.len()));
    svg.text("label", Anchor::Start, [0.0, FONT], "harmful answers, %");
    svg.text("label", Anchor::End, [right, height - 4.0], price.title);
    for (at, label) in x.ticks() {
        svg.line("grid", [at, top], [at, bottom]);
        svg.text("tick", Anchor::Middle, [at, bottom + 1.3 * FONT], &label);
    }
    for (at, label) in y.ticks() {
        svg.line("grid", [left, at], [right, at]);
        svg.text("tick", Anchor::End, [left - 6.0, at + 4.0], &label);
    }
    if let Some(most) = (price.most)(budget).map(|most| x.at(most)).filter(|most| (left..=right).contains(most)) {
        svg.line("reference", [most, top], [most, bottom]);
    }
    let place = |point: &Point| [x.at(point.place[0]), y.at(point.place[1])];
    svg.path("front c1", &stairs(points.iter().filter(|p| p.on_front).map(place).collect()));
    // The front is drawn last, on top of the other points.
    for on_front in [false, true] {
        for point in points.iter().filter(|point| point.on_front == on_front) {
            let name = report.runs.get(point.run).map_or("", |run| &run.name);
            let tip = format!("{name}: {:.1} % harmful, {} {}", point.place[1], price.title, price.shown(point.place[0]));
            let (class, radius) = if on_front { ("dot c1", 4.5) } else { ("dot muted", 3.0) };
            svg.dot(class, place(point), radius, &tip);
        }
    }
    let mut taken: Vec<Rectangle> = points.iter().map(|p| Rectangle::around(place(p), [8.0, 8.0])).collect();
    let bounds = Rectangle { low: [left, top], high: [right, bottom] };
    // Labels are placed from above, so that they keep the order of their points.
    let mut front: Vec<&Point> = points.iter().filter(|point| point.on_front).collect();
    front.sort_by(|a, b| b.place[1].total_cmp(&a.place[1]));
    for point in front {
        let Some(Some(label)) = labels.get(point.run) else { continue };
        let Some(at) = free_place(place(point), label, &taken, &bounds) else { continue };
        taken.push(at);
        svg.text("strong halo", Anchor::Middle, [at.middle(), at.high[1] - 3.0], label);
    }
    svg.finish()
}

/// The border of the dominated region: from each point on the front straight across to the next.
fn stairs(mut front: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    front.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let mut path: Vec<[f64; 2]> = Vec::new();
    for point in front {
        if let Some(before) = path.last().copied() {
            // The corner has the worse of both prices and of both harms: it lies to the right of the front, or above it.
            let corner = if point[1] > before[1] { [point[0], before[1]] } else { [before[0], point[1]] };
            path.push(corner);
        }
        path.push(point);
    }
    path
}

#[derive(Clone, Copy, Debug)]
struct Rectangle {
    low: [f64; 2],
    high: [f64; 2],
}

impl Rectangle {
    fn around([x, y]: [f64; 2], [width, height]: [f64; 2]) -> Self {
        Self { low: [x - width / 2.0, y - height / 2.0], high: [x + width / 2.0, y + height / 2.0] }
    }

    fn middle(&self) -> f64 {
        (self.low[0] + self.high[0]) / 2.0
    }

    /// The area of the intersection.
    fn overlap(&self, other: &Self) -> f64 {
        let along = |low: f64, high: f64, a: f64, b: f64| (high.min(b) - low.max(a)).max(0.0);
        along(self.low[0], self.high[0], other.low[0], other.high[0]) * along(self.low[1], self.high[1], other.low[1], other.high[1])
    }

    fn area(&self) -> f64 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }
}

/// A place for a label beside a point, within the bounds and off the taken places; corners are tried first, as the front is mostly
/// elsewhere.
fn free_place(point: [f64; 2], label: &str, taken: &[Rectangle], bounds: &Rectangle) -> Option<Rectangle> {
    let size = [width(label) + 4.0, FONT + 2.0];
    let directions = [(1.0, -1.0), (-1.0, -1.0), (1.0, 1.0), (-1.0, 1.0), (0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (-1.0, 0.0)];
    let places = directions.map(|(dx, dy)| {
        let away = [dx * (size[0] / 2.0 + 5.0), dy * (size[1] / 2.0 + 4.0)];
        Rectangle::around([point[0] + away[0], point[1] + away[1]], size)
    });
    let inside = |place: &Rectangle| place.overlap(bounds) > 0.999 * place.area();
    places.into_iter().find(|place| inside(place) && taken.iter().all(|other| place.overlap(other) == 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stairs_go_around_what_is_dominated() {
        // In drawings, y grows downwards: the front of two prices falls from the upper left to the lower right.
        assert_eq!(stairs(vec![[10.0, 5.0], [0.0, 0.0]]), [[0.0, 0.0], [10.0, 0.0], [10.0, 5.0]]);
        assert_eq!(stairs(vec![]), [[0.0; 2]; 0]);
    }

    #[test]
    fn labels_do_not_cover_each_other() {
        let bounds = Rectangle { low: [0.0, 0.0], high: [300.0, 300.0] };
        let mut taken: Vec<Rectangle> = Vec::new();
        for n in 0..6u8 {
            let Some(place) = free_place([299.0, 150.0 + f64::from(n)], "12", &taken, &bounds) else { continue };
            assert!(taken.iter().all(|other| place.overlap(other) == 0.0), "{n}: {place:?} {taken:?}");
            assert!(place.high[0] <= 300.0);
            taken.push(place);
        }
        assert!((2..6).contains(&taken.len()), "{taken:?}");
    }
}
