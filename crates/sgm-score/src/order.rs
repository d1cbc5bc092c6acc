//! One neuron's samples in ascending order of their responses, by the fastest exact method for each dtype.

use half::{bf16, f16};

use crate::curve::Curve;
use crate::dispatch::dispatch;
use crate::sort;
use crate::tally::Tally;

/// Buffers that are reused for each neuron.
#[derive(Debug)]
pub struct Scratch {
    /// The number of samples per 16-bit pattern: toxic in the high half, non-toxic in the low half. All zero between uses.
    counts: Vec<u32>,
    keys: Vec<u32>,
    other_keys: Vec<u32>,
    curve: Curve,
    wide_keys: Vec<u64>,
    other_wide_keys: Vec<u64>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; 1 << 16],
            keys: Vec::new(),
            other_keys: Vec::new(),
            curve: Curve::default(),
            wide_keys: Vec::new(),
            other_wide_keys: Vec::new(),
        }
    }

    /// The bytes needed to score one neuron of this many samples.
    pub(crate) fn bytes(samples: usize) -> usize {
        (1 << 18) + (1 << 13) + samples * (3 * 4 + 2 * 8)
    }
}

mod sealed {
    use super::{Scratch, Tally};

    pub trait Ordered: Sized {
        /// Counts the responses in ascending order; the first `toxic` are those of toxic samples. NaN must not occur.
        fn tally(responses: &[Self], toxic: usize, scratch: &mut Scratch, tally: &mut Tally);

        /// The position of the first NaN.
        fn first_nan(responses: &[Self]) -> Option<usize>;

        /// An integer key in the order of the numbers; `-0.0` and `0.0` have the same key.
        fn key(self) -> u32;
    }
}
pub(crate) use sealed::Ordered;

/// A dtype of responses: `f32`, [`bf16`] or [`f16`](struct@f16).
///
/// Values are ordered exactly as numbers: `-0.0` equals `0.0`, subnormal numbers are not flushed to zero, infinities are larger in
/// magnitude than all numbers and tie with each other.
pub trait Response: Ordered + Copy + Default + Send + Sync + 'static {
    /// The value in little-endian bytes.
    type Bytes: Copy + std::fmt::Debug + Send + Sync + 'static;

    /// Reads the value from its little-endian bytes.
    fn from_bytes(bytes: Self::Bytes) -> Self;

    /// Splits bytes into values; bytes after the last whole one are ignored.
    fn split(bytes: &[u8]) -> &[Self::Bytes];

    /// The value as f64, exactly.
    fn to_f64(self) -> f64;
}

impl Response for f32 {
    type Bytes = [u8; 4];
    fn from_bytes(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }
    fn split(bytes: &[u8]) -> &[[u8; 4]] {
        bytes.as_chunks().0
    }
    fn to_f64(self) -> f64 {
        self.into()
    }
}

macro_rules! half {
    ($half:ty, $infinity:literal) => {
        impl Response for $half {
            type Bytes = [u8; 2];
            fn from_bytes(bytes: [u8; 2]) -> Self {
                Self::from_le_bytes(bytes)
            }
            fn split(bytes: &[u8]) -> &[[u8; 2]] {
                bytes.as_chunks().0
            }
            fn to_f64(self) -> f64 {
                Self::to_f64(self)
            }
        }

        impl Ordered for $half {
            fn tally(responses: &[Self], toxic: usize, scratch: &mut Scratch, tally: &mut Tally) {
                if responses.len() <= Curve::MOST {
                    count(responses, toxic, |r| r.to_bits(), scratch, tally);
                } else {
                    sort_wide(responses, toxic, scratch, tally);
                }
            }

            fn first_nan(responses: &[Self]) -> Option<usize> {
                let magnitudes = responses.iter().map(|r| r.to_bits() & 0x7fff);
                let any = dispatch(|| magnitudes.fold(false, |any, magnitude| any | (magnitude > $infinity)));
                any.then(|| responses.iter().position(|r| r.is_nan())).flatten()
            }

            fn key(self) -> u32 {
                self.to_f32().key()
            }
        }
    };
}
half!(bf16, 0x7f80);
half!(f16, 0x7c00);

