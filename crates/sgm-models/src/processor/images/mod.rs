//! Image processing: from image files to pixel tensors, bit-equal to the image processors of transformers.
//!
//! [`ImageProcessor`](image_processor::ImageProcessor) reads the settings and chooses one of seven layouts: one picture
//! per image (`clip`), tiles at the best of several resolutions (`anyres`), tiles on a canvas (`tiles`), tiles in the
//! closest proportions (`ratio_tiles`), patches in the image's own proportions (`smart_resize`), squares (`split`), or the
//! image within a longest edge (`longest_edge`).

pub(crate) mod anyres;
pub(crate) mod clip;
pub(crate) mod image_processor;
pub(crate) mod layout;
pub(crate) mod longest_edge;
pub(crate) mod pixels;
pub(crate) mod ratio_tiles;
pub(crate) mod resample;
pub(crate) mod settings;
pub(crate) mod smart_resize;
pub(crate) mod split;
pub(crate) mod tiles;
