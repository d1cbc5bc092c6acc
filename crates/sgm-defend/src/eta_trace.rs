//! The record of how ETA reached an answer.

use sgm_models::Generation;

/// The steps from a prompt to the answer of ETA.
#[derive(Debug, Clone, PartialEq)]
pub struct EtaTrace {
    /// The answer.
    pub answer: Generation,
    /// The direct answer.
    pub direct: Generation,
    /// Its reward.
    pub reward: f64,
    /// The unsafety of the image, if there is one and it was scored.
    pub unsafety: Option<f64>,
    /// The sentences of an aligned answer.
    pub sentences: Vec<Sentence>,
    /// The decision.
    pub branch: EtaBranch,
}

/// The decision of ETA about a prompt and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EtaBranch {
    /// The direct answer is safe.
    SafeAnswer,
    /// The answer is unsafe and the image is safe: the direct answer.
    SafeImage,
    /// Both are unsafe: the answer is written anew.
    Aligned,
}

/// The candidates for a sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    /// The candidates in the order in which they were drawn.
    pub candidates: Vec<Candidate>,
    /// The index of the kept one: the first of those with the highest score.
    pub chosen: usize,
}

/// A candidate for a sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The answer up to and including the candidate.
    pub answer: Generation,
    /// The reward of that answer.
    pub reward: f64,
    /// The similarity of the new sentence with the image, where it counts.
    pub similarity: Option<f64>,
}
