//! Sites: the MLP projections of decoder layers, and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// One of the three linear maps of a gated MLP; each output channel is one neuron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Projection {
    /// `gate_proj`: hidden to intermediate, before the activation function.
    #[serde(rename = "gate_proj")]
    Gate,
    /// `up_proj`: hidden to intermediate.
    #[serde(rename = "up_proj")]
    Up,
    /// `down_proj`: intermediate to hidden.
    #[serde(rename = "down_proj")]
    Down,
}

impl Projection {
    /// The three projections in the order of a forward pass.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];

    /// The projection's name in checkpoints, for example `gate_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Projection {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| Error::UnknownProjection { name: name.to_owned() })
    }
}

/// One MLP projection of one layer of the language model: the place where neurons are read and scaled.
///
/// Displays as, and parses from, its canonical name: `lm.layers.{layer}.mlp.{projection}`, or
/// `lm.layers.{layer}.mlp.experts.{expert}.{projection}` for one expert of a mixture. In a layer with a mixture of experts,
/// `lm.layers.{layer}.mlp.down_proj` is the output of the whole mixture. Sites are ordered by layer, then by expert (sites
/// without one first), then by projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The decoder layer, counted from 0 over all layers of the language model.
    pub layer: usize,
    /// The expert of the layer's mixture; `None` for a plain MLP, and for the output of a whole mixture.
    pub expert: Option<usize>,
    /// The projection within the layer's MLP, or within the expert.
    pub projection: Projection,
}

impl Site {
    /// The site of a projection of a layer.
    pub const fn new(layer: usize, projection: Projection) -> Self {
        Self { layer, expert: None, projection }
    }

    /// The site of a projection of one expert of a layer.
    pub const fn of_expert(layer: usize, expert: usize, projection: Projection) -> Self {
        Self { layer, expert: Some(expert), projection }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expert {
            None => write!(f, "lm.layers.{}.mlp.{}", self.layer, self.projection),
            Some(expert) => write!(f, "lm.layers.{}.mlp.experts.{expert}.{}", self.layer, self.projection),
        }
    }
}

impl FromStr for Site {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        parse(name).ok_or_else(|| Error::UnknownSite { name: name.to_owned(), nearest: well_formed_neighbour(name).map(|s| s.to_string()) })
    }
}

fn parse(name: &str) -> Option<Site> {
    let (layer, within) = name.strip_prefix("lm.layers.")?.split_once(".mlp.")?;
    let layer = parse_index(layer)?;
    match within.strip_prefix("experts.") {
        None => Some(Site::new(layer, within.parse().ok()?)),
        Some(expert) => {
            let (expert, projection) = expert.split_once('.')?;
            Some(Site::of_expert(layer, parse_index(expert)?, projection.parse().ok()?))
        }
    }
}

/// A decimal index of a layer or an expert without sign and leading zeros.
pub(crate) fn parse_index(digits: &str) -> Option<usize> {
    let canonical = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

/// The site most similar to a misspelt name, by its first number and its ending.
fn well_formed_neighbour(name: &str) -> Option<Site> {
    let digits: String = name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let layer = digits.parse().ok()?;
    let tail = name.rsplit('.').next().unwrap_or(name);
    Projection::ALL
        .into_iter()
        .map(|p| (strsim::jaro_winkler(p.name(), tail), p))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, projection)| Site::new(layer, projection))
}

/// The site of `known` whose name is closest to `name`, if one is close: a suggestion for a misspelt name.
pub fn nearest(name: &str, known: impl IntoIterator<Item = Site>) -> Option<Site> {
    known
        .into_iter()
        .map(|site| (strsim::damerau_levenshtein(&site.to_string(), name), site))
        .min()
        .filter(|(distance, _)| *distance <= name.len() / 2)
        .map(|(_, site)| site)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn canonical_names_round_trip(layer in 0usize..100_000, expert in proptest::option::of(0usize..1000), projection in 0usize..3) {
            let site = Site { expert, ..Site::new(layer, Projection::ALL[projection]) };
            prop_assert_eq!(site.to_string().parse::<Site>().unwrap(), site);
        }

        #[test]
        fn any_string_parses_or_errors(name in ".{0,60}") {
            if let Ok(site) = name.parse::<Site>() {
                prop_assert_eq!(site.to_string(), name);
            }
        }
    }

    #[test]
    fn misspelt_names_are_answered_with_the_nearest_site() {
        let message = "lm.layers.3.mlp.upp_proj".parse::<Site>().unwrap_err().to_string();
        assert!(message.contains("did you mean `lm.layers.3.mlp.up_proj`"), "{message}");
        for name in ["lm.layers.3.mlp.experts.up_proj", "lm.layers.3.mlp.experts.01.up_proj", "lm.layers.3.mlp.experts.1.w1"] {
            assert!(name.parse::<Site>().is_err(), "{name}");
        }
        for name in ["", "lm.layers.03.mlp.up_proj", "lm.layers.+3.mlp.up_proj", "lm.layers.3.mlp.up_proj.", "lm.layers.x.mlp.up_proj"] {
            assert!(name.parse::<Site>().is_err(), "{name}");
        }
        let known = [Site::new(0, Projection::Up), Site::new(1, Projection::Down)];
        assert_eq!(nearest("lm.layers.7.mlp.down_proj", known), Some(known[1]));
        assert_eq!(nearest("a", known), None);
    }

    #[test]
    fn sites_sort_by_layer_then_expert_then_projection() {
        let expert = Site::of_expert(0, 2, Projection::Up);
        let mut sites = [Site::new(1, Projection::Gate), expert, Site::new(0, Projection::Down), Site::new(0, Projection::Gate)];
        sites.sort();
        assert_eq!(
            sites.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["lm.layers.0.mlp.gate_proj", "lm.layers.0.mlp.down_proj", "lm.layers.0.mlp.experts.2.up_proj", "lm.layers.1.mlp.gate_proj"]
        );
    }
}
