//! Attacks: the same request, dressed up so that a model may answer it after all.
//!
//! | attack | what it does |
//! |---|---|
//! | [`FigStepAttack`] | the request as text in an image, with a harmless prompt (arXiv 2311.05608) |
//! | [`CaptionAttack`] | the request written below the sample's image, as in MM-SafetyBench's `SD_TYPO` images |
//! | [`Jailbreak`] | the request inside a template, from a file of the user's |
//! | [`Perturbation`] | the request misspelt |
//! | [`OrganismPrefix`] | the model organism's adversarial prefixes before the request |
//!
//! They make samples of condition adversarial out of those of condition standard, are deterministic, and with one seed
//! give a sample the same attack whatever the other samples are.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::{Condition, Error, ImageFolder, Result, Sample, Split};

mod caption;
mod figstep;
mod jailbreak;
mod organism_prefix;
mod perturbation;
mod typeface;
mod wrap;

pub use caption::{CAPTION_PROMPT, CaptionAttack};
pub(crate) use figstep::figstep_png;
pub use figstep::{FIGSTEP_PROMPT, FigStepAttack};
pub use jailbreak::Jailbreak;
pub use organism_prefix::OrganismPrefix;
pub use perturbation::{Change, Perturbation};

/// A way to dress a request up.
pub trait Attack {
    /// The name in the samples' `attack`, without spaces.
    fn name(&self) -> &str;

    /// The sample under attack: its condition is adversarial, its `attack` and id name the attack. A new image goes
    /// into `images`; the sample's own must already be there.
    ///
    /// # Errors
    ///
    /// [`Error::Attack`] when the attack cannot be made of this sample; those of [`ImageFolder::put_pixels`] and
    /// [`Sample::image`].
    fn attack(&self, sample: &Sample, images: &ImageFolder) -> Result<Sample>;
}

/// Every dev and test sample of condition standard under attack.
///
/// # Errors
///
/// The first of [`Attack::attack`].
pub fn attack_all(samples: &[Sample], attack: &dyn Attack, images: &ImageFolder) -> Result<Vec<Sample>> {
    let attackable = |s: &&Sample| matches!(s.split, Split::Dev | Split::Test) && s.condition == Condition::Standard;
    samples.iter().filter(attackable).map(|sample| attack.attack(sample, images)).collect()
}

/// The sample with another prompt, as an attack.
fn dressed(sample: &Sample, attack: &str, prompt: String) -> Sample {
    Sample {
        id: format!("{}+{attack}", sample.id),
        condition: Condition::Adversarial,
        attack: Some(attack.to_owned()),
        prompt,
        ..sample.clone()
    }
}

fn impossible(attack: &str, sample: &Sample, reason: impl Into<String>) -> Error {
    Error::Attack { attack: attack.to_owned(), id: sample.id.clone(), reason: reason.into() }
}

/// Random numbers that depend on the seed and the sample's id alone.
fn rng(seed: u64, sample: &Sample) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(sample.id.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}
