//! The settings of a `preprocessor_config.json` that several kinds of image processors share, in all their spellings.

use serde_json::Value;

use crate::checkpoint::section::Section;
use crate::error::Result;

/// The maximum side of a processed image or tile, in pixels.
pub(super) const MAX_SIDE: u32 = 1 << 14;
/// The maximum number of pixels of one image, including all its tiles.
pub(super) const MAX_PIXELS: u64 = 1 << 25;
/// The maximum number of tiles of one image.
pub(super) const MAX_TILES: u32 = 1 << 10;

/// A height and width in pixels, or a number of rows and columns.
pub(super) type Extent = (u32, u32);

/// The target of a resize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// A height and width.
    Exact(Extent),
    /// A length of the shorter edge.
    Shortest(u32),
    /// A length of the shorter edge, reduced if the longer edge would exceed the second length.
    ShortestLongest(u32, u32),
    /// A length of the longer edge.
    Longest(u32),
    /// The largest size within a height and width.
    Within(Extent),
}

impl Size {
    /// Reads a number, a pair, or an object with one of the sets of keys that transformers knows.
    ///
    /// A number is the shortest edge or, with `square` (or `default_to_square` in the file), both sides.
    pub(super) fn read(config: &Section, key: &str, square: bool) -> Result<Option<Self>> {
        let square = config.bool("default_to_square")?.unwrap_or(square);
        Ok(match config.get(key) {
            None => None,
            Some(Value::Number(_)) => side(config, key)?.map(|side| if square { Self::Exact((side, side)) } else { Self::Shortest(side) }),
            Some(Value::Array(_)) => Some(Self::Exact(pair(config, key)?)),
            Some(_) => {
                let size = config.section(key)?;
                let keys = ["height", "width", "shortest_edge", "longest_edge", "max_height", "max_width"];
                let mut sides = [None; 6];
                for (value, key) in sides.iter_mut().zip(keys) {
                    *value = side(&size, key)?;
                }
                Some(match sides {
                    [Some(height), Some(width), None, None, None, None] => Self::Exact((height, width)),
                    [None, None, Some(short), None, None, None] => Self::Shortest(short),
                    [None, None, Some(short), Some(long), None, None] => Self::ShortestLongest(short, long),
                    [None, None, None, Some(long), None, None] => Self::Longest(long),
                    [None, None, None, None, Some(height), Some(width)] => Self::Within((height, width)),
                    _ => {
                        let expected = "height and width, shortest_edge (and longest_edge), longest_edge, or max_height and max_width";
                        return Err(config.error(key, format!("expected {expected}")));
                    }
                })
            }
        })
    }

    /// The height and width for an image of `extent`; [`Longest`](Self::Longest) is for kinds with a rule of their own.
    pub(super) fn target(self, extent: Extent) -> Extent {
        let (height, width) = extent;
        let (short, long) = (height.min(width), height.max(width));
        let [h, w, s, l] = [height, width, short, long].map(f64::from);
        // The longer side is truncated to whole pixels.
        let shortest = |edge: u32| {
            let other = truncated(f64::from(edge) * l / s);
            if width <= height { (other, edge) } else { (edge, other) }
        };
        match self {
            Self::Exact(extent) => extent,
            Self::Shortest(edge) => shortest(edge),
            Self::ShortestLongest(edge, limit) if l / s * f64::from(edge) > f64::from(limit) => {
                let exact = f64::from(limit) * s / l;
                let edge = truncated(exact.round_ties_even());
                if short == edge {
                    extent
                } else if width < height {
                    (truncated(exact * h / w), edge)
                } else {
                    (edge, truncated(exact * w / h))
                }
            }
            Self::ShortestLongest(edge, _) => shortest(edge),
            Self::Longest(edge) => (edge, edge),
            Self::Within((max_height, max_width)) => {
                let scale = (f64::from(max_height) / h).min(f64::from(max_width) / w);
                (truncated(h * scale), truncated(w * scale))
            }
        }
    }
}

/// Reads a size with a height and a width, such as `crop_size`; a number is a square.
pub(super) fn extent(config: &Section, key: &str) -> Result<Option<Extent>> {
    let extent = match config.get(key) {
        None => None,
        Some(Value::Number(_)) => side(config, key)?.map(|side| (side, side)),
        Some(Value::Array(_)) => Some(pair(config, key)?),
        Some(_) => {
            let size = config.section(key)?;
            match (side(&size, "height")?, side(&size, "width")?) {
                (Some(height), Some(width)) => Some((height, width)),
                _ => return Err(config.error(key, "expected height and width")),
            }
        }
    };
    match extent {
        Some((height, width)) if u64::from(height) * u64::from(width) > MAX_PIXELS => {
            Err(config.error(key, format!("{height}x{width} are more than {MAX_PIXELS} pixels")))
        }
        extent => Ok(extent),
    }
}

/// Reads a number of pixels along a side, or another number between 1 and [`MAX_SIDE`].
pub(super) fn side(config: &Section, key: &str) -> Result<Option<u32>> {
    let value = config.usize(key)?;
    value.map(|n| valid_side(n as u64).ok_or_else(|| config.error(key, format!("{n} is not between 1 and {MAX_SIDE}")))).transpose()
}

fn valid_side(n: u64) -> Option<u32> {
    u32::try_from(n).ok().filter(|n| (1..=MAX_SIDE).contains(n))
}

/// Reads `[height, width]`.
fn pair(config: &Section, key: &str) -> Result<Extent> {
    config.get(key).and_then(as_pair).ok_or_else(|| config.error(key, format!("expected a height and a width from 1 to {MAX_SIDE}")))
}

/// Parses `[height, width]`.
pub(super) fn as_pair(value: &Value) -> Option<Extent> {
    match value.as_array()?.as_slice() {
        [height, width] => Some((valid_side(height.as_u64()?)?, valid_side(width.as_u64()?)?)),
        _ => None,
    }
}

/// Reads a number for each colour channel; a single number applies to all channels.
pub(super) fn per_channel(config: &Section, key: &str, default: [f64; 3]) -> Result<[f64; 3]> {
    match config.get(key) {
        None => Ok(default),
        Some(Value::Number(_)) => Ok(config.f64(key)?.map_or(default, |n| [n; 3])),
        Some(value) => {
            let numbers: Option<Vec<f64>> = value.as_array().and_then(|a| a.iter().map(Value::as_f64).collect());
            numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| config.error(key, "expected three numbers"))
        }
    }
}

/// The mean of each channel of CLIP's training images.
pub(super) const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];

/// The colour of padding around an image: `image_mean` in 8 bits, CLIP's by default.
pub(super) fn padding_colour(config: &Section) -> Result<[u8; 3]> {
    let mean = per_channel(config, "image_mean", CLIP_MEAN)?;
    if mean.iter().any(|m| !(0.0..=1.0).contains(m)) {
        return Err(config.error("image_mean", "must be between 0 and 1 to be the colour of padding"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "truncated, and in range")]
    Ok(mean.map(|m| (m * 255.0) as u8))
}

/// Reads a boolean.
pub(super) fn flag(config: &Section, key: &str, default: bool) -> Result<bool> {
    Ok(config.bool(key)?.unwrap_or(default))
}

/// Python's `int` of a non-negative number, saturated.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "truncation is the purpose")]
pub(super) fn truncated(x: f64) -> u32 {
    x as u32
}
