//! The probe of adaptive glasses: a linear detector over the neurons of a model, and when it switches them on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::expertise::check;
use crate::{Error, Result, Site};

/// A logistic detector of toxicity over the outputs of neurons at one token.
///
/// With x the output of a site at a token, the score of the token is `sigmoid(bias + sum over sites of weight . x)`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Probe {
    weights: BTreeMap<Site, Vec<f32>>,
    /// What the log-odds are before any neuron speaks.
    pub bias: f32,
    /// What follows from the score.
    pub gate: Gate,
    /// How strongly glasses act where the gate lets them; in full if not given.
    pub dose: Option<Dose>,
}

/// A strength that grows with the log-odds of the prompt's last token, read without glasses: `least` up to `from`, 1 from `full` on, and
/// linear in between. So a prompt that is only just risky is changed less than one that plainly is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dose {
    /// The smallest strength, in 0..=1.
    pub least: f32,
    /// The log-odds up to which it holds.
    pub from: f32,
    /// The log-odds from which on the strength is 1, above `from`.
    pub full: f32,
}

impl Dose {
    /// The strength at some log-odds.
    #[allow(clippy::cast_possible_truncation, reason = "strengths are f32")]
    pub fn strength(self, log_odds: f64) -> f32 {
        let (from, full) = (f64::from(self.from), f64::from(self.full));
        let share = ((log_odds - from) / (full - from)).clamp(0.0, 1.0);
        (f64::from(self.least) * (1.0 - share) + share) as f32
    }
}

/// When glasses with a probe act.
///
/// They are switched on for a whole sequence when the score of its last prompt token, read without glasses, is at least `on`. If `watch`
/// is set, the score of every response token, read as the model wears the glasses or not, may switch them for the tokens after it: on from
/// `on` up, off from `off` down, and in between they stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// The score that switches the glasses on, in 0..=1.
    pub on: f32,
    /// The score that switches them off again, at most `on`.
    pub off: f32,
    /// Whether response tokens count too.
    pub watch: bool,
}

impl Default for Gate {
    /// On from 0.5, decided at the prompt's end.
    fn default() -> Self {
        Self { on: 0.5, off: 0.25, watch: false }
    }
}

/// What a file's metadata say of its probe.
#[derive(Serialize, Deserialize)]
struct Entry {
    bias: f32,
    #[serde(flatten)]
    gate: Gate,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dose: Option<Dose>,
}

impl Probe {
    /// A probe without neurons.
    pub fn new(bias: f32, gate: Gate) -> Self {
        Self { weights: BTreeMap::new(), bias, gate, dose: None }
    }

    /// Sets the weights of a site, f32 `[neurons]`.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] when a weight is not finite.
    pub fn insert(&mut self, site: Site, weights: Vec<f32>) -> Result<()> {
        check(site, "probe", weights.len(), &weights, "a finite number", f32::is_finite)?;
        self.weights.insert(site, weights);
        Ok(())
    }

    /// The weights of every site that is read.
    pub fn weights(&self) -> &BTreeMap<Site, Vec<f32>> {
        &self.weights
    }

    /// Checks bias, gate and dose.
    ///
    /// # Errors
    ///
    /// [`Error::Gate`] or [`Error::Dose`] when a number is out of its range.
    pub fn check(&self) -> Result<()> {
        let Gate { on, off, .. } = self.gate;
        if !(self.bias.is_finite() && (0.0..=1.0).contains(&on) && (0.0..=on).contains(&off)) {
            return Err(Error::Gate { bias: self.bias, on, off });
        }
        match self.dose {
            Some(Dose { least, from, full }) if !((0.0..=1.0).contains(&least) && from.is_finite() && full.is_finite() && from < full) => {
                Err(Error::Dose { least, from, full })
            }
            _ => Ok(()),
        }
    }

    /// The entry of a file's metadata.
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!(Entry { bias: self.bias, gate: self.gate, dose: self.dose }).to_string()
    }

    /// The reverse of it, without weights.
    pub(crate) fn from_json(json: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(json).map(|entry: Entry| Self { dose: entry.dose, ..Self::new(entry.bias, entry.gate) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dose_grows_between_two_log_odds() {
        let dose = Dose { least: 0.5, from: -1.0, full: 3.0 };
        assert_eq!([f64::NEG_INFINITY, -1.0, 1.0, 3.0, f64::INFINITY].map(|z| dose.strength(z)), [0.5, 0.5, 0.75, 1.0, 1.0]);
        let with = |dose| Probe { dose: Some(dose), ..Probe::default() }.check();
        with(dose).unwrap();
        for wrong in [
            Dose { least: 1.5, ..dose },
            Dose { full: -1.0, ..dose },
            Dose { from: f32::NAN, ..dose },
            Dose { full: f32::INFINITY, ..dose },
        ] {
            assert!(matches!(with(wrong), Err(Error::Dose { .. })), "{wrong:?}");
        }
    }
}
