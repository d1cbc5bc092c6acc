//! Image processor settings and images: parsed or refused, and settings that are accepted fit any image.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_models::{ImageProcessor, decode_image};

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_image("fuzz", bytes);
    if let Ok(processor) = ImageProcessor::from_json(bytes) {
        let _ = processor.process(&[vec![&image::RgbImage::new(3, 2)]]);
    }
});
