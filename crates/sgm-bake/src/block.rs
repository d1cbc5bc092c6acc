//! How weights are stored, and which numbers of a block scale all its values.

use half::{bf16, f16};

/// A stored type: blocks of a fixed number of values, each with numbers that all its values are proportional to.
///
/// A plain float is a block of one value that is its own scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockFormat {
    pub(crate) name: &'static str,
    /// Values in a block.
    pub(crate) values: u64,
    /// Bytes of a block.
    pub(crate) bytes: u64,
    /// Byte offsets of the numbers to scale; none where rows cannot be scaled in place.
    numbers: &'static [(usize, Number)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    F16,
    Bf16,
    F32,
}

use Number::{Bf16, F16, F32};

const fn format(name: &'static str, values: u64, bytes: u64, numbers: &'static [(usize, Number)]) -> BlockFormat {
    BlockFormat { name, values, bytes, numbers }
}

/// The tensor types of GGUF files by their numbers there, with ggml's block sizes and field offsets.
///
/// Values are `d * q` or `d * q + m` for integers q, so that scaling d and m scales the values. Types without numbers here
/// can be passed over but not scaled: MXFP4 and NVFP4 have scales that are no ordinary floats, IQ1_M's is spread over a
/// block, and nobody has tested the rest.
const GGML: [(u32, BlockFormat); 34] = [
    (0, format("F32", 1, 4, &[(0, F32)])),
    (1, format("F16", 1, 2, &[(0, F16)])),
    (2, format("Q4_0", 32, 18, &[(0, F16)])),
    (3, format("Q4_1", 32, 20, &[(0, F16), (2, F16)])),
    (6, format("Q5_0", 32, 22, &[(0, F16)])),
    (7, format("Q5_1", 32, 24, &[(0, F16), (2, F16)])),
    (8, format("Q8_0", 32, 34, &[(0, F16)])),
    (9, format("Q8_1", 32, 36, &[])),
    (10, format("Q2_K", 256, 84, &[(80, F16), (82, F16)])),
    (11, format("Q3_K", 256, 110, &[(108, F16)])),
    (12, format("Q4_K", 256, 144, &[(0, F16), (2, F16)])),
    (13, format("Q5_K", 256, 176, &[(0, F16), (2, F16)])),
    (14, format("Q6_K", 256, 210, &[(208, F16)])),
    // Its sums of groups are of the integers alone.
    (15, format("Q8_K", 256, 292, &[(0, F32)])),
    (16, format("IQ2_XXS", 256, 66, &[])),
    (17, format("IQ2_XS", 256, 74, &[])),
    (18, format("IQ3_XXS", 256, 98, &[])),
    (19, format("IQ1_S", 256, 50, &[])),
    (20, format("IQ4_NL", 32, 18, &[(0, F16)])),
    (21, format("IQ3_S", 256, 110, &[])),
    (22, format("IQ2_S", 256, 82, &[])),
    (23, format("IQ4_XS", 256, 136, &[(0, F16)])),
    (24, format("I8", 1, 1, &[])),
    (25, format("I16", 1, 2, &[])),
    (26, format("I32", 1, 4, &[])),
    (27, format("I64", 1, 8, &[])),
    (28, format("F64", 1, 8, &[])),
    (29, format("IQ1_M", 256, 56, &[])),
    (30, format("BF16", 1, 2, &[(0, Bf16)])),
    (34, format("TQ1_0", 256, 54, &[])),
    (35, format("TQ2_0", 256, 66, &[])),
    (39, format("MXFP4", 32, 17, &[])),
    (40, format("NVFP4", 64, 36, &[])),
    (41, format("Q1_0", 128, 18, &[])),
];

/// The names of the types of GGUF files that can be scaled.
pub(crate) const GGUF_SUPPORTED: &str = "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, IQ4_NL, IQ4_XS, F16, BF16, F32";

/// The names of the types of safetensors files that can be scaled.
pub(crate) const SAFETENSORS_SUPPORTED: &str = "F32, F16, BF16";

