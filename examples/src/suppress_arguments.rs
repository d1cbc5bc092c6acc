//! The arguments that describe an intervention to make from expertise or from a store of activations.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sgm::capture::ActivationStore;
use sgm::core::{Expertise, Intervention, Projection, Schedule, TokenSelection};
use sgm::score::{Correction, FalseDiscovery, Selection, score_store};
use sgm::suppress::{SuppressionRule, Transport, TransportMap};

/// The rule or transport, its settings, and the file to write.
#[derive(Args, Debug)]
pub struct SuppressArguments {
    /// A file of expertise.
    #[arg(long, required_unless_present = "store", conflicts_with = "store")]
    expertise: Option<PathBuf>,
    /// A store of activations, which is scored, or transported with mean-act and linear-act.
    #[arg(long)]
    store: Option<PathBuf>,
    /// The pooling of the store, such as mean/all; its first by default.
    #[arg(long, requires = "store")]
    pooling: Option<String>,
    /// The file to write.
    #[arg(long)]
    pub out: PathBuf,
    /// sgm, aura, det0, damp, aura_vl (amplifies), mean-act or linear-act.
    #[arg(long, alias = "operator", default_value = "sgm")]
    rule: String,
    /// Only neurons with an AUROC above this.
    #[arg(long)]
    threshold: Option<f32>,
    /// Only the best neurons.
    #[arg(long)]
    top_k: Option<usize>,
    /// Only neurons that pass this false-discovery rate (Benjamini-Hochberg).
    #[arg(long)]
    false_discovery: Option<f64>,
    /// Also neurons that respond less to toxic input (not for transport).
    #[arg(long)]
    negative: bool,
    /// The weight of expertise in the scale (soft rules).
    #[arg(long)]
    strength: Option<f32>,
    /// The power that a soft scale is raised to.
    #[arg(long)]
    exponent: Option<f32>,
    /// The smallest scale.
    #[arg(long)]
    floor: Option<f32>,
    /// The strength of the intervention, from 0 to 1: everywhere (0.8), as a ramp over layers (0-11:1.0-0.2), or by layer (0=1,5=0.5).
    #[arg(long)]
    schedule: Option<Schedule>,
    /// Only these layers, such as 0-3.
    #[arg(long, value_parser = layers)]
    layers: Option<RangeInclusive<usize>>,
    /// Only these projections.
    #[arg(long, value_delimiter = ',')]
    projections: Option<Vec<Projection>>,
    /// The tokens it acts on: all, text, image, prompt, response, prompt-end or last. Only `all` can be baked.
    #[arg(long, alias = "positions", default_value = "all")]
    tokens: TokenSelection,
    /// Linear transport with scales above 1 and below 0, which amplify.
    #[arg(long)]
    unclamped: bool,
}

fn layers(text: &str) -> Result<RangeInclusive<usize>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Ok(first.parse()?..=last.parse()?)
}

impl SuppressArguments {
    /// Makes the intervention.
    ///
    /// # Errors
    ///
    /// For settings that do not fit the rule, and those of reading and scoring.
    pub fn run(&self) -> Result<Intervention> {
        let mut glasses = match TransportMap::ALL.into_iter().find(|map| map.name() == self.rule) {
            Some(map) => self.transport(map)?,
            None => self.suppress()?,
        };
        glasses.tokens = self.tokens;
        Ok(glasses)
    }

    fn suppress(&self) -> Result<Intervention> {
        ensure!(!self.unclamped, "--unclamped is for linear-act");
        let mut rule = SuppressionRule::preset(&self.rule)?;
        rule.selection = self.narrowed(rule.selection);
        rule.schedule = self.schedule.clone();
        rule.set_soft_scale(self.strength, self.exponent, self.floor)?;
        let expertise = if let Some(file) = &self.expertise { Expertise::load(file)? } else { score_store(&self.store()?)? };
        Ok(rule.intervention(&expertise)?)
    }

    fn transport(&self, map: TransportMap) -> Result<Intervention> {
        let soft = self.strength.is_some() || self.exponent.is_some() || self.floor.is_some();
        ensure!(!soft, "--strength, --exponent and --floor are for soft rules; use --schedule for {}", self.rule);
        ensure!(!self.negative, "--negative is for rules on expertise");
        let transport = Transport { map, unclamped: self.unclamped, schedule: self.schedule.clone() };
        Ok(if self.threshold.is_some() || self.top_k.is_some() || self.false_discovery.is_some() {
            transport.of_experts(&self.store()?, &self.narrowed(Selection::threshold(0.0)))?
        } else {
            transport.intervention(&self.store()?)?.restrict_to(self.layers.clone(), self.projections.as_deref())
        })
    }

    fn store(&self) -> Result<ActivationStore> {
        let store = ActivationStore::open(self.store.as_ref().context("mean-act and linear-act need --store")?)?;
        Ok(if let Some(pooling) = &self.pooling { store.with_pooling(pooling)? } else { store })
    }

    /// A selection with the tests and limits that are given.
    fn narrowed(&self, selection: Selection) -> Selection {
        let level = self.false_discovery.map(|level| FalseDiscovery { level, correction: Correction::BenjaminiHochberg });
        Selection {
            threshold: self.threshold.unwrap_or(selection.threshold),
            top_k: self.top_k.or(selection.top_k),
            false_discovery: level.or(selection.false_discovery),
            depth: if self.layers.is_some() { 1.0 } else { selection.depth },
            layers: self.layers.clone().map(Iterator::collect).or(selection.layers),
            projections: self.projections.clone().map(|given| given.into_iter().collect()).or(selection.projections),
            negative: self.negative,
            ..selection
        }
    }
}
