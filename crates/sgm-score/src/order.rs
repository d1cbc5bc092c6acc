//! One neuron's samples in ascending order of their responses, by the fastest exact method for each dtype.

use half::{bf16, f16};

use crate::tally::Tally;

/// Buffers that are reused for each neuron.
#[derive(Debug)]
pub struct Scratch {
    /// The number of samples per 16-bit pattern: toxic in the high half, non-toxic in the low half. All zero between uses.
    counts: Vec<u32>,
    cells: Vec<u32>,
    half_sorted: Vec<u32>,
    sorted: Vec<u32>,
    exact: Vec<u64>,
    exact_other: Vec<u64>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; 1 << 16],
            cells: Vec::new(),
            half_sorted: Vec::new(),
            sorted: Vec::new(),
            exact: Vec::new(),
            exact_other: Vec::new(),
        }
    }

    /// The bytes needed to score one neuron of this many samples.
    pub(crate) fn bytes(samples: usize) -> usize {
        (1 << 18) + samples * (3 * 4 + 2 * 8)
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
                if responses.len() <= usize::from(u16::MAX) {
                    count(responses, toxic, |r| r.to_bits(), scratch, tally);
                } else {
                    sort_exactly(responses, toxic, scratch, tally);
                }
            }

            fn first_nan(responses: &[Self]) -> Option<usize> {
                let any = responses.iter().fold(false, |any, r| any | (r.to_bits() & 0x7fff > $infinity));
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
    let Some(counts) = scratch.counts.first_chunk_mut::<65_536>() else { return };
    let (toxic, non_toxic) = responses.split_at(toxic.min(responses.len()));
    toxic.iter().for_each(|r| counts[usize::from(bits(r))] += 1 << 16);
    non_toxic.iter().for_each(|r| counts[usize::from(bits(r))] += 1);
    const SIGN: u16 = 1 << 15;
    // Zero is counted separately, so that it does not extend the range.
    let bounds = |(least, most): (u16, u16), bits: u16| (least.min((bits & !SIGN).wrapping_sub(1)), most.max(bits & !SIGN));
    let (least, most) = responses.iter().map(bits).fold((u16::MAX, 0), bounds);
    let magnitudes = usize::from(least.wrapping_add(1)).max(1)..usize::from(most) + 1;
    let (positive, negative) = counts.split_at_mut(usize::from(SIGN));
    let ([zero, ..], [minus_zero, ..]) = (&mut *positive, &mut *negative) else { return };
    let zeros = [std::mem::take(zero) + std::mem::take(minus_zero)];
    let negative = negative.get_mut(magnitudes.clone()).unwrap_or_default();
    // The larger the bits of a negative number, the smaller it is.
    negative.reverse();
    let positive = positive.get_mut(magnitudes).unwrap_or_default();
    for counts in [&*negative, &zeros, &*positive] {
        tally.counts(counts);
    }
    negative.fill(0);
    positive.fill(0);
}

/// The number of bits of a cell: responses are assigned to cells before they are sorted.
const CELL_BITS: u32 = 23;
const CELLS: f32 = (1u32 << CELL_BITS) as f32;
/// The number of bits of one digit of the cells' radix sort. Two digits leave the lowest bits of a cell to an insertion sort with few
/// moves; the counts of wider digits take longer to accumulate and exceed the first-level cache.
const DIGIT: u32 = 9;
const DIGITS: usize = 1 << DIGIT;
/// The largest number of shared cells that are ordered one by one; with more it is faster to sort all responses exactly.
const MAX_SHARED: usize = 40;

impl Ordered for f32 {
    fn tally(responses: &[Self], toxic: usize, scratch: &mut Scratch, tally: &mut Tally) {
        let sixteen = responses.iter().fold(0, |bits, r| bits | r.to_bits()) & 0xffff == 0;
        if sixteen && responses.len() <= usize::from(u16::MAX) {
            // All responses are bf16 numbers.
            return count(responses, toxic, |r| bf16::from_f32(*r).to_bits(), scratch, tally);
        }
        let mut attempt = tally.clone();
        if sort_by_cells(responses, toxic, scratch, &mut attempt) {
            *tally = attempt;
            return;
        }
        sort_exactly(responses, toxic, scratch, tally);
    }

    fn first_nan(responses: &[Self]) -> Option<usize> {
        let any = responses.iter().fold(false, |any, r| any | r.is_nan());
        any.then(|| responses.iter().position(|r| r.is_nan())).flatten()
    }

