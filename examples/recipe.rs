//! How an intervention is made from expertise or from a store, as the command line says it.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sgm::capture::ActivationStore;
use sgm::core::{Expertise, Intervention, Projection, Schedule};
use sgm::score::{Correction, Experts, Rule, Selection, score_store};
use sgm::suppress::{Operator, Response, Transport, TransportMap};

/// The settings.
#[derive(Args)]
pub(crate) struct Recipe {
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
    pub(crate) out: PathBuf,
    /// sgm, aura, det0, damp, aura_vl (amplifies), mean-act or linear-act.
    #[arg(long, default_value = "sgm")]
    operator: String,
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
    /// How strongly expertise counts (soft operators).
    #[arg(long)]
    strength: Option<f32>,
    /// The power that a soft scale is raised to.
    #[arg(long)]
    exponent: Option<f32>,
    /// The smallest scale.
    #[arg(long)]
    floor: Option<f32>,
    /// How much of the intervention, from 0 to 1: everywhere (0.8), as a ramp over layers (0-11:1.0-0.2), or by layer (0=1,5=0.5).
    #[arg(long)]
    schedule: Option<Schedule>,
    /// Only these layers, such as 0-3.
    #[arg(long, value_parser = layers)]
    layers: Option<RangeInclusive<usize>>,
    /// Only these projections.
    #[arg(long, value_delimiter = ',', value_parser = projection)]
    projections: Option<Vec<Projection>>,
    /// The token positions it acts on; weights can hold `all` alone.
    #[arg(long, default_value = "all", value_parser = ["all", "text", "image", "response", "last"])]
    positions: String,
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

impl Recipe {
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

    /// The intervention.
    pub(crate) fn run(&self) -> Result<Intervention> {
        let mut glasses = match TransportMap::ALL.into_iter().find(|map| map.name() == self.operator) {
            Some(map) => self.transport(map)?,
            None => self.suppress()?,
        };
        glasses.metadata.positions = Some(self.positions.clone());
        Ok(glasses)
    }

    fn suppress(&self) -> Result<Intervention> {
        ensure!(!self.unclamped, "--unclamped is for linear-act");
        let mut operator = Operator::preset(&self.operator)?;
        let selection = &mut operator.selection;
        selection.threshold = self.threshold.unwrap_or(selection.threshold);
        selection.top_k = self.top_k.or(selection.top_k);
        selection.negative = self.negative;
        if let Some(layers) = &self.layers {
            (selection.depth, selection.layers) = (1.0, Some(layers.clone().collect()));
        }
        if let Some(projections) = &self.projections {
            selection.projections = Some(projections.iter().map(|p| p.name().to_owned()).collect());
        }
        operator.schedule = self.schedule.clone();
        match &mut operator.response {
            Response::Soft { strength, exponent, floor } => {
                *strength = self.strength.unwrap_or(*strength);
                *exponent = self.exponent.unwrap_or(*exponent);
                *floor = self.floor.unwrap_or(*floor);
            }
            _ => self.no_soft_settings()?,
        }
        let expertise = self.expertise()?;
        let Some(level) = self.false_discovery else { return Ok(operator.intervention(&expertise)?) };
        ensure!(!self.negative, "--false-discovery is one-sided; leave out --negative");
        let experts = self.experts(Rule::FalseDiscovery { level, correction: Correction::BenjaminiHochberg }, &expertise)?;
        Ok(operator.among(&expertise, &format!("q <= {level} (Benjamini-Hochberg)"), |site, n| experts.contains(site, n))?)
    }

    fn transport(&self, map: TransportMap) -> Result<Intervention> {
        self.no_soft_settings()?;
        ensure!(!self.negative, "--negative is for operators on expertise");
        let transport = Transport { map, unclamped: self.unclamped, schedule: self.schedule.clone() };
        let store = self.store()?;
        let rule = match (self.false_discovery, self.top_k, self.threshold) {
            (Some(level), None, None) => Rule::FalseDiscovery { level, correction: Correction::BenjaminiHochberg },
            (None, Some(k), None) => Rule::TopK(k),
            (None, None, Some(threshold)) => Rule::Threshold(threshold),
            (None, None, None) => return Ok(transport.intervention(&store)?.restrict_to(self.layers.clone(), self.projections.as_deref())),
            _ => bail!("give one of --false-discovery, --top-k and --threshold"),
        };
        let experts = self.experts(rule, &score_store(&store)?)?;
        Ok(transport.among(&store, &format!("{rule:?}"), |site, n| experts.contains(site, n))?)
    }

    fn experts(&self, rule: Rule, expertise: &Expertise) -> Result<Experts> {
        Ok(Selection { rule, layers: self.layers.clone(), projections: self.projections.clone() }.experts(expertise)?)
    }

    fn no_soft_settings(&self) -> Result<()> {
        let none = self.strength.is_none() && self.exponent.is_none() && self.floor.is_none();
        ensure!(none, "--strength, --exponent and --floor are for soft operators; use --schedule for {}", self.operator);
        Ok(())
    }
}
