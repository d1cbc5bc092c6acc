//! The blocks of GGUF formats, 32 weights at a time.
//!
//! The formats are those of ggml: a block of 32 weights with a scale, or one of 256 weights in 8 groups with their own
//! scales. Weights are `scale * integer + minimum`.
#![allow(unsafe_code, reason = "vector instructions that the processor was found to have")]

use std::arch::x86_64::*;

/// The factors of a block of `GROUPS` groups of 32 weights.
pub(crate) struct Factors<const GROUPS: usize> {
    /// Of the first 16 weights of each group and of the others.
    pub(crate) scales: [[f32; GROUPS]; 2],
    pub(crate) minima: [f32; GROUPS],
}

/// A format with blocks of `GROUPS` groups of 32 weights in `BYTES` bytes.
pub(crate) trait Format<const GROUPS: usize, const BYTES: usize> {
    /// Whether the integers are signed, with minima of 0.
    const SIGNED: bool;
    /// Whether the halves of a group have different scales.
    const HALVES: bool;

    /// The scales and minima of a block.
    ///
    /// # Safety
    ///
    /// The processor has AVX2 and F16C.
    unsafe fn factors(block: &[u8; BYTES]) -> Factors<GROUPS>;

    /// The integers of a group of a block, 8 bits each.
    ///
    /// # Safety
    ///
    /// The processor has AVX2 and F16C.
    unsafe fn integers(block: &[u8; BYTES], group: usize) -> __m256i;
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
#[inline(always)]
fn at<const N: usize>(block: &[u8], place: usize) -> &[u8; N] {
    block.get(place..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; N])
}

/// The factors of blocks of 256 weights whose first 16 bytes hold them in 6 bits.
#[target_feature(enable = "avx2,f16c")]
fn factors_of_6_bits(block: &[u8]) -> Factors<8> {
    let [first, second, third] = [4, 8, 12].map(|place| u32::from_le_bytes(*at(block, place)));
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let later_scales = third & four | (first >> 6 & two) << 4;
    let later_minima = third >> 4 & four | (second >> 6 & two) << 4;
    let integers =
        |first: u32, later: u32| _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((u64::from(first & six) | u64::from(later) << 32).cast_signed()));
    let (scale, minimum) = (half(*at(block, 0)), -half(*at(block, 2)));
    let (scales, minima) = (multiples(integers(first, later_scales), scale), multiples(integers(second, later_minima), minimum));
    Factors { scales: [scales; 2], minima }
}

/// The multiples of a factor by 8 integers.
#[target_feature(enable = "avx2")]
fn multiples(integers: __m256i, factor: f32) -> [f32; 8] {
    let mut multiples = [0f32; 8];
    // SAFETY: 8 values are written.
    unsafe { _mm256_storeu_ps(multiples.as_mut_ptr(), _mm256_mul_ps(_mm256_cvtepi32_ps(integers), _mm256_set1_ps(factor))) };
    multiples
}

macro_rules! format {
    ($format:ident, $groups:literal x 32 in $bytes:literal, signed $signed:literal, halves $halves:literal,
     |$block:ident| $factors:expr, |$group:ident| $integers:expr) => {
        pub(crate) struct $format;

        impl Format<$groups, $bytes> for $format {
            const SIGNED: bool = $signed;
            const HALVES: bool = $halves;

            #[inline(always)]
            unsafe fn factors($block: &[u8; $bytes]) -> Factors<$groups> {
                // SAFETY: as documented.
                unsafe { $factors }
            }

            #[inline(always)]
            unsafe fn integers($block: &[u8; $bytes], $group: usize) -> __m256i {
                // SAFETY: as documented.
                unsafe { $integers }
            }
        }
    };
}

/// The factors of a block with one scale and one minimum.
#[inline(always)]
fn one_factor(scale: f32, minimum: f32) -> Factors<1> {
    Factors { scales: [[scale]; 2], minima: [minimum] }
}

/// The factors of a block with one scale, whose integers stand for numbers from `-offset` on.
#[inline(always)]
fn offset_factor(scale: f32, offset: f32) -> Factors<1> {
    one_factor(scale, -offset * scale)
}

format!(Q4_0, 1 x 32 in 18, signed false, halves false, |block| offset_factor(half(*at(block, 0)), 8.0), |_group| nibbles(at(block, 2)));
format!(Q4_1, 1 x 32 in 20, signed false, halves false, |block| one_factor(half(*at(block, 0)), half(*at(block, 2))), |_group| {
    nibbles(at(block, 4))
});
format!(Q5_0, 1 x 32 in 22, signed false, halves false, |block| offset_factor(half(*at(block, 0)), 16.0), |_group| {
    _mm256_or_si256(nibbles(at(block, 6)), fifth_bits(*at(block, 2)))
});
format!(Q5_1, 1 x 32 in 24, signed false, halves false, |block| one_factor(half(*at(block, 0)), half(*at(block, 2))), |_group| {
    _mm256_or_si256(nibbles(at(block, 8)), fifth_bits(*at(block, 4)))
});
format!(Q8_0, 1 x 32 in 34, signed true, halves false, |block| one_factor(half(*at(block, 0)), 0.0), |_group| load(at(block, 2)));
format!(Q4K, 8 x 32 in 144, signed false, halves false, |block| factors_of_6_bits(block), |group| {
    bits(load(at(block, 16 + group / 2 * 32)), if group.is_multiple_of(2) { 0 } else { 4 }, 15, 0)
});
format!(Q5K, 8 x 32 in 176, signed false, halves false, |block| factors_of_6_bits(block), |group| {
    let low = bits(load(at(block, 48 + group / 2 * 32)), if group.is_multiple_of(2) { 0 } else { 4 }, 15, 0);
    let fifth = _mm256_and_si256(load(at(block, 16)), _mm256_set1_epi8((1u8 << group).cast_signed()));
    let none = _mm256_cmpeq_epi8(fifth, _mm256_setzero_si256());
    _mm256_or_si256(low, _mm256_andnot_si256(none, _mm256_set1_epi8(16)))
});
format!(Q6K, 8 x 32 in 210, signed true, halves true, |block| {
    // The scales of first halves, then those of second halves.
    let order = _mm_set_epi8(15, 13, 11, 9, 7, 5, 3, 1, 14, 12, 10, 8, 6, 4, 2, 0);
    let integers = _mm_shuffle_epi8(_mm_loadu_si128(at::<16>(block, 192).as_ptr().cast()), order);
    let scale = half(*at(block, 208));
    let scales = [integers, _mm_unpackhi_epi64(integers, integers)];
    let scales = [multiples(_mm256_cvtepi8_epi32(scales[0]), scale), multiples(_mm256_cvtepi8_epi32(scales[1]), scale)];
    Factors { scales, minima: [0.0; 8] }
}, |group| {
    // Each half of a block has 4 groups in 64 bytes of low bits and 32 bytes of high bits.
    let (part, group_of_part) = (group / 4, group % 4);
    let low = bits(load(at(block, 64 * part + group_of_part % 2 * 32)), if group_of_part < 2 { 0 } else { 4 }, 15, 0);
    let from = [0, 2, 4, 6].get(group_of_part).copied().unwrap_or_default();
    let high = bits(load(at(block, 128 + 32 * part)), from, 3, 4);
    _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32))
});
