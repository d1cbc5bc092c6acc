//! Antialiased resizing of 8-bit images in fixed point: horizontally, rounded to 8 bits, then vertically.

use std::borrow::Cow;

use image::RgbImage;

/// The library whose arithmetic an image processor reproduces bit for bit.
///
/// transformers has two versions of every image processor. Both resize in fixed point, horizontally and then vertically
/// with 8 bits in between. They differ in the precision of the weights (on average in fewer than 1 % of the 8-bit
/// values, by 2 at most), in the side that gets the odd row when a crop is larger than the image, and in the conversion
/// of pixels to floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageBackend {
    /// torchvision 0.29 on a CPU, the choice of `AutoProcessor`: weights have as many fractional bits as fit 16 bits
    /// (torch's `UpSampleKernel.cpp`), and rescaling is folded into the normalisation.
    Torchvision,
    /// Pillow up to version 12, for classes whose names end in `Pil`: weights have 22 fractional bits (`Resample.c`),
    /// and pixels are rescaled in f64, rounded to f32, then normalised.
    Pillow,
}

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// A triangle filter.
    Bilinear,
    /// Keys' cubic filter with a = -1/2.
    Bicubic,
    /// A sinc windowed by a sinc three times as wide.
    Lanczos,
}

impl Filter {
    /// The radius of the filter.
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

/// Resizes an image. A pass that would change nothing is skipped. No side may be 0.
pub(super) fn resize(mut image: Cow<'_, RgbImage>, width: u32, height: u32, filter: Filter, backend: ImageBackend) -> Cow<'_, RgbImage> {
    let (from_width, from_height) = image.dimensions();
    if width != from_width {
        image = Cow::Owned(resize_horizontally(&image, width, &Kernel::new(from_width, width, filter, backend)));
    }
    if height != from_height {
        image = Cow::Owned(resize_vertically(&image, height, &Kernel::new(from_height, height, filter, backend)));
    }
    image
}

/// The fixed-point weights of one pass.
struct Kernel {
    /// The number of fractional bits.
    bits: u32,
    /// For each output pixel, the first input pixel and the weights from there on.
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
                let crop_centre = (f64::from(i) + 0.5) * scale;
                let start = (crop_centre - support + 0.5) as u32;
                let end = ((crop_centre + support + 0.5) as u32).min(from);
                let weight = |j: u32| filter.weight((f64::from(j) - crop_centre + 0.5) * (1.0 / stretch));
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

    /// The initial value of sums, with which a shift rounds.
    fn half(&self) -> i32 {
        1 << (self.bits - 1)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range of u8")]
    fn round(&self, sum: i32) -> u8 {
        (sum >> self.bits).clamp(0, 255) as u8
    }
}

fn resize_horizontally(image: &RgbImage, width: u32, kernel: &Kernel) -> RgbImage {
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

fn resize_vertically(image: &RgbImage, height: u32, kernel: &Kernel) -> RgbImage {
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
