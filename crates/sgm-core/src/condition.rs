//! The condition under which an intervention acts: a linear probe and its threshold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::expertise::check;
use crate::{Error, Result, Site};

/// The name of a probe's weights in a file, and the metadata key of the condition.
pub(crate) const PROBE: &str = "probe";

/// A logistic detector of toxicity over the outputs of neurons at one token.
///
/// With x the output of a site at a token, the score of the token is `sigmoid(bias + sum over sites of weight . x)`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Probe {
    weights: BTreeMap<Site, Vec<f32>>,
    /// The log-odds of a token at which every neuron is 0.
    pub bias: f32,
}

/// A condition on a sequence: the probe's score at the last prompt token, computed without the intervention, is at least the threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The detector.
    pub probe: Probe,
    /// The lowest score at which the condition holds, in 0..=1.
    pub threshold: f32,
}

impl Probe {
    /// A probe without neurons.
    pub fn new(bias: f32) -> Self {
        Self { weights: BTreeMap::new(), bias }
    }

    /// Sets the weights of a site, f32 `[neurons]`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] when a weight is not finite.
    pub fn insert(&mut self, site: Site, weights: Vec<f32>) -> Result<()> {
        check(site, PROBE, weights.len(), &weights, "a finite number", f32::is_finite)?;
        self.weights.insert(site, weights);
        Ok(())
    }

    /// The weights of every site that the probe reads.
    pub fn weights(&self) -> &BTreeMap<Site, Vec<f32>> {
        &self.weights
    }

    /// Checks the bias; weights are checked as they are inserted.
    ///
    /// # Errors
    ///
    /// [`Error::Probe`] when the bias is not finite.
    pub fn check(&self) -> Result<()> {
        if self.bias.is_finite() { Ok(()) } else { Err(Error::Probe { bias: self.bias }) }
    }
}

impl Condition {
    /// Checks probe and threshold.
    ///
    /// # Errors
    ///
    /// [`Error::Probe`] or [`Error::Threshold`] when a number is out of its range.
    pub fn check(&self) -> Result<()> {
        self.probe.check()?;
        if (0.0..=1.0).contains(&self.threshold) { Ok(()) } else { Err(Error::Threshold { threshold: self.threshold }) }
    }

    /// Whether the condition holds at a score.
    pub fn holds(&self, score: f32) -> bool {
        score >= self.threshold
    }

    /// The entry of a file's metadata.
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!(Written { bias: self.probe.bias, threshold: self.threshold }).to_string()
    }

    /// Parses an entry of a file's metadata, also of earlier versions; the weights are not part of it.
    pub(crate) fn from_json(json: &str) -> std::result::Result<Self, String> {
        let Read { bias, threshold, watch, dose } = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let removed = |what| format!("{what}, which this version no longer applies: fit the intervention again");
        match (watch, dose) {
            (true, _) => Err(removed("response tokens switch the intervention too (`watch`)")),
            (_, Some(_)) => Err(removed("the strength grows with the score (`dose`)")),
            _ => Ok(Self { probe: Probe::new(bias), threshold }),
        }
    }
}

#[derive(Serialize)]
struct Written {
    bias: f32,
    threshold: f32,
}

#[derive(Deserialize)]
struct Read {
    bias: f32,
    #[serde(alias = "on")]
    threshold: f32,
    #[serde(default)]
    watch: bool,
    #[serde(default)]
    dose: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        let condition = Condition { probe: Probe::new(-0.5), threshold: 0.75 };
        condition.check().unwrap();
        assert_eq!([0.74, 0.75].map(|score| condition.holds(score)), [false, true]);
        assert!(matches!(Condition { threshold: 1.5, ..condition.clone() }.check(), Err(Error::Threshold { .. })));
        assert!(matches!(Condition { threshold: f32::NAN, ..condition }.check(), Err(Error::Threshold { .. })));
        assert!(matches!(Probe::new(f32::INFINITY).check(), Err(Error::Probe { .. })));
    }

    #[test]
    fn entries_of_earlier_versions_are_read_unless_they_mean_more() {
        let condition = Condition { probe: Probe::new(-0.5), threshold: 0.75 };
        assert_eq!(Condition::from_json(&condition.to_json()).unwrap(), condition);
        let earlier = r#"{"bias":-0.5,"on":0.75,"off":0.25,"watch":false}"#;
        assert_eq!(Condition::from_json(earlier).unwrap(), condition);
        let watching = Condition::from_json(r#"{"bias":-0.5,"on":0.75,"off":0.25,"watch":true}"#).unwrap_err();
        assert!(watching.contains("`watch`"), "{watching}");
        let dose = r#"{"bias":0.0,"on":0.5,"off":0.25,"watch":false,"dose":{"least":0.5,"from":0.0,"full":1.0}}"#;
        assert!(Condition::from_json(dose).unwrap_err().contains("`dose`"));
    }
}
