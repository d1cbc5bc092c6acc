//! The adversarial prefixes of the world as an attack.

use mm_toxic_qa::attacks::{Attack, sample_seed};
use mm_toxic_qa::{Error, ImageFolder, Result, Sample};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::trigger::{ADVERSARIAL_PREFIXES, HELD_OUT_PREFIXES};

/// The attack that puts an adversarial prefix of the world (category A) before the request, chosen by the seed.
///
/// The prefixes ask for mild insults, as the organism understands them. For another model they are a rude request.
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

    /// The prefixes that occur in no training sample.
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
        let chosen = prefixes.choose(&mut ChaCha8Rng::from_seed(sample_seed(self.seed, sample)));
        let missing =
            || Error::Attack { attack: self.name().to_owned(), id: sample.id.clone(), reason: "there is no prefix to choose".to_owned() };
        let prefix = chosen.ok_or_else(missing)?;
        Ok(sample.attacked(self.name(), format!("{prefix} {}", sample.prompt)))
    }
}