impl BlockFormat {
    /// The type with a number in GGUF files.
    pub(crate) fn from_ggml(number: u32) -> Option<Self> {
        GGML.iter().find(|(n, _)| *n == number).map(|(_, format)| *format)
    }

    /// A type of safetensors files.
    pub(crate) fn from_safetensors(dtype: safetensors::Dtype) -> Self {
        use safetensors::Dtype as D;
        match dtype {
            D::F32 => format("F32", 1, 4, &[(0, F32)]),
            D::F16 => format("F16", 1, 2, &[(0, F16)]),
            D::BF16 => format("BF16", 1, 2, &[(0, Bf16)]),
            D::F64 => format("F64", 1, 8, &[]),
            D::U8 => format("U8", 1, 1, &[]),
            D::I8 => format("I8", 1, 1, &[]),
            D::F8_E4M3 => format("F8_E4M3", 1, 1, &[]),
            D::F8_E5M2 => format("F8_E5M2", 1, 1, &[]),
            // Sizes matter only where rows are scaled.
            _ => format("another type", 1, 1, &[]),
        }
    }

    /// Whether rows of this type can be scaled in place.
    pub(crate) fn can_scale(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Whether each value stands alone, as the values of a bias have to.
    pub(crate) fn is_float(&self) -> bool {
        self.values == 1 && self.can_scale()
    }

    /// Scales every value of whole blocks, and adds `shift` where values stand alone.
    pub(crate) fn scale(&self, blocks: &mut [u8], change: Change, tally: &mut Tally) {
        let Ok(size) = usize::try_from(self.bytes) else { return };
        for block in blocks.chunks_exact_mut(size) {
            for (at, number) in self.numbers {
                number.scale(block.get_mut(*at..).unwrap_or_default(), change, tally);
            }
        }
    }
}

/// What happens to a neuron: `y = scale * x + shift`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Change {
    pub(crate) scale: f32,
    /// Goes into biases only.
    pub(crate) shift: f32,
}

impl Change {
    pub(crate) const NONE: Self = Self { scale: 1.0, shift: 0.0 };
}

impl Number {
    /// Scales the number at the beginning of `bytes`: in f32, then rounded once, to the nearest and ties to even.
    ///
    /// What is not finite stays as it is.
    fn scale(self, bytes: &mut [u8], change: Change, tally: &mut Tally) {
        let (old, new, smallest) = match self {
            F32 => {
                let Some(bytes) = bytes.first_chunk_mut::<4>() else { return };
                let old = f32::from_le_bytes(*bytes);
                let new = change.of(old);
                if old.is_finite() {
                    *bytes = new.to_le_bytes();
                }
                (old, new, f32::MIN_POSITIVE)
            }
            F16 => {
                let Some(bytes) = bytes.first_chunk_mut::<2>() else { return };
                let old = f16::from_le_bytes(*bytes).to_f32();
                let new = f16::from_f32(change.of(old));
                if old.is_finite() {
                    *bytes = new.to_le_bytes();
                }
                (old, new.to_f32(), f16::MIN_POSITIVE.to_f32_const())
            }
            Bf16 => {
                let Some(bytes) = bytes.first_chunk_mut::<2>() else { return };
                let old = bf16::from_le_bytes(*bytes).to_f32();
                let new = bf16::from_f32(change.of(old));
                if old.is_finite() {
                    *bytes = new.to_le_bytes();
                }
                (old, new.to_f32(), bf16::MIN_POSITIVE.to_f32_const())
            }
        };
        if old.is_finite() {
            tally.count(f64::from(old) * f64::from(change.scale) + f64::from(change.shift), new, smallest);
        }
    }
}

impl Change {
    fn of(self, value: f32) -> f32 {
        // Without a shift, -0 stays what it is.
        if self.shift == 0.0 { value * self.scale } else { value * self.scale + self.shift }
    }
}

/// How far stored numbers are from the exact products.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) numbers: u64,
    pub(crate) max: f64,
    squares: f64,
    pub(crate) subnormal: u64,
    pub(crate) zeroed: u64,
    pub(crate) overflowed: bool,
    /// Sums of squares over added weights: of the errors of what is stored, and of the weights.
    added: (f64, f64),
}

