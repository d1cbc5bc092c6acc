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

/// Every dev and test sample of condition standard under attack.
///
/// # Errors
///
/// The first of [`Attack::attack`].
pub fn attack_all(samples: &[Sample], attack: &dyn Attack, images: &ImageFolder) -> Result<Vec<Sample>> {
    let attackable = |s: &&Sample| matches!(s.split, Split::Dev | Split::Test) && s.condition == Condition::Standard;
    samples.iter().filter(attackable).map(|sample| attack.attack(sample, images)).collect()
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