    fn key(self) -> u32 {
        let bits = (self + 0.0).to_bits();
        if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
    }
}

/// A non-decreasing map from responses to cells.
#[derive(Debug, Clone, Copy)]
enum Scale {
    /// Linear over seven standard deviations, clamped beyond.
    Linear { mean: f32, factor: f32 },
    /// Linear in the logarithm, roughly: the highest bits of the keys.
    Logarithmic { least: u32, shift: u32 },
}

impl Scale {
    /// The linear scale for light tails, the logarithmic one for heavy tails, infinities and constants.
    fn of(responses: &[f32]) -> Self {
        let n = responses.len() as f32;
        let mean = sum(responses, |r| r) / n;
        let deviation = (sum(responses, |r| (r - mean) * (r - mean)) / n).sqrt();
        let factor = CELLS / (7.0 * deviation);
        // The mean deviation is 0.80 standard deviations of a normal distribution, 0.71 of a Laplace distribution.
        let light = sum(responses, |r| (r - mean).abs()) / n > 0.6 * deviation;
        if light && mean.is_finite() && factor.is_normal() {
            return Self::Linear { mean, factor };
        }
        let bounds = |(least, most): (u32, u32), key: u32| (least.min(key), most.max(key));
        let (least, most) = responses.iter().map(|r| r.key()).fold((u32::MAX, 0), bounds);
        Self::Logarithmic { least, shift: (u32::BITS - most.saturating_sub(least).leading_zeros()).saturating_sub(CELL_BITS) }
    }

    /// Appends the responses' cells above their label.
    fn cells(self, responses: &[f32], label: u32, cells: &mut Vec<u32>) {
        match self {
            Self::Linear { mean, factor } => cells.extend(responses.iter().map(|r| linear(*r, mean, factor) << 1 | label)),
            Self::Logarithmic { least, shift } => cells.extend(responses.iter().map(|r| (r.key() - least) >> shift << 1 | label)),
        }
    }
}

/// The cell of a response. Each step is monotone: subtraction, multiplication by a positive number, addition, clamping, and rounding to an
/// integer in the low bits of a sum with 2^23.
#[inline(always)]
fn linear(response: f32, mean: f32, factor: f32) -> u32 {
    let cell = (response - mean) * factor + CELLS / 2.0;
    let cell = if cell > 0.0 { cell } else { 0.0 };
    let cell = if cell < CELLS - 1.0 { cell } else { CELLS - 1.0 };
    const WHOLE: f32 = 8_388_608.0;
    (cell + WHOLE).to_bits() ^ WHOLE.to_bits()
}

/// A sum in eight lanes; it only sets the scale, so that its rounding does not matter.
fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += of(*value));
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|v| of(*v)).sum::<f32>()
}

/// Assigns the responses to cells, sorts the cells and orders the responses of shared cells exactly.
///
/// Returns false if many cells are shared; the tally is invalid then.
fn sort_by_cells(responses: &[f32], toxic: usize, scratch: &mut Scratch, tally: &mut Tally) -> bool {
    let Scratch { cells, half_sorted, sorted, exact, .. } = scratch;
    let (toxic, non_toxic) = responses.split_at(toxic.min(responses.len()));
    let scale = Scale::of(responses);
    cells.clear();
    scale.cells(toxic, 1, cells);
    scale.cells(non_toxic, 0, cells);
    const HIGH: u32 = 1 + CELL_BITS - DIGIT;
    const LOW: u32 = HIGH - DIGIT;
    let (mut low, mut high) = ([0u32; DIGITS], [0u32; DIGITS]);
    for cell in cells.iter() {
        *digit(&mut low, *cell, LOW) += 1;
        *digit(&mut high, *cell, HIGH) += 1;
    }
    half_sorted.resize(cells.len(), 0);
    sorted.resize(cells.len(), 0);
    scatter(cells, half_sorted, &mut low, LOW);
    scatter(half_sorted, sorted, &mut high, HIGH);
    if !insert(sorted) {
        return false;
    }
    let mut shared = 0;
    let mut left = sorted.as_slice();
    while let [first, rest @ ..] = left {
        if tally.takes_eights()
            && let Some(nine) = left.first_chunk::<9>()
            && let Some(byte) = eight_alone(nine)
        {
            tally.eight(byte);
            left = left.get(8..).unwrap_or_default();
            continue;
        }
        let cell = first >> 1;
        let others = rest.iter().take_while(|other| **other >> 1 == cell).count();
        if others == 0 {
            tally.tied(u64::from(first & 1), u64::from(!first & 1));
        } else {
            shared += 1;
            if shared > MAX_SHARED {
                return false;
            }
            exact.clear();
            gather_cell(cell, cells, responses, others + 1, exact);
            exact.sort_unstable();
            tally.sorted(exact);
        }
        left = rest.get(others..).unwrap_or_default();
    }
    true
}

