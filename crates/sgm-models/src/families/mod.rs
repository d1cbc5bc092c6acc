//! Model families: one file per family, and [`AutoMllm`](auto::AutoMllm), which loads any of them.
//!
//! A family file loads a checkpoint of the family and defines how its images enter the shared decoder, through the
//! [`Family`](family::Family) trait.

pub(crate) mod auto;
pub(crate) mod family;
pub(crate) mod gemma3;
pub(crate) mod idefics3;
pub(crate) mod image_tokens;
pub(crate) mod instructblip;
pub(crate) mod internvl;
pub(crate) mod llava;
pub(crate) mod llava_next;
pub(crate) mod llava_onevision;
pub(crate) mod mllama;
pub(crate) mod paligemma;
pub(crate) mod pixtral;
pub(crate) mod qwen_vl;
pub(crate) mod text;
pub(crate) mod tiled_features;
