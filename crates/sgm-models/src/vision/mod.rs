//! Vision towers: from pixels to image features.
//!
//! Each tower has a file, named after the model family or the tower itself. The grids of Qwen-VL, the Q-Former of
//! InstructBLIP, attention within images, and the features that are kept have files of their own.

pub(crate) mod blip;
pub(crate) mod clip_siglip;
pub(crate) mod feature_cache;
pub(crate) mod idefics3;
pub(crate) mod internvl;
pub(crate) mod mllama;
pub(crate) mod patch_convolution;
pub(crate) mod pixtral;
pub(crate) mod qformer;
pub(crate) mod qwen;
pub(crate) mod qwen_grid;
pub(crate) mod segment_attention;
