//! Generation of answers, its options, and the likelihood of given responses.

pub(crate) mod generate;
pub(crate) mod likelihood;
pub(crate) mod options;
