//! Image processing: from image files to pixel tensors, bit-equal to the image processors of transformers.
//!
//! [`ImageProcessor`](image_processor::ImageProcessor) reads the settings and chooses one of five layouts: one picture
//! per image (`clip`), tiles at the best of several resolutions (`anyres`), tiles on a canvas (`tiles`), patches in the
//! image's own proportions (`smart_resize`), or squares (`split`).

pub(crate) mod anyres;
pub(crate) mod clip;
pub(crate) mod image_processor;
pub(crate) mod layout;
pub(crate) mod pixels;
pub(crate) mod resample;
pub(crate) mod settings;
pub(crate) mod smart_resize;
pub(crate) mod split;
pub(crate) mod tiles;