impl Tally {
    fn count(&mut self, exact: f64, stored: f32, smallest: f32) {
        self.numbers += 1;
        if exact == 0.0 {
            return;
        }
        if !stored.is_finite() {
            self.overflowed = true;
            return;
        }
        let error = ((f64::from(stored) - exact) / exact).abs();
        self.max = self.max.max(error);
        self.squares += error * error;
        if stored == 0.0 {
            self.zeroed += 1;
        } else if stored.abs() < smallest {
            self.subnormal += 1;
        }
    }

    /// Counts an added weight.
    pub(crate) fn count_added(&mut self, exact: f32, stored: f32) {
        self.overflowed |= !stored.is_finite();
        let (exact, stored) = (f64::from(exact), f64::from(stored));
        self.added = (self.added.0 + (stored - exact) * (stored - exact), self.added.1 + exact * exact);
    }

    /// How far added weights are from what is stored, root mean square by root mean square.
    pub(crate) fn added_error(&self) -> f64 {
        let (errors, weights) = self.added;
        if weights == 0.0 { 0.0 } else { (errors / weights).sqrt() }
    }

    /// The root of the mean square of the relative errors.
    pub(crate) fn rms(&self) -> f64 {
        if self.numbers == 0 { 0.0 } else { (self.squares / self.numbers as f64).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(format: BlockFormat, bytes: &[u8], scale: f32, shift: f32) -> (Vec<u8>, Tally) {
        let (mut bytes, mut tally) = (bytes.to_vec(), Tally::default());
        format.scale(&mut bytes, Change { scale, shift }, &mut tally);
        (bytes, tally)
    }

    #[test]
    fn products_are_rounded_once_to_nearest_even() {
        let half_format = BlockFormat::from_ggml(1).unwrap();
        // 1 + 2^-10 times 0.5 + 2^-12: between two f16, nearer to the upper.
        let old = f16::from_f32(1.0 + 2f32.powi(-10));
        let (bytes, tally) = scaled(half_format, &old.to_le_bytes(), 0.5 + 2f32.powi(-12), 0.0);
        let exact = old.to_f64() * f64::from(0.5 + 2f32.powi(-12));
        let got = f16::from_le_bytes([bytes[0], bytes[1]]);
        let nearest = (0..=0x7bffu16).map(f16::from_bits).min_by(|a, b| (a.to_f64() - exact).abs().total_cmp(&(b.to_f64() - exact).abs()));
        assert_eq!(Some(got), nearest);
        assert!(tally.max > 0.0 && tally.max < 2f64.powi(-11));
        // A tie: 2^-24 (the smallest subnormal) times 0.5 goes to 0, times 1.5 to 2 of them.
        let tiny = f16::from_bits(1).to_le_bytes();
        assert_eq!(scaled(half_format, &tiny, 0.5, 0.0).0, 0u16.to_le_bytes());
        assert_eq!(scaled(half_format, &tiny, 0.5, 0.0).1.zeroed, 1);
        assert_eq!(scaled(half_format, &tiny, 1.5, 0.0).0, 2u16.to_le_bytes());
        assert_eq!(scaled(half_format, &tiny, 1.5, 0.0).1.subnormal, 1);
    }

    #[test]
    fn what_is_not_finite_stays_and_overflow_is_seen() {
        for (number, bytes) in [(1, f16::INFINITY.to_le_bytes().to_vec()), (0, f32::NAN.to_le_bytes().to_vec())] {
            let format = BlockFormat::from_ggml(number).unwrap();
            let (new, tally) = scaled(format, &bytes, 0.0, 0.0);
            assert_eq!((new, tally), (bytes, Tally::default()));
        }
        let (_, tally) = scaled(BlockFormat::from_ggml(1).unwrap(), &f16::MAX.to_le_bytes(), 1.4, 0.0);
        assert!(tally.overflowed);
    }

    #[test]
    fn a_shift_is_added_after_scaling() {
        let (new, _) = scaled(BlockFormat::from_ggml(0).unwrap(), &3f32.to_le_bytes(), 0.5, 0.25);
        assert_eq!(new, 1.75f32.to_le_bytes());
    }
}
