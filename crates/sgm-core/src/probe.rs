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
}

impl Probe {
    /// A probe without neurons.
    pub fn new(bias: f32, gate: Gate) -> Self {
        Self { weights: BTreeMap::new(), bias, gate }
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

    /// Checks bias and gate.
    ///
    /// # Errors
    ///
    /// [`Error::Gate`] when a number is out of its range.
    pub fn check(&self) -> Result<()> {
        let Gate { on, off, .. } = self.gate;
        if self.bias.is_finite() && (0.0..=1.0).contains(&on) && (0.0..=on).contains(&off) {
            return Ok(());
        }
        Err(Error::Gate { bias: self.bias, on, off })
    }

    /// The entry of a file's metadata.
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!(Entry { bias: self.bias, gate: self.gate }).to_string()
    }

    /// The reverse of it, without weights.
    pub(crate) fn from_json(json: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(json).map(|entry: Entry| Self::new(entry.bias, entry.gate))
    }
}
