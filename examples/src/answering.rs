//! The settings of answers.

use sgm::models::{GenerateOptions, Sampling};

/// The settings of answers, which are sampled at temperature 1.
#[derive(Clone, Copy, Debug)]
pub struct Answering {
    /// The seed of sampling.
    pub seed: u64,
    /// The length of an answer in tokens.
    pub max_new_tokens: usize,
    /// Prompts run together.
    pub batch_size: usize,
}

impl Answering {
    /// The settings of the organism's experiments: up to 56 tokens, 64 prompts together.
    pub fn with_seed(seed: u64) -> Self {
        Self { seed, max_new_tokens: 56, batch_size: 64 }
    }

    /// The same as options of generation.
    pub fn options(self) -> GenerateOptions {
        let Self { seed, max_new_tokens, batch_size } = self;
        let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
        GenerateOptions { max_new_tokens, batch_size, sampling, seed, ..Default::default() }
    }
}
