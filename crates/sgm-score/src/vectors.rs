//! Vectors of sixteen 32-bit integers, for processors with AVX-512.
#![allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
#![allow(clippy::indexing_slicing, reason = "indices of arrays")]

use std::arch::x86_64::*;

/// The integers in a vector.
pub(crate) const LANES: usize = 16;

/// Whether the processor has the instructions that functions over vectors are compiled for.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("popcnt")
}

/// A mask of the first `count` lanes.
pub(crate) fn lanes(count: usize) -> __mmask16 {
    if count < LANES { (1 << count) - 1 } else { u16::MAX }
}

/// The values from `start` on, and `fill` after the last.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn load(values: &[u32], start: usize, fill: u32) -> __m512i {
    let mask = lanes(values.len().saturating_sub(start));
    // SAFETY: only lanes of values are read.
    unsafe { _mm512_mask_loadu_epi32(_mm512_set1_epi32(fill.cast_signed()), mask, values.as_ptr().wrapping_add(start).cast()) }
}

/// Stores as many lanes as there are values from `start` on.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn store(values: &mut [u32], start: usize, v: __m512i) {
    let mask = lanes(values.len().saturating_sub(start));
    // SAFETY: only lanes of values are written.
    unsafe { _mm512_mask_storeu_epi32(values.as_mut_ptr().wrapping_add(start).cast(), mask, v) };
}

/// The columns of `R` rows one after the other; `R` is 4, 8 or 16.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn transposed<const R: usize>(rows: [__m512i; R]) -> [__m512i; R] {
    // Squares of four rows and four columns, one in each quarter of a vector.
    let mut squares = rows;
    for g in 0..R / 4 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (low_ab, low_cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (high_ab, high_cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        squares[g] = _mm512_unpacklo_epi64(low_ab, low_cd);
        squares[R / 4 + g] = _mm512_unpackhi_epi64(low_ab, low_cd);
        squares[R / 2 + g] = _mm512_unpacklo_epi64(high_ab, high_cd);
        squares[3 * R / 4 + g] = _mm512_unpackhi_epi64(high_ab, high_cd);
    }
    // The same for quarters: the first ones of four vectors are columns that follow each other.
    let mut columns = rows;
    for g in 0..R / 4 {
        let [a, b, c, d] = [squares[4 * g], squares[4 * g + 1], squares[4 * g + 2], squares[4 * g + 3]];
        let (even_ab, even_cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        let (odd_ab, odd_cd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[g] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
        columns[R / 4 + g] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
        columns[R / 2 + g] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
        columns[3 * R / 4 + g] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
    }
    columns
}
