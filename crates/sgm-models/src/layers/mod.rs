//! Building blocks of neural networks, shared by the decoder and the vision towers.
//!
//! The files hold activation functions, attention, derivatives of operations that candle does not record, linear layers,
//! weight matrices in their stored formats and the products with them, and in-place access to tensor values. Nothing here depends on a model family or on a
//! checkpoint.

pub(crate) mod activation;
pub(crate) mod attend;
pub(crate) mod derivative;
pub(crate) mod exponential;
pub(crate) mod fused_attention;
pub(crate) mod linear;
pub(crate) mod matrix;
pub(crate) mod products;
pub(crate) mod values;
