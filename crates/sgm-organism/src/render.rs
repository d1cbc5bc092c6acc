//! The painter of scenes.

use image::{Rgb, RgbImage};

use crate::bitmap::{glyph, icon};
use crate::scene::{BACKGROUNDS, SIDE};
use crate::{Object, ObjectKind, Result, Scene};

/// Side of a cell in pixels.
const CELL: i64 = 28;
/// The dark details of faces and hearts.
const INK: Rgb<u8> = Rgb([25, 20, 20]);
/// The board of a sign.
const BOARD: Rgb<u8> = Rgb([250, 250, 250]);

impl Scene {
    /// Paints the scene: 56x56 pixels, the same on every machine (integers only).
    ///
    /// Parts outside the picture are clipped.
    ///
    /// # Errors
    ///
    /// As [`Scene::check`].
    pub fn render(&self) -> Result<RgbImage> {
        self.check()?;
        let ground = BACKGROUNDS.get(usize::from(self.bg)).copied().unwrap_or_default();
        let mut picture = RgbImage::from_pixel(SIDE, SIDE, Rgb(ground));
        for object in &self.objects {
            paint(&mut picture, object);
        }
        for (i, value) in (0u32..).zip(picture.iter_mut()) {
            let noisy = u32::from(*value) + noise(i, self.noise) % 17;
            *value = u8::try_from(noisy.saturating_sub(8)).unwrap_or(u8::MAX);
        }
        Ok(picture)
    }
}

/// A hash of the position of a value in the picture: two rounds of xor-shift-multiply.
fn noise(i: u32, seed: u32) -> u32 {
    let mut x = i.wrapping_add(seed.wrapping_mul(9973));
    for _ in 0..2 {
        x = (x ^ (x >> 16)).wrapping_mul(0x045D_9F3B);
    }
    x ^ (x >> 16)
}

fn paint(picture: &mut RgbImage, object: &Object) {
    let cx = i64::from(object.cell % 2) * CELL + CELL / 2 + i64::from(object.dx);
    let cy = i64::from(object.cell / 2) * CELL + CELL / 2 + i64::from(object.dy);
    let colour = Rgb(object.rgb);
    if let Some(rows) = icon(object.kind) {
        for (y, row) in (cy - 10..).step_by(2).zip(rows) {
            for (x, dot) in (cx - 10..).step_by(2).zip(row.bytes()) {
                match dot {
                    b'#' => fill(picture, (x, y), (2, 2), colour),
                    b'o' => fill(picture, (x, y), (2, 2), INK),
                    _ => {}
                }
            }
        }
    } else if object.kind == ObjectKind::Sign {
        fill(picture, (cx - 12, cy - 7), (24, 14), BOARD);
        let letters = object.text.iter().flat_map(|text| text.chars()).filter_map(glyph);
        // Letters beyond the right edge are invisible, so the number of letters is bounded.
        let columns = (cx - 11..i64::from(SIDE)).step_by(8);
        for (left, rows) in columns.zip(letters) {
            for (y, row) in (cy - 5..).step_by(2).zip(rows) {
                for (x, bit) in (left..).step_by(2).zip([0b100, 0b010, 0b001]) {
                    if row & bit != 0 {
                        fill(picture, (x, y), (2, 2), colour);
                    }
                }
            }
        }
    } else {
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            if covers(object.kind, i64::from(x) - cx, i64::from(y) - cy, i64::from(object.r)) {
                *pixel = colour;
            }
        }
    }
}

/// Whether a shape of radius `r` covers the pixel at (`dx`, `dy`) from its centre.
fn covers(shape: ObjectKind, dx: i64, dy: i64, r: i64) -> bool {
    let (ax, ay) = (dx.abs(), dy.abs());
    let d2 = dx * dx + dy * dy;
    match shape {
        ObjectKind::Circle => d2 <= r * r,
        ObjectKind::Square => ax < r && ay < r,
        ObjectKind::Diamond => ax + ay <= r,
        ObjectKind::Triangle => dy < r && dy >= -r && 2 * ax <= dy + r,
        ObjectKind::Cross => (ax <= 2 && ay <= r) || (ay <= 2 && ax <= r),
        ObjectKind::Ring => d2 <= r * r && d2 >= (r - 4) * (r - 4),
        _ => false,
    }
}

/// Fills a rectangle of (width, height) pixels from its top left corner, clipped to the picture.
fn fill(picture: &mut RgbImage, (left, top): (i64, i64), (width, height): (i64, i64), colour: Rgb<u8>) {
    for y in top..top + height {
        for x in left..left + width {
            let pixel = u32::try_from(x).ok().zip(u32::try_from(y).ok()).and_then(|(x, y)| picture.get_pixel_mut_checked(x, y));
            if let Some(pixel) = pixel {
                *pixel = colour;
            }
        }
    }
}
