//! The arguments that describe an intervention to make from expertise or from a store of activations.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sgm::capture::ActivationStore;
use sgm::core::{Expertise, Intervention, Projection, Schedule, TokenSelection};
use sgm::score::{Correction, Experts, Selection, score_store};
use sgm::suppress::{ExpertScale, SuppressionRule, Transport, TransportMap};

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
    #[arg(long, value_delimiter = ',', value_parser = projection)]
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

fn projection(text: &str) -> Result<Projection> {
    Projection::ALL.into_iter().find(|p| p.name() == text).context("expected gate_proj, up_proj or down_proj")
}

impl SuppressArguments {
    fn store(&self) -> Result<ActivationStore> {
        let store = ActivationStore::open(self.store.as_ref().context("mean-act and linear-act need --store")?)?;
        Ok(match &self.pooling {
            Some(pooling) => store.with_pooling(pooling)?,
            None => store,
        })
    }

    fn expertise(&self) -> Result<Expertise> {
        Ok(if let Some(file) = &self.expertise { Expertise::load(file)? } else { score_store(&self.store()?)? })
    }

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
        let selection = &mut rule.selection;
        selection.threshold = self.threshold.unwrap_or(selection.threshold);
        selection.top_k = self.top_k.or(selection.top_k);
        selection.negative = self.negative;
        if let Some(layers) = &self.layers {
            (selection.depth, selection.layers) = (1.0, Some(layers.clone().collect()));
        }
        if let Some(projections) = &self.projections {
            selection.projections = Some(projections.iter().copied().collect());
        }
        rule.schedule = self.schedule.clone();
        match &mut rule.scale {
            ExpertScale::Soft { strength, exponent, floor } => {
                *strength = self.strength.unwrap_or(*strength);
                *exponent = self.exponent.unwrap_or(*exponent);
                *floor = self.floor.unwrap_or(*floor);
            }
            _ => self.no_soft_settings()?,
        }
        let expertise = self.expertise()?;
        let Some(level) = self.false_discovery else { return Ok(rule.intervention(&expertise)?) };
        ensure!(!self.negative, "--false-discovery is one-sided; leave out --negative");
        let experts = self.experts(Selection::false_discovery(level, Correction::BenjaminiHochberg), &expertise)?;
        Ok(rule.among(&expertise, &format!("q <= {level} (Benjamini-Hochberg)"), |site, n| experts.contains(site, n))?)
    }

    fn transport(&self, map: TransportMap) -> Result<Intervention> {
        self.no_soft_settings()?;
        ensure!(!self.negative, "--negative is for rules on expertise");
        let transport = Transport { map, unclamped: self.unclamped, schedule: self.schedule.clone() };
        let store = self.store()?;
        let selection = match (self.false_discovery, self.top_k, self.threshold) {
            (Some(level), None, None) => Selection::false_discovery(level, Correction::BenjaminiHochberg),
            (None, Some(k), None) => Selection::top_k(k),
            (None, None, Some(threshold)) => Selection::threshold(threshold),
            (None, None, None) => return Ok(transport.intervention(&store)?.restrict_to(self.layers.clone(), self.projections.as_deref())),
            _ => bail!("give one of --false-discovery, --top-k and --threshold"),
        };
        let described = serde_json::json!(selection).to_string();
        let experts = self.experts(selection, &score_store(&store)?)?;
        Ok(transport.among(&store, &described, |site, n| experts.contains(site, n))?)
    }

    fn experts(&self, selection: Selection, expertise: &Expertise) -> Result<Experts> {
        let (layers, projections) = (self.layers.clone(), self.projections.clone());
        let selection = Selection {
            layers: layers.map(Iterator::collect),
            projections: projections.map(|projections| projections.into_iter().collect()),
            ..selection
        };
        Ok(selection.experts(expertise)?)
    }

    fn no_soft_settings(&self) -> Result<()> {
        let none = self.strength.is_none() && self.exponent.is_none() && self.floor.is_none();
        ensure!(none, "--strength, --exponent and --floor are for soft rules; use --schedule for {}", self.rule);
        Ok(())
    }
}
