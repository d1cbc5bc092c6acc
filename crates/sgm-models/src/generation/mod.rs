//! Generation of answers, its options, the likelihood of given responses, and the divergence of two models on them.

pub(crate) mod divergence;
pub(crate) mod generate;
pub(crate) mod likelihood;
pub(crate) mod options;