/// Counts the samples of each class by 16-bit pattern, then reads the counts in ascending order.
///
/// A neuron's responses have few different 16-bit values, whose counts stay in the first-level cache; only patterns between the smallest
/// and the largest magnitude are read.
#[allow(clippy::indexing_slicing, reason = "16 bits index 65,536 counts")]
fn count<T>(responses: &[T], toxic: usize, bits: impl Fn(&T) -> u16, scratch: &mut Scratch, tally: &mut Tally) {
    const SIGN: u16 = 1 << 15;
    let Some(counts) = scratch.counts.first_chunk_mut::<65_536>() else { return };
    let (toxic, non_toxic) = responses.split_at(toxic.min(responses.len()));
    toxic.iter().for_each(|r| counts[usize::from(bits(r))] += 1 << 16);
    non_toxic.iter().for_each(|r| counts[usize::from(bits(r))] += 1);
    // Zero is counted separately, so that it does not extend the range.
    let bounds = |(least, most): (u16, u16), bits: u16| (least.min((bits & !SIGN).wrapping_sub(1)), most.max(bits & !SIGN));
    let (least, most) = dispatch(|| responses.iter().map(&bits).fold((u16::MAX, 0), bounds));
    let magnitudes = usize::from(least.wrapping_add(1)).max(1)..usize::from(most) + 1;
    let (positive, negative) = counts.split_at_mut(usize::from(SIGN));
    let ([zero, ..], [minus_zero, ..]) = (&mut *positive, &mut *negative) else { return };
    let mut zeros = [std::mem::take(zero) + std::mem::take(minus_zero)];
    let negative = negative.get_mut(magnitudes.clone()).unwrap_or_default();
    // The larger the bits of a negative number, the smaller it is.
    negative.reverse();
    let positive = positive.get_mut(magnitudes).unwrap_or_default();
    scratch.curve.start();
    for counts in [negative, &mut zeros, positive] {
        scratch.curve.counts(counts);
    }
    tally.curve(&scratch.curve);
}

impl Ordered for f32 {
    fn tally(responses: &[Self], toxic: usize, scratch: &mut Scratch, tally: &mut Tally) {
        let range = dispatch(|| Range::of(responses));
        if range.sixteen && responses.len() <= Curve::MOST {
            // All responses are bf16 numbers.
            return count(responses, toxic, |r| bf16::from_f32(*r).to_bits(), scratch, tally);
        }
        let Scratch { keys, other_keys, curve, .. } = scratch;
        if range.span() >= 1 << 30 {
            return sort_wide(responses, toxic, scratch, tally);
        }
        dispatch(|| range.labelled_keys(responses, toxic, keys));
        sort::sort(keys, other_keys);
        if keys.len() <= Curve::MOST {
            curve.start();
            curve.sorted(keys);
            tally.curve(curve);
        } else {
            tally.sorted(keys);
        }
    }

    fn first_nan(responses: &[Self]) -> Option<usize> {
        let any = dispatch(|| responses.iter().fold(false, |any, r| any | r.is_nan()));
        any.then(|| responses.iter().position(|r| r.is_nan())).flatten()
    }

    fn key(self) -> u32 {
        let bits = (self + 0.0).to_bits();
        if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
    }
}

const SIGN: u32 = 1 << 31;

/// The range of some responses' magnitudes, as bits.
#[derive(Debug, Clone, Copy)]
struct Range {
    /// One less than the smallest magnitude beside zero.
    least: u32,
    most: u32,
    /// Whether all responses are bf16 numbers.
    sixteen: bool,
}

impl Range {
    #[inline(always)]
    fn of(responses: &[f32]) -> Self {
        let bounds = |(least, most, any): (u32, u32, u32), r: &f32| {
            let magnitude = r.to_bits() & !SIGN;
            (least.min(magnitude.wrapping_sub(1)), most.max(magnitude), any | magnitude)
        };
        let (least, most, any) = responses.iter().fold((u32::MAX, 0, 0), bounds);
        Self { least: least.min(most), most, sixteen: any & 0xffff == 0 }
    }

    /// The largest distance of a key from that of zero: between zero and the smallest magnitude that occurs, no keys are needed.
    fn span(self) -> u32 {
        self.most - self.least
    }

