//! From images to pixels, exactly as transformers' CLIP and SigLIP image processors do it.

use std::path::Path;

use candle_core::{Device, Tensor};
use fast_image_resize::images::Image as Pixels;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageReader, Limits, RgbImage};

use crate::checkpoint::Checkpoint;
use crate::config::Section;
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

/// TEMPORARY
#[derive(Debug, Clone, Default)]
pub struct ProcessedImages {
    /// a
    pub tensors: std::collections::BTreeMap<String, Tensor>,
    /// b
    pub images: Vec<ImageLayout>,
}
/// TEMPORARY
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLayout {
    /// a
    pub height: u32,
    /// a
    pub width: u32,
    /// a
    pub rows: usize,
    /// a
    pub cols: usize,
}

/// An image processor with the settings of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    resize: Option<Resize>,
    crop: Option<(u32, u32)>,
    filter: FilterType,
    mean: [f32; 3],
    std: [f32; 3],
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Resize {
    ShortestEdge(u32),
    Exact { height: u32, width: u32 },
}

const MAX_SIDE: u32 = 1 << 14;

impl ImageProcessor {
    /// Reads the settings of a checkpoint: `image_processor` of `processor_config.json`, or
    /// `preprocessor_config.json`. `size` is the side of the vision tower's input, which stands in for
    /// settings that are left out.
    pub(crate) fn load(checkpoint: &Checkpoint, size: usize) -> Result<Self> {
        let nested = match checkpoint.json("processor_config.json")? {
            Some(config) if config.get("image_processor").is_some() => Some(config.section("image_processor")?),
            _ => None,
        };
        let config = match nested {
            Some(config) => config,
            None => checkpoint
                .json("preprocessor_config.json")?
                .ok_or_else(|| checkpoint.missing("preprocessor_config.json or image_processor in processor_config.json"))?,
        };
        Self::from_config(&config, size)
    }

    /// Reads the settings of a `preprocessor_config.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] naming the key, [`Error::Unsupported`] for another kind of processor.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        Self::from_config(&Section::parse("preprocessor_config.json", json)?, 224)
    }

    fn from_config(config: &Section, size: usize) -> Result<Self> {
        let kind = config.string("image_processor_type")?.unwrap_or("CLIPImageProcessor");
        let family = kind.trim_end_matches("Fast").trim_end_matches("Pil");
        let clip = match family {
            "CLIPImageProcessor" => true,
            "SiglipImageProcessor" => false,
            _ => {
                let supported = &["CLIPImageProcessor", "SiglipImageProcessor"];
                return Err(Error::Unsupported { what: "image processor", got: kind.to_owned(), supported });
            }
        };
        let flag = |key: &str, default: bool| config.bool(key).map(|b| b.unwrap_or(default));
        let side = u32::try_from(size).unwrap_or(MAX_SIDE);
        let resize = if !flag("do_resize", true)? {
            None
        } else if clip {
            Some(resize_target(config, "size")?.unwrap_or(Resize::ShortestEdge(side)))
        } else {
            Some(resize_target(config, "size")?.unwrap_or(Resize::Exact { height: side, width: side }))
        };
        let crop = if flag("do_center_crop", clip)? {
            match resize_target(config, "crop_size")? {
                Some(Resize::Exact { height, width }) => Some((height, width)),
                Some(Resize::ShortestEdge(side)) => Some((side, side)),
                None => Some((side, side)),
            }
        } else {
            None
        };
        let filter = match config.i64("resample")?.unwrap_or(3) {
            2 => FilterType::Bilinear,
            3 => FilterType::CatmullRom,
            other => return Err(config.error("resample", format!("{other} is not supported; 2 (bilinear) and 3 (bicubic) are"))),
        };
        let (default_mean, default_std) = if clip { (CLIP_MEAN, CLIP_STD) } else { ([0.5; 3], [0.5; 3]) };
        let (mean, std) = if flag("do_normalize", true)? {
            (triple(config, "image_mean", default_mean)?, triple(config, "image_std", default_std)?)
        } else {
            ([0.0; 3], [1.0; 3])
        };
        if std.contains(&0.0) {
            return Err(config.error("image_std", "must not contain 0"));
        }
        // The reference folds the rescaling into the normalisation: (x - mean / factor) / (std / factor).
        let factor = if flag("do_rescale", true)? { config.f64("rescale_factor")?.unwrap_or(1.0 / 255.0) } else { 1.0 };
        if factor <= 0.0 {
            return Err(config.error("rescale_factor", "must be positive"));
        }
        #[allow(clippy::cast_possible_truncation, reason = "the reference normalises in f32")]
        let inverse = (1.0 / factor) as f32;
        Ok(Self { resize, crop, filter, mean: mean.map(|m| m * inverse), std: std.map(|s| s * inverse) })
    }

    /// Resizes and crops an image, still in 8 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when the image is empty or so elongated that its resized form would be huge.
    pub fn fit(&self, image: &RgbImage) -> Result<RgbImage> {
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 {
            return Err(Error::Inputs { reason: "an image has no pixels".to_owned() });
        }
        let resized = match self.resize {
            None => image.clone(),
            Some(target) => {
                let (to_width, to_height) = match target {
                    Resize::Exact { height, width } => (width, height),
                    Resize::ShortestEdge(side) => shortest_edge(width, height, side),
                };
                if to_width > MAX_SIDE || to_height > MAX_SIDE || to_width == 0 || to_height == 0 {
                    return Err(Error::Inputs { reason: format!("an image of {width}x{height} would become {to_width}x{to_height}") });
                }
                resize(image, to_width, to_height, self.filter)?
            }
        };
        Ok(match self.crop {
            None => resized,
            Some((height, width)) => center_crop(&resized, width, height),
        })
    }

    /// What a model takes of the images of a batch, row by row.
    pub fn process(&self, rows: &[Vec<&RgbImage>]) -> Result<ProcessedImages> {
        let images: Vec<&RgbImage> = rows.concat();
        let layout = |image: &&RgbImage| ImageLayout { height: image.height(), width: image.width(), rows: 1, cols: 1 };
        let tensors =
            if images.is_empty() { [].into() } else { [("pixel_values".to_owned(), self.pixels(images.iter().copied())?)].into() };
        Ok(ProcessedImages { images: images.iter().map(layout).collect(), tensors })
    }

    /// Pixels f32 `[images, 3, height, width]`, normalised.
    ///
    /// # Errors
    ///
    /// As [`fit`](Self::fit); also when the images end up in different sizes.
    pub fn pixels<'a>(&self, images: impl IntoIterator<Item = &'a RgbImage>) -> Result<Tensor> {
        let mut all = Vec::new();
        for image in images {
            let fitted = self.fit(image)?;
            let (width, height) = fitted.dimensions();
            let mut planes: [Vec<f32>; 3] = Default::default();
            for pixel in fitted.pixels() {
                for (((plane, value), mean), std) in planes.iter_mut().zip(pixel.0).zip(self.mean).zip(self.std) {
                    plane.push((f32::from(value) - mean) / std);
                }
            }
            let size = [height, width].map(|n| usize::try_from(n).unwrap_or(0));
            all.push(Tensor::from_vec(planes.concat(), (3, size[0], size[1]), &Device::Cpu)?);
        }
        Ok(Tensor::stack(&all, 0)?)
    }
}

