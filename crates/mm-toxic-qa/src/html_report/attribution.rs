//! The inputs that experts respond to, layer by layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::axis::Axis;
use super::document::{Block, Figure, Section, Table};
use super::svg::{Anchor, FONT, Svg, width};

/// The inputs that the experts of a model respond to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModalityAttribution {
    /// The pooling of responses for experts of text, of the image and of the answer, such as `max/text`.
    pub poolings: [String; 3],
    /// The experts of each layer.
    pub layers: Vec<LayerAttribution>,
}

/// The number of experts of one layer by the tokens at which they separate toxic from non-toxic samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerAttribution {
    /// The decoder layer, from 0.
    pub layer: usize,
    /// Experts at text tokens.
    pub text: usize,
    /// Experts at image tokens.
    pub image: usize,
    /// Experts at text and image tokens, equally good at both.
    pub both: usize,
    /// Experts at neither, but at the tokens of the answer, which attend to both.
    pub cross_modal: usize,
}

impl LayerAttribution {
    fn parts(&self) -> [(&'static str, &'static str, usize); 4] {
        [("c1", "text", self.text), ("c2", "image", self.image), ("c3", "both", self.both), ("c4", "cross-modal", self.cross_modal)]
    }

    fn experts(&self) -> usize {
        self.parts().map(|(_, _, n)| n).iter().sum()
    }
}

pub(super) fn section(attribution: &ModalityAttribution) -> Option<Section> {
    let ModalityAttribution { poolings: [text, image, answer], layers } = attribution;
    let all = layers.iter().fold(LayerAttribution::default(), |all, layer| LayerAttribution {
        layer: 0,
        text: all.text + layer.text,
        image: all.image + layer.image,
        both: all.both + layer.both,
        cross_modal: all.cross_modal + layer.cross_modal,
    });
    if all.experts() == 0 {
        return None;
    }
    let shares = all.parts().map(|(_, name, n)| format!("{n} {name}"));
    let rows = layers.iter().map(|layer| {
        let [text, image, both, cross_modal] = layer.parts().map(|(_, _, n)| n.to_string());
        [layer.layer.to_string(), text, image, both, cross_modal]
    });
    let figure = Figure {
        drawings: vec![drawing(layers)],
        legend: all.parts().map(|(class, name, _)| (class, name.to_owned())).to_vec(),
        caption: format!(
            "Experts of each layer by the tokens at which their responses separate toxic from non-toxic samples: text ({text}), image \
             ({image}), both equally well, or neither but the answer ({answer}), which attends to both (cross-modal). Where the image \
             comes first, text is text given the image."
        ),
        numbers: Table::new(["layer", "text", "image", "both", "cross-modal"], rows.collect()),
    };
    let finding = Block::Finding { text: format!("{} experts: {}.", all.experts(), shares.join(", ")) };
    Some(Section { id: "attribution", title: "What experts respond to", blocks: vec![finding, Block::Figure(figure)] })
}

const WIDTH: f64 = 760.0;
const ROW: f64 = 22.0;

fn drawing(layers: &[LayerAttribution]) -> String {
    let layers: BTreeMap<usize, &LayerAttribution> = layers.iter().map(|layer| (layer.layer, layer)).collect();
    let names = width("layer 00") + 8.0;
    let height: f64 = layers.values().map(|_| ROW).sum();
    let top = 4.0;
    let x = Axis::over(layers.values().map(|l| l.experts() as f64).chain([0.0]), [names, WIDTH - 12.0], 6);
    let mut svg = Svg::new([WIDTH, top + height + 3.2 * FONT], "Experts of each layer by what they respond to");
    for (at, label) in x.ticks() {
        svg.line("grid", [at, top], [at, top + height]);
        svg.text("tick", Anchor::Middle, [at, top + height + 1.3 * FONT], &label);
    }
    svg.text("label", Anchor::End, [WIDTH - 12.0, top + height + 2.8 * FONT], "experts");
    let mut y = top;
    for layer in layers.values() {
        svg.text("label", Anchor::End, [names - 8.0, y + ROW / 2.0 + 4.0], &format!("layer {}", layer.layer));
        let mut before = 0.0;
        for (class, name, n) in layer.parts() {
            let (from, to) = (x.at(before), x.at(before + n as f64));
            before += n as f64;
            if n > 0 {
                svg.rect(
                    &format!("bar {class}"),
                    [from, y + 3.0],
                    [to - from, ROW - 6.0],
                    1.0,
                    &format!("layer {}, {name}: {n}", layer.layer),
                );
            }
        }
        y += ROW;
    }
    svg.finish()
}