    /// Keys in the order of the responses, with the label below. The span must be below 2^30: magnitudes, infinity included, that differ by
    /// less than a factor of 2^128.
    #[inline(always)]
    fn labelled_keys(self, responses: &[f32], toxic: usize, keys: &mut Vec<u32>) {
        let zero = self.span();
        let key = |r: &f32| {
            let distance = (r.to_bits() & !SIGN).saturating_sub(self.least);
            if r.to_bits() & SIGN == 0 { zero + distance } else { zero - distance }
        };
        let (toxic, non_toxic) = responses.split_at(toxic.min(responses.len()));
        keys.clear();
        keys.extend(toxic.iter().map(|r| key(r) << 1 | 1));
        keys.extend(non_toxic.iter().map(|r| key(r) << 1));
    }
}

/// Sorts the samples by keys of 32 bits with the label below.
fn sort_wide<T: Ordered + Copy>(responses: &[T], toxic: usize, scratch: &mut Scratch, tally: &mut Tally) {
    let Scratch { wide_keys: keys, other_wide_keys: other, .. } = scratch;
    keys.clear();
    keys.extend(responses.iter().enumerate().map(|(i, r)| u64::from(r.key()) << 1 | u64::from(i < toxic)));
    sort::by_digits(keys, other);
    tally.sorted(keys);
}

#[cfg(test)]
mod tests {
    use super::{Ordered as _, Range, Scratch, sort_wide};
    use crate::classes::Classes;
    use crate::tally::Tally;

    /// The tally in the fastest way and that by the whole keys, which has no limits.
    fn agrees(responses: &[f32], toxic: usize) {
        for precision in [false, true] {
            let classes = Classes { toxic: toxic as u64, non_toxic: (responses.len() - toxic) as u64 };
            let (mut scratch, mut fast, mut exact) = (Scratch::new(), Tally::new(classes, precision), Tally::new(classes, precision));
            // Buffers are reused.
            f32::tally(responses, toxic, &mut scratch, &mut fast.clone());
            f32::tally(responses, toxic, &mut scratch, &mut fast);
            sort_wide(responses, toxic, &mut scratch, &mut exact);
            assert_eq!(fast, exact, "{responses:?}");
        }
    }

    #[test]
    fn keys_of_31_bits_tally_as_whole_keys() {
        let least = f32::from_bits(1);
        let alike = |n: usize| move |bits: u32| (0..7u32).cycle().step_by(3).take(n).map(move |ulps| f32::from_bits(bits + ulps));
        for n in [2, 3, 15, 16, 17, 64, 129, 400, 1500] {
            let spread = |i: usize| ((i * 7919 % n) as f32 - n as f32 / 2.0) * 0.37;
            let normal: Vec<f32> = (0..n).map(spread).collect();
            let cases = [
                normal.clone(),
                // Signed zeros, subnormal numbers, and ties between the classes.
                (0..n).map(|i| [0.0, -0.0, least, -least, 3.0 * least, f32::MIN_POSITIVE, -0.1][i % 7]).collect(),
                (0..n).map(|i| if i % 3 == 0 { -0.0 } else { spread(i) }).collect(),
                // Infinities: alone with large numbers they fit into the keys, with small ones they do not.
                (0..n).map(|i| [f32::INFINITY, f32::NEG_INFINITY, 1e30, -2e30, f32::MAX][i % 5]).collect(),
                (0..n).map(|i| [f32::INFINITY, f32::NEG_INFINITY, 1e-30, least, 0.1][i % 5]).collect(),
                // Magnitudes that are just near enough, and just too far apart.
                (0..n).map(|i| [1.999_999_9, least, -least, -1.999_999_9, 0.3][i % 5]).collect(),
                (0..n).map(|i| [2.000_000_2, least, -least, -2.000_000_2, 0.3][i % 5]).collect(),
                // Neighbouring numbers.
                alike(n)(0x3f80_0000).chain(alike(n)(0xbf80_0000)).collect(),
                vec![0.1; n],
            ];
            for responses in cases {
                for toxic in [1, responses.len() / 2, responses.len() - 1] {
                    agrees(&responses, toxic);
                }
            }
        }
    }

    #[test]
    fn the_span_is_limited_to_30_bits() {
        let least = f32::from_bits(1);
        assert!(Range::of(&[0.0, least, 1.999_999_9]).span() < 1 << 30);
        assert!(Range::of(&[0.0, least, -2.0]).span() >= 1 << 30);
        assert!(Range::of(&[0.5, f32::NEG_INFINITY]).span() >= 1 << 30);
        assert_eq!(Range::of(&[0.0, -0.0]).span(), 0);
    }
}
