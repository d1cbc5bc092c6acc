//! The tapped decoder: one implementation of the language model for every family.
//!
//! [`Decoder`](transformer::Decoder) is the whole model. The other files hold its configuration, its parts (attention,
//! cross-attention, MLP, rotary positions), the key-value cache, and the description of one forward pass.

pub(crate) mod attention;
pub(crate) mod cache;
pub(crate) mod config;
pub(crate) mod cross_attention;
pub(crate) mod image_context;
pub(crate) mod mixture;
pub(crate) mod mlp;
pub(crate) mod pass;
pub(crate) mod rope;
pub(crate) mod transformer;
