//! Attacks as a trait, and the parts that they share.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::{Condition, Error, ImageFolder, Result, Sample, Split};

/// A way to change a request so that a model may answer it after all.
pub trait Attack {
    /// The name in the samples' `attack`, without spaces.
    fn name(&self) -> &str;

    /// The sample under attack, made with [`Sample::attacked`]. A new image goes into `images`; the image of the sample must already be
    /// there.
    ///
    /// # Errors
    ///
    /// [`Error::Attack`] when the attack cannot be made of this sample; those of [`ImageFolder::put_pixels`] and
    /// [`Sample::image`].
    fn attack(&self, sample: &Sample, images: &ImageFolder) -> Result<Sample>;
}

/// The samples of a manifest under attack.
#[derive(Debug)]
pub struct Attacked {
    /// The samples under attack.
    pub samples: Vec<Sample>,
    /// The errors of the samples that the attack cannot be made of, each of which names its sample.
    pub left_out: Vec<Error>,
}

/// Every dev and test sample of condition standard under attack; those that it cannot be made of are left out, with a warning.
///
/// # Errors
///
/// [`Error::NothingAttacked`] when no sample is left, [`Error::Write`] when an image cannot be written.
pub fn attack_all(samples: &[Sample], attack: &dyn Attack, images: &ImageFolder) -> Result<Attacked> {
    let attackable = |s: &&Sample| matches!(s.split, Split::Dev | Split::Test) && s.condition == Condition::Standard;
    let mut attacked = Attacked { samples: Vec::new(), left_out: Vec::new() };
    for sample in samples.iter().filter(attackable) {
        match attack.attack(sample, images) {
            Ok(sample) => attacked.samples.push(sample),
            Err(error @ Error::Write(_)) => return Err(error),
            Err(error) => {
                tracing::warn!("left out: {error}");
                attacked.left_out.push(error);
            }
        }
    }
    if attacked.samples.is_empty() {
        let reason = match attacked.left_out.first() {
            None => "there is no dev or test sample of condition standard".to_owned(),
            Some(first) => format!("all {} samples are left out, the first because of: {first}", attacked.left_out.len()),
        };
        return Err(Error::NothingAttacked { attack: attack.name().to_owned(), reason });
    }
    Ok(attacked)
}

/// The sample under an attack that hides or garbles what it asks for, which stays with it for judges.
pub(super) fn disguised(sample: &Sample, attack: &str, prompt: String) -> Sample {
    Sample { request: Some(sample.asks_for().to_owned()), ..sample.attacked(attack, prompt) }
}

/// The error that an attack cannot be made of a sample.
pub(super) fn impossible(attack: &str, sample: &Sample, reason: impl Into<String>) -> Error {
    Error::Attack { attack: attack.to_owned(), id: sample.id.clone(), reason: reason.into() }
}

/// The seed of the random choices of an attack on a sample, which depends on the seed of the attack and the id of the sample alone.
pub fn sample_seed(seed: u64, sample: &Sample) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(sample.id.as_bytes());
    hash.finalize().into()
}

/// Random numbers from the [`sample_seed`].
pub(super) fn rng(seed: u64, sample: &Sample) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(sample_seed(seed, sample))
}