/// Sorts a nearly sorted slice by insertion; returns false when a key moves more than one place on average.
#[allow(clippy::indexing_slicing, reason = "places from 1 up to the length, and the ones before")]
fn insert(sorted: &mut [u32]) -> bool {
    let mut moves = sorted.len();
    for next in 1..sorted.len() {
        let key = sorted[next];
        let mut place = next;
        while place > 0 && sorted[place - 1] >> 1 > key >> 1 {
            sorted[place] = sorted[place - 1];
            place -= 1;
        }
        if place < next {
            sorted[place] = key;
            match moves.checked_sub(next - place) {
                Some(left) => moves = left,
                None => return false,
            }
        }
    }
    true
}

/// The labels of the first eight of nine sorted cells, unless one is shared.
#[inline(always)]
fn eight_alone(cells: &[u32; 9]) -> Option<u8> {
    let [first @ .., _] = cells;
    let [_, second @ ..] = cells;
    let shared = first.iter().zip(second).fold(false, |shared: bool, (a, b): (&u32, &u32)| shared | ((a ^ b) < 2));
    let byte = first.iter().rev().fold(0u8, |byte, cell: &u32| byte << 1 | u8::from(cell & 1 == 1));
    (!shared).then_some(byte)
}

/// Collects the responses of one cell as exact keys with labels.
fn gather_cell(cell: u32, cells: &[u32], responses: &[f32], members: usize, keys: &mut Vec<u64>) {
    const STRIDE: usize = 32;
    for (cells, responses) in cells.chunks(STRIDE).zip(responses.chunks(STRIDE)) {
        if cells.iter().fold(false, |any, c| any | (c >> 1 == cell)) {
            let members = cells.iter().zip(responses).filter(|(c, _)| **c >> 1 == cell);
            keys.extend(members.map(|(c, r)| u64::from(r.key()) << 1 | u64::from(c & 1)));
        }
        if keys.len() == members {
            return;
        }
    }
}

/// The count that belongs to a key's digit.
#[inline(always)]
#[allow(clippy::indexing_slicing, reason = "a digit is below the number of digits")]
fn digit(counts: &mut [u32; DIGITS], key: u32, shift: u32) -> &mut u32 {
    &mut counts[(key >> shift) as usize & (DIGITS - 1)]
}

/// One pass of a radix sort, least significant digit first; the counts become places.
#[allow(clippy::indexing_slicing, reason = "the counts add up to the number of keys")]
fn scatter(from: &[u32], to: &mut [u32], counts: &mut [u32; DIGITS], shift: u32) {
    accumulate(counts);
    for key in from {
        let place = digit(counts, *key, shift);
        to[*place as usize] = *key;
        *place += 1;
    }
}

/// From counts to the place of each digit's first key.
fn accumulate(counts: &mut [u32; DIGITS]) {
    let mut before = 0;
    for count in counts {
        before += std::mem::replace(count, before);
    }
}

/// Sorts the samples by their whole keys, in four digits, with the label below them.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "digits of 33-bit keys; the counts add up to their number")]
fn sort_exactly<T: Ordered + Copy>(responses: &[T], toxic: usize, scratch: &mut Scratch, tally: &mut Tally) {
    let Scratch { exact: keys, exact_other: other, .. } = scratch;
    keys.clear();
    keys.extend(responses.iter().enumerate().map(|(i, r)| u64::from(r.key()) << 1 | u64::from(i < toxic)));
    other.resize(keys.len(), 0);
    for pass in 0..4 {
        let shift = pass * DIGIT;
        let mut counts = [0u32; DIGITS];
        for key in keys.iter() {
            *digit(&mut counts, (*key >> 1) as u32, shift) += 1;
        }
        accumulate(&mut counts);
        for key in keys.iter() {
            let place = digit(&mut counts, (*key >> 1) as u32, shift);
            other[*place as usize] = *key;
            *place += 1;
        }
        std::mem::swap(keys, other);
    }
    tally.sorted(keys);
}
