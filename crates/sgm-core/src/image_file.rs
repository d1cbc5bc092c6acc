//! Image files, decoded as in transformers 5.

use std::path::Path;

use image::{DynamicImage, ImageReader, Limits, RgbImage};

use crate::{Error, Result};

/// Reads an image file.
///
/// Transparent pixels are blended with white, as in transformers 5. An EXIF orientation is not applied, as in Pillow.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read; [`Error::Image`] if it is not a PNG or JPEG image or has more than 16,384
/// pixels on a side.
pub fn load_image(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    // Opening a pipe or a device would block.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(Error::Image { name: path.display().to_string(), reason: "not a regular file".to_owned() });
    }
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })?;
    decode_image(&path.display().to_string(), &bytes)
}

/// Decodes the bytes of a PNG or JPEG file; `name` is their source, for error messages.
///
/// # Errors
///
/// [`Error::Image`] as for [`load_image`].
pub fn decode_image(name: &str, bytes: &[u8]) -> Result<RgbImage> {
    let error = |reason: String| Error::Image { name: name.to_owned(), reason };
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format().map_err(|e| error(e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(1 << 14);
    limits.max_image_height = Some(1 << 14);
    limits.max_alloc = Some(1 << 30);
    reader.limits(limits);
    Ok(over_white(reader.decode().map_err(|e| error(e.to_string()))?))
}

/// Removes the alpha channel by blending the image with white.
fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        image::Rgb([r, g, b].map(|c| blend(c, a)))
    })
}

/// Blends one channel with white, in the integer arithmetic of Pillow's alpha compositing.
fn blend(channel: u8, alpha: u8) -> u8 {
    let (c, a) = (u32::from(channel), u32::from(alpha));
    let x = (c * a + 255 * (255 - a)) * 128 + (1 << 14);
    u8::try_from((((x >> 8) + x) >> 8) >> 7).unwrap_or(u8::MAX)
}
