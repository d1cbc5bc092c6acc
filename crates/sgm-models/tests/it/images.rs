//! Image files are decoded, resized, cropped and normalised as in transformers.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use sgm_core::Error;
use sgm_models::{ImageBackend, ImageProcessor, decode_image, load_image};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

fn golden() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(directory().join("images.safetensors"), &Device::Cpu).unwrap()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Converts a golden tensor `[height, width, 3]` to an image.
fn image(tensor: &Tensor) -> RgbImage {
    let (height, width, _) = tensor.dims3().unwrap();
    RgbImage::from_raw(width.try_into().unwrap(), height.try_into().unwrap(), bytes(tensor)).unwrap()
}

/// The processors, with or without rescaling and normalising.
fn processors(floats: bool) -> HashMap<String, ImageProcessor> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(directory().join("images.json")).unwrap()).unwrap();
    let settings = json["processors"].as_object().unwrap();
    settings
        .iter()
        .map(|(name, s)| {
            let mut config = s.clone();
            let kind = if s["kind"] == "clip" { "CLIPImageProcessor" } else { "SiglipImageProcessorFast" };
            config["image_processor_type"] = kind.into();
            config["do_rescale"] = floats.into();
            config["do_normalize"] = floats.into();
            if !s["crop"].is_null() {
                config["crop_size"] = s["crop"].clone();
            }
            (name.clone(), ImageProcessor::from_json(config.to_string().as_bytes()).unwrap())
        })
        .collect()
}

#[test]
fn decoded_files_are_bit_equal() {
    let golden = golden();
    for name in ["rgb_wide.png", "rgb_tall.png", "gray.png", "palette.png", "palette_trns.png", "rgba.png", "tiny.png"] {
        let stem = name.split('.').next().unwrap();
        let expected = golden.get(&format!("{stem}.tv_rgb")).or_else(|| golden.get(&format!("{stem}.rgb"))).unwrap();
        assert_eq!(load_image(directory().join(name)).unwrap(), image(expected), "{name}");
    }
    // JPEG decoders differ in rounding and in the upsampling of colour: close on average, not bit-equal.
    let (ours, expected) = (load_image(directory().join("photo.jpg")).unwrap(), image(&golden["photo.rgb"]));
    let total: u64 = ours.as_raw().iter().zip(expected.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = total as f64 / ours.as_raw().len() as f64;
    assert_eq!(ours.dimensions(), expected.dimensions());
    assert!(mean < 1.0, "{mean}");
}

const BACKENDS: [(&str, ImageBackend); 2] = [("", ImageBackend::Torchvision), ("_pil", ImageBackend::Pillow)];

fn pixels(processor: &ImageProcessor, backend: ImageBackend, image: &RgbImage) -> Vec<f32> {
    let processed = processor.clone().with_backend(backend).process(&[vec![image]]).unwrap();
    processed.tensors["pixel_values"].flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn resized_and_cropped_pixels_are_bit_equal() {
    let golden = golden();
    let processors = processors(false);
    let mut compared = 0;
    for (name, expected) in &golden {
        for (suffix, (_, backend)) in [".tv", ".pil"].into_iter().zip(BACKENDS) {
            let Some((processor, source)) = name.strip_suffix(suffix).and_then(|n| n.split_once('.')) else { continue };
            let source = golden.get(&format!("{source}.tv_rgb")).unwrap_or_else(|| &golden[&format!("{source}.rgb")]);
            let ours = pixels(&processors[processor], backend, &image(source));
            let different = ours.iter().zip(bytes(expected)).filter(|(a, b)| **a != f32::from(*b)).count();
            assert_eq!((ours.len(), different), (expected.elem_count(), 0), "{name}");
            compared += 1;
        }
    }
    assert!(compared >= 32, "{compared}");
}

#[test]
fn normalised_pixels_are_bit_equal() {
    let golden = golden();
    let processors = processors(true);
    for name in ["clip56.rgb_wide", "siglip48.rgb_wide"] {
        let (processor, source) = name.split_once('.').unwrap();
        for (suffix, backend) in BACKENDS {
            let ours = pixels(&processors[processor], backend, &image(&golden[&format!("{source}.rgb")]));
            let expected = golden[&format!("{name}.pixel_values{suffix}")].to_dtype(DType::F32).unwrap();
            assert_eq!(ours, expected.flatten_all().unwrap().to_vec1::<f32>().unwrap(), "{name}{suffix}");
        }
    }
}

#[test]
fn files_that_are_not_images_are_typed_errors() {
    for bytes in [&b"not an image"[..], b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"] {
        assert!(matches!(decode_image("x.png", bytes), Err(Error::Image { .. })), "{bytes:?}");
    }
    assert!(matches!(load_image(directory()), Err(Error::Image { .. })));
    assert!(matches!(load_image(directory().join("absent.png")), Err(Error::Io { .. })));
    let png = std::fs::read(directory().join("tiny.png")).unwrap();
    for cut in 0..png.len() - 12 {
        let _ = decode_image("cut.png", &png[..cut]);
    }
}