const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

fn triple(config: &Section, key: &str, default: [f32; 3]) -> Result<[f32; 3]> {
    let Some(value) = config.get(key) else { return Ok(default) };
    #[allow(clippy::cast_possible_truncation, reason = "the reference normalises in f32")]
    let numbers: Option<Vec<f32>> = value.as_array().and_then(|a| a.iter().map(|v| v.as_f64().map(|f| f as f32)).collect());
    numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| config.error(key, "expected three numbers"))
}

/// A size in any of its spellings: a number (the shortest edge), `shortest_edge`, or `height` and `width`.
fn resize_target(config: &Section, key: &str) -> Result<Option<Resize>> {
    let side = |section: &Section, key: &str| -> Result<Option<u32>> {
        match section.u32(key)? {
            Some(n) if n == 0 || n > MAX_SIDE => Err(section.error(key, format!("{n} is not an image size"))),
            n => Ok(n),
        }
    };
    match config.get(key) {
        None => Ok(None),
        Some(serde_json::Value::Number(_)) => Ok(side(config, key)?.map(Resize::ShortestEdge)),
        Some(_) => {
            let size = config.section(key)?;
            if let Some(edge) = side(&size, "shortest_edge")? {
                return Ok(Some(Resize::ShortestEdge(edge)));
            }
            match (side(&size, "height")?, side(&size, "width")?) {
                (Some(height), Some(width)) => Ok(Some(Resize::Exact { height, width })),
                _ => Err(config.error(key, "expected shortest_edge, or height and width")),
            }
        }
    }
}

/// The size whose shorter edge is `side`; the longer one is truncated to whole pixels.
fn shortest_edge(width: u32, height: u32, side: u32) -> (u32, u32) {
    let long = |long: u32, short: u32| u32::try_from(u64::from(side) * u64::from(long) / u64::from(short.max(1))).unwrap_or(u32::MAX);
    if width <= height { (side, long(height, width)) } else { (long(width, height), side) }
}

/// Resizes like torchvision's antialiased uint8 kernel: horizontally first, rounded to 8 bits, then vertically.
fn resize(image: &RgbImage, width: u32, height: u32, filter: FilterType) -> Result<RgbImage> {
    if image.dimensions() == (width, height) {
        return Ok(image.clone());
    }
    let failed = |e: &dyn std::fmt::Display| Error::Inputs { reason: format!("an image cannot be resized: {e}") };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false);
    let mut resizer = Resizer::new();
    // A fourth channel that nobody reads: the resizer is built for this pixel type alone, which keeps it small.
    let padded = image.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2], 0]).collect();
    let source = Pixels::from_vec_u8(image.width(), image.height(), padded, PixelType::U8x4).map_err(|e| failed(&e))?;
    let mut across = Pixels::new(width, image.height(), PixelType::U8x4);
    resizer.resize(&source, &mut across, &options).map_err(|e| failed(&e))?;
    let mut down = Pixels::new(width, height, PixelType::U8x4);
    resizer.resize(&across, &mut down, &options).map_err(|e| failed(&e))?;
    let (pixels, _) = down.buffer().as_chunks::<4>();
    let raw = pixels.iter().flat_map(|p| [p[0], p[1], p[2]]).collect();
    RgbImage::from_raw(width, height, raw).ok_or_else(|| failed(&"size mismatch"))
}

/// Cuts out the middle; where the image is smaller than the cut, the rest is black.
fn center_crop(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    // Offsets into the image, rounded towards 0; negative ones, where it must be padded, put the smaller half first.
    let offset = |image: u32, crop: u32| (i64::from(image) - i64::from(crop)) / 2;
    let (left, top) = (offset(image.width(), width), offset(image.height(), height));
    RgbImage::from_fn(width, height, |x, y| {
        let source = |at: u32, offset: i64, size: u32| u32::try_from(i64::from(at) + offset).ok().filter(|at| *at < size);
        match (source(x, left, image.width()), source(y, top, image.height())) {
            (Some(x), Some(y)) => *image.get_pixel(x, y),
            _ => image::Rgb([0; 3]),
        }
    })
}
