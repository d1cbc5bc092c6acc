//! Image files, decoded as transformers 5 sees them.

use std::path::Path;

use image::{DynamicImage, ImageReader, Limits, RgbImage};

use crate::{Error, Result};

/// Reads an image file.
///
/// Transparent pixels are laid over white, as transformers 5 does; an EXIF orientation is not applied, as
/// Pillow does not apply it on opening.
///
/// # Errors
///
/// [`Error::Io`] when it cannot be read, [`Error::Image`] when it is not a PNG or JPEG image or is
/// larger than 16,384 pixels on a side.
pub fn load_image(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    // Opening a pipe or a device would wait for ever.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(Error::Image { name: path.display().to_string(), reason: "not a regular file".to_owned() });
    }
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    decode_image(&path.display().to_string(), &bytes)
}

/// Decodes the bytes of a PNG or JPEG file; `name` says in errors where they came from.
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

/// Drops the alpha channel by laying the image over white.
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

/// One channel over white, in the integers of Pillow's alpha compositing.
fn blend(channel: u8, alpha: u8) -> u8 {
    let (c, a) = (u32::from(channel), u32::from(alpha));
    let x = (c * a + 255 * (255 - a)) * 128 + (1 << 14);
    u8::try_from((((x >> 8) + x) >> 8) >> 7).unwrap_or(u8::MAX)
}
