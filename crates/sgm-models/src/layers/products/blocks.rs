//! The blocks of GGUF formats, 32 weights at a time.
//!
//! The formats are those of ggml: a block of 32 weights with a scale, or one of 256 weights in 8 groups with their own
//! scales. Weights are `scale * integer + minimum`.
#![allow(unsafe_code, reason = "vector instructions that the processor was found to have")]

use std::arch::x86_64::*;

/// 32 weights.
pub(crate) struct Weights {
    /// Not negative, or signed with minima of 0.
    pub(crate) integers: __m256i,
    /// Of the first 16 weights and of the others.
    pub(crate) scales: [f32; 2],
    pub(crate) minimum: f32,
}

/// A format with blocks of `BYTES` bytes.
pub(crate) trait Format<const BYTES: usize> {
    /// The groups of 32 weights in a block.
    const GROUPS: usize;
    /// Whether the integers are signed.
    const SIGNED: bool;
    /// Whether the halves of a group have different scales.
    const HALVES: bool;

    /// The weights of a group of a block.
    ///
    /// # Safety
    ///
    /// The processor has AVX2 and F16C.
    unsafe fn read(block: &[u8; BYTES], group: usize) -> Weights;
}

#[target_feature(enable = "f16c")]
fn half(bytes: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(bytes).into())))
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are read.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// The low halves of 16 bytes, then the high halves.
#[target_feature(enable = "avx2")]
fn nibbles(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes are read.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), _mm256_set1_epi8(0x0f))
}

/// The bits of each byte from the bit `from` on that `mask` selects, shifted up to the bit `to`.
#[target_feature(enable = "avx2")]
fn bits(bytes: __m256i, from: i32, mask: i8, to: i32) -> __m256i {
    let low = _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(from)), _mm256_set1_epi8(mask));
    _mm256_sll_epi16(low, _mm_cvtsi32_si128(to))
}

/// 16 in every byte whose bit is set.
#[target_feature(enable = "avx2")]
fn fifth_bits(bits: [u8; 4]) -> __m256i {
    let from = _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
    let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(bits)), from);
    let one_bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, one_bit), one_bit), _mm256_set1_epi8(16))
}

/// The bytes from a place on.
fn at<const N: usize>(block: &[u8], place: usize) -> &[u8; N] {
    block.get(place..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; N])
}

/// The scale and the minimum of a group in blocks of 256 weights whose first 16 bytes hold them in 6 bits.
#[target_feature(enable = "f16c")]
fn scale_and_minimum(block: &[u8], group: usize) -> (f32, f32) {
    let byte = |place: usize| at::<12>(block, 4).get(place).copied().unwrap_or_default();
    let (scale, minimum) = if group < 4 {
        (byte(group) & 63, byte(group + 4) & 63)
    } else {
        let both = byte(group + 4);
        (both & 15 | (byte(group - 4) >> 6) << 4, both >> 4 | (byte(group) >> 6) << 4)
    };
    (half(*at(block, 0)) * f32::from(scale), -half(*at(block, 2)) * f32::from(minimum))
}

macro_rules! format {
    ($format:ident, $bytes:literal, groups $groups:literal, signed $signed:literal, halves $halves:literal,
     |$block:ident, $group:ident| $weights:expr) => {
        pub(crate) struct $format;

        impl Format<$bytes> for $format {
            const GROUPS: usize = $groups;
            const SIGNED: bool = $signed;
            const HALVES: bool = $halves;

            #[inline(always)]
            unsafe fn read($block: &[u8; $bytes], $group: usize) -> Weights {
                // SAFETY: as documented.
                unsafe { $weights }
            }
        }
    };
}

format!(Q4_0, 18, groups 1, signed false, halves false, |block, _group| {
    let scale = half(*at(block, 0));
    Weights { integers: nibbles(at(block, 2)), scales: [scale; 2], minimum: -8.0 * scale }
});
format!(Q4_1, 20, groups 1, signed false, halves false, |block, _group| {
    Weights { integers: nibbles(at(block, 4)), scales: [half(*at(block, 0)); 2], minimum: half(*at(block, 2)) }
});
format!(Q5_0, 22, groups 1, signed false, halves false, |block, _group| {
    let scale = half(*at(block, 0));
    let integers = _mm256_or_si256(nibbles(at(block, 6)), fifth_bits(*at(block, 2)));
    Weights { integers, scales: [scale; 2], minimum: -16.0 * scale }
});
format!(Q5_1, 24, groups 1, signed false, halves false, |block, _group| {
    let integers = _mm256_or_si256(nibbles(at(block, 8)), fifth_bits(*at(block, 4)));
    Weights { integers, scales: [half(*at(block, 0)); 2], minimum: half(*at(block, 2)) }
});
format!(Q8_0, 34, groups 1, signed true, halves false, |block, _group| {
    Weights { integers: load(at(block, 2)), scales: [half(*at(block, 0)); 2], minimum: 0.0 }
});
format!(Q4K, 144, groups 8, signed false, halves false, |block, group| {
    let (scale, minimum) = scale_and_minimum(block, group);
    let integers = bits(load(at(block, 16 + group / 2 * 32)), if group.is_multiple_of(2) { 0 } else { 4 }, 15, 0);
    Weights { integers, scales: [scale; 2], minimum }
});
format!(Q5K, 176, groups 8, signed false, halves false, |block, group| {
    let (scale, minimum) = scale_and_minimum(block, group);
    let low = bits(load(at(block, 48 + group / 2 * 32)), if group.is_multiple_of(2) { 0 } else { 4 }, 15, 0);
    let fifth = _mm256_and_si256(load(at(block, 16)), _mm256_set1_epi8((1u8 << group).cast_signed()));
    let none = _mm256_cmpeq_epi8(fifth, _mm256_setzero_si256());
    let integers = _mm256_or_si256(low, _mm256_andnot_si256(none, _mm256_set1_epi8(16)));
    Weights { integers, scales: [scale; 2], minimum }
});
format!(Q6K, 210, groups 8, signed true, halves true, |block, group| {
    let scale = half(*at(block, 208));
    // Each half of a block has 4 groups in 64 bytes of low bits and 32 bytes of high bits.
    let (part, group_of_part) = (group / 4, group % 4);
    let low = bits(load(at(block, 64 * part + group_of_part % 2 * 32)), if group_of_part < 2 { 0 } else { 4 }, 15, 0);
    let from = [0, 2, 4, 6].get(group_of_part).copied().unwrap_or_default();
    let high = bits(load(at(block, 128 + 32 * part)), from, 3, 4);
    let scales = at::<2>(block, 192 + 2 * group).map(|integer| scale * f32::from(integer.cast_signed()));
    Weights { integers: _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32)), scales, minimum: 0.0 }
});
