//! The font of drawn text.

use ab_glyph::{Font, FontRef, Glyph, PxScale, point};
use image::{Rgb, RgbImage};

/// DejaVu Sans Mono Bold, its Latin letters: see `fonts/README.md`.
const FONT: &[u8] = include_bytes!("../../../fonts/DejaVuSansMono-Bold-Latin.ttf");

/// The font at one size, with the positions of Pillow's basic layout: whole pixels.
pub(crate) struct Typeface {
    font: FontRef<'static>,
    scale: PxScale,
    /// The distance from one character to the next, in pixels.
    pub(crate) advance: u32,
    /// The distance from the top of a line to its baseline, in pixels.
    pub(crate) ascent: u32,
    /// The distance from the baseline to the bottom of the lowest letters, in pixels.
    pub(crate) descent: u32,
}

impl Typeface {
    /// The font with an em of `size` pixels.
    pub(crate) fn new(size: u16) -> Result<Self, String> {
        let font = FontRef::try_from_slice(FONT).map_err(|e| e.to_string())?;
        let em = font.units_per_em().ok_or("the font has no units")?;
        let pixels = |units: f32| units * f32::from(size) / em;
        let advance = whole(pixels(font.h_advance_unscaled(font.glyph_id('0'))).round())?;
        let (ascent, descent) = (whole(pixels(font.ascent_unscaled()).ceil())?, whole(pixels(-font.descent_unscaled()).ceil())?);
        // ab_glyph scales by the height of a line instead of the em.
        let scale = PxScale::from(pixels(font.height_unscaled()));
        Ok(Self { font, scale, advance, ascent, descent })
    }

    /// Checks that every character has a glyph.
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        match text.chars().find(|&c| self.font.glyph_id(half_width(c)).0 == 0) {
            None => Ok(()),
            Some(c) => Err(format!("the font has no {c:?}; it has Latin letters only")),
        }
    }

    /// Draws a line in black that starts at `x` and stands on `baseline`, cut off at the edges.
    pub(crate) fn draw(&self, canvas: &mut RgbImage, (x, baseline): (u32, u32), line: &str) {
        let mut pen = x;
        for c in line.chars() {
            let glyph =
                Glyph { id: self.font.glyph_id(half_width(c)), scale: self.scale, position: point(coordinate(pen), coordinate(baseline)) };
            if let Some(outline) = self.font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                let (left, top) = (offset(corner.x), offset(corner.y));
                outline.draw(|dx, dy, coverage| {
                    let (x, y) = (left + i64::from(dx), top + i64::from(dy));
                    if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
                        && let Some(Rgb(channels)) = canvas.get_pixel_mut_checked(x, y)
                    {
                        for channel in channels {
                            *channel = over(*channel, coverage);
                        }
                    }
                });
            }
            pen = pen.saturating_add(self.advance);
        }
    }
}

/// The Latin letter or sign that a full-width form is one of, such as the question mark of Chinese text.
fn half_width(c: char) -> char {
    match c {
        '\u{3000}' => ' ',
        '\u{FF01}'..='\u{FF5E}' => char::from_u32(u32::from(c) - 0xFEE0).unwrap_or(c),
        _ => c,
    }
}

/// The value of a channel under black ink.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, and held within 0 to 255")]
fn over(channel: u8, coverage: f32) -> u8 {
    (f32::from(channel) * (1.0 - coverage.clamp(0.0, 1.0))).round() as u8
}

#[allow(clippy::cast_precision_loss, reason = "images have far fewer than 2^24 pixels a side")]
fn coordinate(pixels: u32) -> f32 {
    pixels as f32
}

#[allow(clippy::cast_possible_truncation, reason = "a float is cut to the range of the integer")]
fn offset(pixels: f32) -> i64 {
    pixels as i64
}

/// A measure of the font as a number of pixels.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
fn whole(pixels: f32) -> Result<u32, String> {
    if (0.0..65536.0).contains(&pixels) { Ok(pixels as u32) } else { Err(format!("the font is {pixels} pixels wide or high")) }
}
