//! The storage formats of weights, and the numbers of a block that scale all its values.

use half::{bf16, f16};
use sgm_core::gguf::TensorType;

/// A storage format: blocks of a fixed number of values, with numbers to which all values of a block are proportional.
///
/// A plain float is a block of one value that is its own scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockFormat {
    pub(crate) name: &'static str,
    /// Values per block.
    pub(crate) values: u64,
    /// Bytes per block.
    pub(crate) bytes: u64,
    /// The byte offsets of the numbers to scale; empty if rows cannot be scaled in place.
    numbers: &'static [(usize, Number)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    F16,
    Bf16,
    F32,
}

use Number::{Bf16, F16, F32};

/// The numbers to scale in a block of a type, by its name; none for types that can be copied but not scaled.
///
/// Values are `d * q` or `d * q + m` for integers q, so that scaling d and m scales the values. Types are left out whose scales are no
/// ordinary floats (MXFP4, NVFP4) or are spread over a block (IQ1_M), and all untested ones.
fn numbers(name: &str) -> &'static [(usize, Number)] {
    match name {
        // The block sums of Q8_K are sums of its integers and stay as they are.
        "F32" | "Q8_K" => &[(0, F32)],
        "F16" | "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL" | "IQ4_XS" => &[(0, F16)],
        "BF16" => &[(0, Bf16)],
        "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => &[(0, F16), (2, F16)],
        "Q2_K" => &[(80, F16), (82, F16)],
        "Q3_K" => &[(108, F16)],
        "Q6_K" => &[(208, F16)],
        _ => &[],
    }
}

/// The names of the types of GGUF files that can be scaled.
pub(crate) const GGUF_SUPPORTED: &str = "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, IQ4_NL, IQ4_XS, F16, BF16, F32";

/// The names of the types of safetensors files that can be scaled.
pub(crate) const SAFETENSORS_SUPPORTED: &str = "F32, F16, BF16";

impl BlockFormat {
    /// The format of a type of GGUF files.
    pub(crate) fn of_gguf(kind: TensorType) -> Self {
        Self { name: kind.name, values: kind.block_values, bytes: kind.block_bytes, numbers: numbers(kind.name) }
    }

    /// The format of a type of safetensors files.
    pub(crate) fn of_safetensors(dtype: safetensors::Dtype) -> Self {
        use safetensors::Dtype as D;
        let (name, bytes) = match dtype {
            D::F32 => ("F32", 4),
            D::F16 => ("F16", 2),
            D::BF16 => ("BF16", 2),
            D::F64 => ("F64", 8),
            D::U8 => ("U8", 1),
            D::I8 => ("I8", 1),
            D::F8_E4M3 => ("F8_E4M3", 1),
            D::F8_E5M2 => ("F8_E5M2", 1),
            // The size of a type that cannot be scaled has no effect.
            _ => ("another type", 1),
        };
        Self { name, values: 1, bytes, numbers: numbers(name) }
    }

    /// Whether rows of this type can be scaled in place.
    pub(crate) fn can_scale(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Whether the format is a float that can be scaled, as a bias requires.
    pub(crate) fn is_float(&self) -> bool {
        self.values == 1 && self.can_scale()
    }

    /// Scales every value of whole blocks, and adds the shift to plain floats.
    pub(crate) fn scale(&self, blocks: &mut [u8], change: Change, tally: &mut Tally) {
        let Ok(size) = usize::try_from(self.bytes) else { return };
        for block in blocks.chunks_exact_mut(size) {
            for (at, number) in self.numbers {
                number.scale(block.get_mut(*at..).unwrap_or_default(), change, tally);
            }
        }
    }
}

/// The change of a neuron: `y = scale * x + shift`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Change {
    pub(crate) scale: f32,
    /// The shift, which changes biases only.
    pub(crate) shift: f32,
}

impl Change {
    pub(crate) const NONE: Self = Self { scale: 1.0, shift: 0.0 };
}

impl Number {
    /// Scales the number at the start of `bytes`: in f32, then rounded once, to nearest, ties to even.
    ///
    /// Numbers that are not finite stay unchanged.
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
        // Without a shift, -0 stays -0.
        if self.shift == 0.0 { value * self.scale } else { value * self.scale + self.shift }
    }
}

/// The errors of stored numbers against the exact products.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) numbers: u64,
    pub(crate) max: f64,
    squares: f64,
    pub(crate) subnormal: u64,
    pub(crate) zeroed: u64,
    pub(crate) overflowed: bool,
    /// Sums of squares over added weights: of the errors as stored, and of the weights.
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

    /// The relative error of added weights as stored: root mean square by root mean square.
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

    fn gguf(number: u32) -> BlockFormat {
        BlockFormat::of_gguf(TensorType::from_number(number).unwrap())
    }

    fn scaled(format: BlockFormat, bytes: &[u8], scale: f32, shift: f32) -> (Vec<u8>, Tally) {
        let (mut bytes, mut tally) = (bytes.to_vec(), Tally::default());
        format.scale(&mut bytes, Change { scale, shift }, &mut tally);
        (bytes, tally)
    }

    #[test]
    fn the_supported_types_are_those_that_can_be_scaled() {
        let types = (0..200).filter_map(TensorType::from_number);
        let mut scalable: Vec<&str> = types.map(BlockFormat::of_gguf).filter(BlockFormat::can_scale).map(|format| format.name).collect();
        let mut supported: Vec<&str> = GGUF_SUPPORTED.split(", ").collect();
        scalable.sort_unstable();
        supported.sort_unstable();
        assert_eq!(scalable, supported);
    }

    #[test]
    fn products_are_rounded_once_to_nearest_even() {
        let half_format = gguf(1);
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
            let format = gguf(number);
            let (new, tally) = scaled(format, &bytes, 0.0, 0.0);
            assert_eq!((new, tally), (bytes, Tally::default()));
        }
        let (_, tally) = scaled(gguf(1), &f16::MAX.to_le_bytes(), 1.4, 0.0);
        assert!(tally.overflowed);
    }

    #[test]
    fn a_shift_is_added_after_scaling() {
        let (new, _) = scaled(gguf(0), &3f32.to_le_bytes(), 0.5, 0.25);
        assert_eq!(new, 1.75f32.to_le_bytes());
    }
}
