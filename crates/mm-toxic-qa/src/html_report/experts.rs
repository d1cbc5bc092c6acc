//! The sites that an intervention acts on, and how strongly: heat maps of layers and projections.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sgm_core::{Intervention, Projection};

use super::document::{Block, Cell, Figure, Section, Table};
use super::svg::{Anchor, FONT, Svg, width};

/// The effect of an intervention at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteSuppression {
    /// The decoder layer, from 0.
    pub layer: usize,
    /// The projection, such as `gate_proj`; `experts.gate_proj` stands for that of all experts of the layer.
    pub projection: String,
    /// The number of neurons of the site.
    pub neurons: usize,
    /// The number of neurons whose scale is not 1, or that are shifted.
    pub suppressed: usize,
    /// The mean scale of these neurons; `None` without one.
    pub mean_scale: Option<f64>,
}

impl SiteSuppression {
    /// The effect of an intervention at each of its sites, by layer and projection.
    pub fn of(intervention: &Intervention) -> Vec<Self> {
        // The sites of all experts of a layer are shown together.
        let mut sites: BTreeMap<(usize, bool, Projection), (usize, Vec<f64>)> = BTreeMap::new();
        for (site, s) in intervention.sites() {
            let shift = s.shift.iter().flatten().copied().chain(std::iter::repeat(0.0));
            let changed = s.scale.iter().zip(shift).filter(|(scale, shift)| **scale != 1.0 || *shift != 0.0);
            let (neurons, scales) = sites.entry((site.layer, site.expert.is_some(), site.projection)).or_default();
            *neurons += s.scale.len();
            scales.extend(changed.map(|(scale, _)| f64::from(*scale)));
        }
        let site = |((layer, of_experts, projection), (neurons, scales)): ((usize, bool, Projection), (usize, Vec<f64>))| Self {
            layer,
            projection: format!("{}{projection}", if of_experts { "experts." } else { "" }),
            neurons,
            suppressed: scales.len(),
            mean_scale: crate::metrics::mean(&scales),
        };
        sites.into_iter().map(site).collect()
    }
}

/// The sites as a plane: layers along, projections down.
struct Plane<'a> {
    layers: Vec<usize>,
    projections: Vec<&'a str>,
    sites: BTreeMap<(usize, &'a str), &'a SiteSuppression>,
}

pub(super) fn section(sites: &[SiteSuppression]) -> Option<Section> {
    let plane = Plane::new(sites);
    let suppressed: usize = sites.iter().map(|site| site.suppressed).sum();
    if suppressed == 0 {
        return None;
    }
    let most = sites.iter().map(|site| site.share()).fold(0.0, f64::max);
    let counts =
        plane.drawing("suppressed neurons", |site| (site.suppressed > 0).then(|| (site.suppressed.to_string(), site.share() / most)));
    let scales = plane.drawing("mean scale of these", |site| site.mean_scale.map(|scale| (format!("{scale:.2}"), 1.0 - scale)));
    let neurons: usize = sites.iter().map(|site| site.neurons).sum();
    let figure = Figure {
        drawings: vec![counts, scales],
        legend: Vec::new(),
        caption: format!(
            "{suppressed} of {neurons} neurons by layer and projection: the stronger the colour, the larger the share of a site's \
             neurons, and the smaller their mean scale (0 silences, 1 leaves alone)."
        ),
        numbers: plane.numbers(),
    };
    Some(Section { id: "experts", title: "Suppressed neurons", blocks: vec![Block::Figure(figure)] })
}

impl SiteSuppression {
    fn share(&self) -> f64 {
        self.suppressed as f64 / self.neurons.max(1) as f64
    }
}

const WIDTH: f64 = 760.0;
const ROW: f64 = 30.0;

impl<'a> Plane<'a> {
    fn new(sites: &'a [SiteSuppression]) -> Self {
        let sites: BTreeMap<_, _> = sites.iter().map(|site| ((site.layer, site.projection.as_str()), site)).collect();
        let mut layers: Vec<usize> = sites.keys().map(|(layer, _)| *layer).collect();
        layers.dedup();
        let order = |name: &str| Projection::ALL.iter().position(|p| p.name() == name).unwrap_or(usize::MAX);
        let mut projections: Vec<&str> = sites.keys().map(|(_, projection)| *projection).collect();
        projections.sort_by_key(|name| (order(name), *name));
        projections.dedup();
        Self { layers, projections, sites }
    }

