//! The interface of a model: the trait [`Mllm`](mllm::Mllm), a prefill that runs in parts, one that begins with tokens that
//! were run before, and a model with taps of its own.

pub(crate) mod mllm;
pub(crate) mod partial_prefill;
pub(crate) mod shared_prefix;
pub(crate) mod tapped_model;
