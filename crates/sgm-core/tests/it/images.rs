//! Image files of many formats are read as Pillow reads them.

use std::collections::HashMap;
use std::path::PathBuf;

use image::RgbImage;
use serde::Deserialize;
use sgm_core::image_file::{decode_image, extension, load_image};
use sgm_core::{Error, sha256::hex_digest};

#[derive(Deserialize)]
struct Golden {
    size: (u32, u32),
    /// The pixels in hex, for formats whose decoders may differ.
    rgb: Option<String>,
    sha256: String,
    cuts: Vec<usize>,
    read: Vec<usize>,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

fn golden() -> Vec<(String, Vec<u8>, Golden)> {
    let text = std::fs::read(directory().join("images.json")).unwrap();
    let golden: HashMap<String, Golden> = serde_json::from_slice(&text).unwrap();
    golden.into_iter().map(|(name, golden)| (name.clone(), std::fs::read(directory().join(name)).unwrap(), golden)).collect()
}

/// Fails unless the pixels are Pillow's: bit for bit, but for compressed formats with losses, whose decoders round differently.
fn compare(name: &str, image: &RgbImage, golden: &Golden) -> Option<String> {
    if image.dimensions() != golden.size {
        return Some(format!("{name}: {:?}", image.dimensions()));
    }
    let Some(hex) = &golden.rgb else {
        return (hex_digest(image.as_raw()) != golden.sha256).then(|| format!("{name}: other pixels"));
    };
    let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    let differences: Vec<u8> = image.as_raw().iter().zip(bytes).map(|(a, b)| a.abs_diff(b)).collect();
    let mean = differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64;
    (mean > MEAN).then(|| format!("{name}: {mean} on average, at most {:?}", differences.iter().max()))
}

/// The mean difference to libjpeg and libwebp, which upsample colour and round otherwise.
const MEAN: f64 = 1.0;

#[test]
fn pixels_are_those_of_pillow() {
    let faults: Vec<String> = golden()
        .iter()
        .filter_map(|(name, bytes, golden)| match decode_image(name, bytes) {
            Err(Error::Image { reason, .. }) if name == "palette.tiff" => (!reason.contains("RGBPalette")).then_some(reason),
            Ok(image) => compare(name, &image, golden),
            Err(error) => Some(error.to_string()),
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_that_are_cut_off_are_errors() {
    let mut faults = Vec::new();
    for (name, bytes, golden) in golden() {
        for cut in &golden.cuts {
            match (decode_image(&name, &bytes[..*cut]), golden.read.contains(cut)) {
                (Ok(_), false) => faults.push(format!("{name} is read although cut off at {cut} of {}", bytes.len())),
                (Ok(image), true) => faults.extend(compare(&name, &image, &golden).map(|fault| format!("cut at {cut}: {fault}"))),
                // Of files that Pillow still reads some are refused.
                (Err(Error::Image { .. }), _) => {}
                (Err(other), _) => faults.push(other.to_string()),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_length_of_a_jpeg_but_the_whole_is_an_error() {
    for name in ["baseline.jpg", "progressive.jpg", "restart.jpg", "thumbnail.jpg"] {
        let bytes = std::fs::read(directory().join(name)).unwrap();
        assert!((0..bytes.len()).all(|cut| decode_image(name, &bytes[..cut]).is_err()), "{name}");
        // What follows the end is no part of the image.
        assert!(decode_image(name, &[&bytes[..], b"\0\xff\0 more"].concat()).is_ok(), "{name}");
    }
}

#[test]
fn the_content_tells_the_format() {
    let bytes = std::fs::read(directory().join("webp.jpg")).unwrap();
    assert_eq!(extension(&bytes), Some("webp"));
    assert_eq!(load_image(directory().join("webp.jpg")).unwrap(), load_image(directory().join("lossless.webp")).unwrap());
    assert_eq!(extension(b"no image"), None);
}

#[test]
fn images_are_large_by_their_pixels() {
    // A header alone: 20,000 x 20 pixels are few, 20,000 x 20,000 too many.
    let png = |width: u32, height: u32| {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        let pixels = vec![0; (width * height) as usize];
        image::ImageEncoder::write_image(encoder, &pixels, width, height, image::ExtendedColorType::L8).unwrap();
        bytes
    };
    assert_eq!(decode_image("wide.png", &png(20_000, 20)).unwrap().dimensions(), (20_000, 20));
    let mut bmp = std::fs::read(directory().join("rgb.bmp")).unwrap();
    bmp[18..22].copy_from_slice(&20_000i32.to_le_bytes());
    bmp[22..26].copy_from_slice(&20_000i32.to_le_bytes());
    let error = decode_image("bomb.bmp", &bmp).unwrap_err();
    assert!(error.to_string().contains("20000 x 20000 pixels"), "{error}");
}