    /// A heat map. `cell` gives the text of a site and its darkness from 0 to 1.
    fn drawing(&self, title: &str, cell: impl Fn(&SiteSuppression) -> Option<(String, f64)>) -> String {
        let names = self.projections.iter().map(|name| width(name)).fold(0.0, f64::max) + 12.0;
        let columns = self.layers.iter().map(|_| 1.0).sum::<f64>();
        let column = ((WIDTH - names) / columns).min(64.0);
        let gap = (0.05 * column).min(1.0);
        let top = 1.8 * FONT;
        let rows = self.projections.iter().map(|_| ROW).sum::<f64>();
        let mut svg =
            Svg::new([(names + columns * column).max(names + width(title)), top + rows + 2.8 * FONT], &format!("Heat map: {title}"));
        svg.text("strong", Anchor::Start, [names, FONT], title);
        let mut y = top;
        for projection in &self.projections {
            svg.text("label", Anchor::End, [names - 8.0, y + ROW / 2.0 + 4.0], projection);
            let mut x = names;
            for layer in &self.layers {
                let site = self.sites.get(&(*layer, projection));
                let content = site.and_then(|site| cell(site));
                let (text, dark) = content.unwrap_or_default();
                let tip = match site {
                    None => format!("layer {layer}, {projection}: no such site"),
                    Some(site) => format!("layer {layer}, {projection}: {}", site.words()),
                };
                svg.rect("cell", [x + gap, y + gap], [column - 2.0 * gap, ROW - 2.0 * gap], 0.75 * dark.clamp(0.0, 1.0), &tip);
                if width(&text) + 4.0 <= column {
                    svg.text("value", Anchor::Middle, [x + column / 2.0, y + ROW / 2.0 + 4.0], &text);
                }
                x += column;
            }
            y += ROW;
        }
        // The number of every layer, or of every second, fifth and so on where columns are narrow.
        let every = [1u8, 2, 5, 10, 20, 50].into_iter().find(|n| width("100") <= f64::from(*n) * column).unwrap_or(100);
        let mut x = names;
        for layer in &self.layers {
            if layer % usize::from(every) == 0 {
                svg.text("tick", Anchor::Middle, [x + column / 2.0, y + 1.2 * FONT], &layer.to_string());
            }
            x += column;
        }
        svg.text("label", Anchor::End, [names - 8.0, y + 1.2 * FONT], "layer");
        svg.finish()
    }

    fn numbers(&self) -> Table {
        let head = std::iter::once("layer".to_owned()).chain(self.projections.iter().map(|name| (*name).to_owned())).collect();
        let row = |layer: &usize| {
            let cells =
                self.projections.iter().map(|projection| self.sites.get(&(*layer, *projection)).map_or("-".to_owned(), |s| s.words()));
            std::iter::once(layer.to_string()).chain(cells).map(Cell::new).collect()
        };
        Table { head, rows: self.layers.iter().map(row).collect(), prose: false }
    }
}

impl SiteSuppression {
    fn words(&self) -> String {
        let scale = self.mean_scale.map(|scale| format!(", mean scale {scale:.2}")).unwrap_or_default();
        format!("{} of {}{scale}", self.suppressed, self.neurons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sgm_core::{Metadata, Site, SiteIntervention};

    #[test]
    fn sites_are_counted() {
        let mut glasses = Intervention::new(Metadata::default());
        glasses.insert(Site::new(3, Projection::Up), SiteIntervention::from_scale(vec![1.0, 0.5, 0.0, 1.0])).unwrap();
        let shift = Some(vec![0.0, 2.0]);
        glasses.insert(Site::new(1, Projection::Down), SiteIntervention { shift, ..SiteIntervention::from_scale(vec![1.0, 1.0]) }).unwrap();
        glasses.insert(Site::new(1, Projection::Gate), SiteIntervention::from_scale(vec![1.0])).unwrap();
        let sites = SiteSuppression::of(&glasses);
        let of = |layer, projection: &str, neurons, suppressed, mean_scale| SiteSuppression {
            layer,
            projection: projection.to_owned(),
            neurons,
            suppressed,
            mean_scale,
        };
        assert_eq!(sites, [of(1, "gate_proj", 1, 0, None), of(1, "down_proj", 2, 1, Some(1.0)), of(3, "up_proj", 4, 2, Some(0.25))]);
        let plane = Plane::new(&sites);
        assert_eq!((plane.layers, plane.projections), (vec![1, 3], vec!["gate_proj", "up_proj", "down_proj"]));
        assert!(section(&sites[..1]).is_none(), "nothing is suppressed");
    }
}
