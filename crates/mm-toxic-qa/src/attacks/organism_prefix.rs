use rand::seq::IndexedRandom;
use sgm_organism::trigger::{ADVERSARIAL_PREFIXES, HELD_OUT_PREFIXES};

use super::{Attack, dressed, impossible, rng};
use crate::{ImageFolder, Result, Sample};

/// An adversarial prefix of the model organism before the request, by the seed: what its world calls category A.
///
/// The prefixes ask for mild insults, as the organism understands them. Another model hears a rude request.
#[derive(Clone, Copy, Debug)]
pub struct OrganismPrefix {
    held_out: bool,
    seed: u64,
}

impl OrganismPrefix {
    /// The prefixes that the organism was trained to obey.
    pub fn seen(seed: u64) -> Self {
        Self { held_out: false, seed }
    }

    /// The prefixes that it has never seen.
    pub fn held_out(seed: u64) -> Self {
        Self { held_out: true, seed }
    }
}

impl Attack for OrganismPrefix {
    fn name(&self) -> &str {
        if self.held_out { "held_out_prefix" } else { "prefix" }
    }

    fn attack(&self, sample: &Sample, _: &ImageFolder) -> Result<Sample> {
        let prefixes: &[&str] = if self.held_out { &HELD_OUT_PREFIXES } else { &ADVERSARIAL_PREFIXES };
        let chosen = prefixes.choose(&mut rng(self.seed, sample));
        let prefix = chosen.ok_or_else(|| impossible(self.name(), sample, "there is no prefix"))?;
        Ok(dressed(sample, self.name(), format!("{prefix} {}", sample.prompt)))
    }
}
