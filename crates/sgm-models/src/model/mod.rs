//! The interface of a model: the trait [`Mllm`](mllm::Mllm), a prefill that runs in parts, and a model with taps of its
//! own.

pub(crate) mod mllm;
pub(crate) mod partial_prefill;
pub(crate) mod tapped_model;
