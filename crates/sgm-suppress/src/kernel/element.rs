//! The number types of responses, and their conversions to f32 and back without branches, which vectorise.

use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// A number type of responses: f32, bf16 or f16. Products are computed in f32 and rounded once, to nearest, ties to even.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The same number in f32.
    fn widen(self) -> f32;

    /// The nearest number of this type; NaN stays NaN.
    fn narrow(value: f32) -> Self;

    /// `old` if `keep`, this number otherwise; `mask` is all ones if `keep`, 0 otherwise.
    ///
    /// Each type uses the faster of the two. Conditional stores of f32 are compiled to masked stores, which are slower than a copy; a mask
    /// from memory avoids them.
    fn unless(self, keep: bool, mask: u32, old: Self) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn unless(self, _: bool, mask: u32, old: Self) -> Self {
        Self::from_bits(self.to_bits() ^ ((self.to_bits() ^ old.to_bits()) & mask))
    }
}

const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITE: u32 = 0x7f80_0000;

/// The low half of bits; the high half is ignored.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the high half is ignored")]
fn low(bits: u32) -> u16 {
    bits as u16
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let odd = (bits >> 16) & 1;
        // Rounding could turn NaN into an infinity.
        let rounded = if bits & MAGNITUDE > INFINITE { bits | 0x40_0000 } else { bits.wrapping_add(0x7fff + odd) };
        Self::from_bits(low(rounded >> 16))
    }

    #[inline(always)]
    fn unless(self, keep: bool, _: u32, old: Self) -> Self {
        if keep { old } else { self }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        /// The factor between numbers with the exponent biases of f16 and f32.
        const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = bits & 0x7fff;
        // Exact, also for subnormals, because the mantissa of f32 is wider.
        let finite = (f32::from_bits(magnitude << 13) * BIAS).to_bits();
        let wide = if magnitude >= 0x7c00 { finite | INFINITE } else { finite };
        f32::from_bits(wide | ((bits & 0x8000) << 16))
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        /// A number whose sum with a magnitude below the normal range of f16 has the rounded mantissa of the subnormal in its lowest bits.
        const ALIGN: f32 = f32::from_bits((127 - 15 + 23 - 10 + 1) << 23);
        let bits = value.to_bits();
        let magnitude = bits & MAGNITUDE;
        // Magnitudes from 2^16 on are infinite; those between the largest number and 2^16 are rounded.
        let bounded = magnitude.min((127 + 16) << 23);
        let odd = (bounded >> 13) & 1;
        let normal = bounded.wrapping_sub((127 - 15) << 23).wrapping_add(0xfff + odd) >> 13;
        let subnormal = (f32::from_bits(bounded) + ALIGN).to_bits().wrapping_sub(ALIGN.to_bits());
        let finite = if magnitude < (127 - 14) << 23 { subnormal } else { normal };
        let nan = 0x7e00 | ((magnitude >> 13) & 0x3ff);
        let narrow = if magnitude > INFINITE { nan } else { finite };
        Self::from_bits(low(narrow | ((bits >> 16) & 0x8000)))
    }

    #[inline(always)]
    fn unless(self, keep: bool, _: u32, old: Self) -> Self {
        if keep { old } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_16_bit_number_widens_to_itself_and_back() {
        for bits in 0..=u16::MAX {
            let (b, h) = (bf16::from_bits(bits), f16::from_bits(bits));
            if b.is_nan() {
                assert!(b.widen().is_nan());
            } else {
                assert_eq!(b.widen().to_bits(), b.to_f32().to_bits(), "{bits:#x}");
                assert_eq!(<bf16 as Element>::narrow(b.widen()).to_bits(), bits);
            }
            if h.is_nan() {
                assert!(h.widen().is_nan());
            } else {
                assert_eq!(h.widen().to_bits(), h.to_f32().to_bits(), "{bits:#x}");
                assert_eq!(<f16 as Element>::narrow(h.widen()).to_bits(), bits);
            }
        }
    }

    #[test]
    fn rounding_is_that_of_half() {
        // Every exponent and sign with mantissas around ties of both types, and numbers at an irregular stride.
        let ties = [
            0u32, 1, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001, 0x1_7fff, 0x1_8000, 0x1_8001, 0x7f_ffff,
        ];
        let around = (0..512u32).flat_map(|top| ties.map(|tie| (top << 23) | tie));
        for bits in around.chain((0..u32::MAX).step_by(65_521 / 13)) {
            let value = f32::from_bits(bits);
            assert_eq!(<bf16 as Element>::narrow(value).to_bits(), bf16::from_f32(value).to_bits(), "{bits:#x}");
            assert_eq!(<f16 as Element>::narrow(value).to_bits(), f16::from_f32(value).to_bits(), "{bits:#x}");
        }
    }
}
