//! Antialiased resizing of 8-bit images in fixed point: horizontally, rounded to 8 bits, then vertically.

use std::borrow::Cow;

use image::RgbImage;

use super::ImageBackend;

/// What weighs the pixels around a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// A triangle.
    Bilinear,
    /// Keys' cubic with a = -1/2.
    Bicubic,
    /// A sinc windowed by a sinc three times as wide.
    Lanczos,
}

impl Filter {
    /// How far from 0 it reaches.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        let (signed, x) = (x, x.abs());
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Self::Lanczos if (-3.0..3.0).contains(&signed) => sinc(signed) * sinc(signed / 3.0),
            _ => 0.0,
        }
    }
}

/// Resizes; a pass that changes nothing is left out. No side may be 0.
pub(super) fn resize(mut image: Cow<'_, RgbImage>, width: u32, height: u32, filter: Filter, backend: ImageBackend) -> Cow<'_, RgbImage> {
    let (from_width, from_height) = image.dimensions();
    if width != from_width {
        image = Cow::Owned(across(&image, width, &Kernel::new(from_width, width, filter, backend)));
    }
    if height != from_height {
        image = Cow::Owned(down(&image, height, &Kernel::new(from_height, height, filter, backend)));
    }
    image
}

/// The weights of one pass.
struct Kernel {
    /// Fractional bits.
    bits: u32,
    /// For each output pixel the first input pixel and the weights from there on.
    windows: Vec<(usize, Vec<i32>)>,
}

impl Kernel {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounds towards 0 and stops at 0, as the formula wants")]
    fn new(from: u32, to: u32, filter: Filter, backend: ImageBackend) -> Self {
        let scale = f64::from(from) / f64::from(to);
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let windows: Vec<(u32, Vec<f64>)> = (0..to)
            .map(|i| {
                let centre = (f64::from(i) + 0.5) * scale;
                let start = (centre - support + 0.5) as u32;
                let end = ((centre + support + 0.5) as u32).min(from);
                let weight = |j: u32| filter.weight((f64::from(j) - centre + 0.5) * (1.0 / stretch));
                let mut weights: Vec<f64> = (start..end).map(weight).collect();
                let sum = weights.iter().fold(0.0, |sum, w| sum + w);
                weights.iter_mut().for_each(|w| *w /= if sum == 0.0 { 1.0 } else { sum });
                (start, weights)
            })
            .collect();
        let bits = match backend {
            ImageBackend::Pillow => 22,
            ImageBackend::Torchvision => {
                let largest = windows.iter().flat_map(|(_, weights)| weights).fold(0.0f64, |a, b| a.max(*b));
                (0..22).find(|bits| (0.5 + largest * f64::from(2u32 << bits)) as i32 >= 1 << 15).unwrap_or(22)
            }
        };
        let fixed = |w: &f64| (w * f64::from(1u32 << bits) + 0.5f64.copysign(*w)) as i32;
        Self { bits, windows: windows.iter().map(|(start, weights)| (*start as usize, weights.iter().map(fixed).collect())).collect() }
    }

    /// What sums start from, so that shifting rounds.
    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u8")]
    fn round(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }
}

fn across(image: &RgbImage, width: u32, kernel: &Kernel) -> RgbImage {
    let mut out = RgbImage::new(width, image.height());
    let (from, to) = (3 * image.width() as usize, 3 * width as usize);
    for (row, out) in image.as_raw().chunks_exact(from).zip(out.chunks_exact_mut(to)) {
        let pixels = row.as_chunks::<3>().0;
        for ((start, weights), pixel) in kernel.windows.iter().zip(out.as_chunks_mut::<3>().0) {
            let mut sum = [kernel.half(); 3];
            for ([r, g, b], weight) in pixels.get(*start..).unwrap_or_default().iter().zip(weights) {
                sum[0] = sum[0].wrapping_add(i32::from(*r).wrapping_mul(*weight));
                sum[1] = sum[1].wrapping_add(i32::from(*g).wrapping_mul(*weight));
                sum[2] = sum[2].wrapping_add(i32::from(*b).wrapping_mul(*weight));
            }
            *pixel = sum.map(|s| kernel.round(s));
        }
    }
    out
}

fn down(image: &RgbImage, height: u32, kernel: &Kernel) -> RgbImage {
    let mut out = RgbImage::new(image.width(), height);
    let row = 3 * image.width() as usize;
    let mut sums = vec![0; row];
    for ((start, weights), out) in kernel.windows.iter().zip(out.chunks_exact_mut(row)) {
        sums.fill(kernel.half());
        for (pixels, weight) in image.as_raw().chunks_exact(row).skip(*start).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(pixels) {
                *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
            }
        }
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out = kernel.round(*sum);
        }
    }
    out
}
