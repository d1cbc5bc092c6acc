//! Image files, decoded as in transformers 5.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use crate::whole_image::is_whole;
use crate::{Error, Result};

/// The largest number of pixels: that of Pillow's `DecompressionBombError`.
const MAX_PIXELS: u64 = 178_956_970;

/// The largest number of pixels on a side.
const MAX_SIDE: u32 = 1 << 16;

/// The largest number of bytes of an image, in memory.
const MAX_BYTES: u64 = 1 << 30;

/// Reads an image file: PNG or JPEG and, with feature `image-formats`, WebP, GIF (the first frame), BMP or TIFF (without a palette). The
/// content tells the format, not the name.
///
/// The pixels are those that an image processor of transformers 5 sees, given `PIL.Image.open`: transparent pixels are blended with white,
/// an EXIF orientation is not applied (`load_image` of transformers applies it, and drops alpha; it is used for images named in messages).
/// Colours of 16 bits lose their lower byte. Greys of 16 bits above 255 become white, as `convert("RGB")` of Pillow has it: scale such
/// images to 8 bits first.
///
/// A file that is cut off anywhere is an error, even at the end, where Pillow still reads some: they were not copied whole.
///
/// # Errors
///
/// [`Error::Io`] if the file cannot be read; [`Error::Image`] if it is not an image of these formats, is cut off or damaged, or is too
/// large: more than 178,956,970 pixels, 65,536 on a side, or 1 GiB in memory.
pub fn load_image(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    // Opening a pipe or a device would block.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(Error::Image { name: path.display().to_string(), reason: "not a regular file".to_owned() });
    }
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })?;
    decode_image(&path.display().to_string(), &bytes)
}

/// Decodes the bytes of an image file; `name` is their source, for error messages.
///
/// # Errors
///
/// [`Error::Image`] as for [`load_image`].
pub fn decode_image(name: &str, bytes: &[u8]) -> Result<RgbImage> {
    let error = |reason: String| Error::Image { name: name.to_owned(), reason };
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| error(e.to_string()))?;
    let format = reader.format();
    if let Some(format) = format.filter(|format| !format.reading_enabled()) {
        return Err(error(format!("this build does not read {format:?} files")));
    }
    if format.is_some_and(|format| !is_whole(format, bytes)) {
        return Err(error("the file is cut off; copy it again".to_owned()));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| error(e.to_string()))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_BYTES {
        return Err(error(format!("{width} x {height} pixels are more than {MAX_PIXELS}, or take more than 1 GiB")));
    }
    Ok(to_rgb(DynamicImage::from_decoder(decoder).map_err(|e| error(e.to_string()))?))
}

/// The usual ending of the name of an image file with this content, `png` or `webp` for example; `None` if it is no image.
pub fn extension(bytes: &[u8]) -> Option<&'static str> {
    image::guess_format(bytes).ok().and_then(|format| format.extensions_str().first().copied())
}

/// The pixels as Pillow's `convert("RGB")` has them, over white where they are transparent.
fn to_rgb(image: DynamicImage) -> RgbImage {
    match image {
        DynamicImage::ImageLuma16(grey) => RgbImage::from_fn(grey.width(), grey.height(), |x, y| {
            image::Rgb([u8::try_from(grey.get_pixel(x, y).0[0]).unwrap_or(u8::MAX); 3])
        }),
        DynamicImage::ImageLumaA16(pixels) => RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| {
            let [grey, alpha] = pixels.get_pixel(x, y).0.map(high_byte);
            image::Rgb([blend(grey, alpha); 3])
        }),
        DynamicImage::ImageRgb16(pixels) => {
            RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| image::Rgb(pixels.get_pixel(x, y).0.map(high_byte)))
        }
        DynamicImage::ImageRgba16(pixels) => RgbImage::from_fn(pixels.width(), pixels.height(), |x, y| {
            let [r, g, b, alpha] = pixels.get_pixel(x, y).0.map(high_byte);
            image::Rgb([r, g, b].map(|c| blend(c, alpha)))
        }),
        image if image.color().has_alpha() => {
            let rgba = image.into_rgba8();
            RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
                let [r, g, b, alpha] = rgba.get_pixel(x, y).0;
                image::Rgb([r, g, b].map(|c| blend(c, alpha)))
            })
        }
        image => image.into_rgb8(),
    }
}

fn high_byte(value: u16) -> u8 {
    value.to_be_bytes()[0]
}

/// Blends one channel with white, in the integer arithmetic of Pillow's alpha compositing.
fn blend(channel: u8, alpha: u8) -> u8 {
    let (c, a) = (u32::from(channel), u32::from(alpha));
    let x = (c * a + 255 * (255 - a)) * 128 + (1 << 14);
    u8::try_from((((x >> 8) + x) >> 8) >> 7).unwrap_or(u8::MAX)
}
