//! Dot products of a few rows with every row of a matrix, whose weights are widened in registers.

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
use crate::layers::products::has_avx2;

/// The largest number of rows for which reading the matrix takes longer than the arithmetic.
pub(crate) const FEW_ROWS: usize = 16;

/// The format of a weight.
pub(crate) trait Weight: Copy + Send + Sync {
    /// The weight in f32, which holds every value exactly.
    fn widen(self) -> f32;

    /// Loads and widens 8 consecutive weights.
    ///
    /// # Safety
    ///
    /// The processor has AVX2 and F16C, and the weights from `weights` on are readable.
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(weights: *const Self) -> std::arch::x86_64::__m256;
}

macro_rules! weight {
    ($weight:ty, $widen:expr, $pointer:ident => $load:expr) => {
        impl Weight for $weight {
            fn widen(self) -> f32 {
                $widen(self)
            }

            #[cfg(target_arch = "x86_64")]
            #[inline(always)]
            #[allow(unsafe_code, reason = "vector loads take pointers")]
            unsafe fn load($pointer: *const Self) -> std::arch::x86_64::__m256 {
                use std::arch::x86_64::*;
                // SAFETY: as documented.
                unsafe { $load }
            }
        }
    };
}

weight!(f32, |x| x, weights => _mm256_loadu_ps(weights));
weight!(f16, f16::to_f32, weights => _mm256_cvtph_ps(_mm_loadu_si128(weights.cast())));
weight!(bf16, bf16::to_f32, weights => {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(weights.cast()))))
});

/// Multiplies rows `x` `[rows, inputs]` with weights `[outputs, inputs]`; returns `[rows, outputs]`. `None` on
/// processors without AVX2, FMA and F16C.
pub(crate) fn product<W: Weight>(x: &[f32], weights: &[W], inputs: usize) -> Option<Vec<f32>> {
    #[cfg(target_arch = "x86_64")]
    if inputs > 0 && has_avx2() {
        return Some(avx2::product(x, weights, inputs));
    }
    let _ = (x, weights, inputs);
    None
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
#[allow(clippy::indexing_slicing, reason = "indices of arrays, and of slices that are cut to size")]
mod avx2 {
    use std::arch::x86_64::*;

    use rayon::prelude::*;

    use super::Weight;
    use crate::layers::products::{add_lanes, transpose};

    /// The number of weight rows that one thread multiplies at a time; they stay in its cache for all rows of `x`.
    const CHUNK: usize = 64;

    pub(super) fn product<W: Weight>(x: &[f32], weights: &[W], inputs: usize) -> Vec<f32> {
        let rows: Vec<&[f32]> = x.chunks_exact(inputs).collect();
        let mut products = vec![0f32; rows.len() * (weights.len() / inputs)];
        products.par_chunks_mut(CHUNK * rows.len()).zip(weights.par_chunks(CHUNK * inputs)).for_each(|(products, weights)| {
            // SAFETY: the caller has found the features.
            unsafe { chunk(&rows, weights, inputs, products) }
        });
        transpose(products, rows.len())
    }

    /// Writes `products` `[outputs, rows]`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn chunk<W: Weight>(rows: &[&[f32]], weights: &[W], inputs: usize, products: &mut [f32]) {
        let mut first = 0;
        while let Some(rest) = rows.get(first..).filter(|rest| !rest.is_empty()) {
            first += match *rest {
                [a, b, c, d, ..] => outputs::<W, 4, 2>([a, b, c, d], weights, inputs, first, rows.len(), products),
                [a, b, ..] => outputs::<W, 2, 4>([a, b], weights, inputs, first, rows.len(), products),
                [a, ..] => outputs::<W, 1, 4>([a], weights, inputs, first, rows.len(), products),
                [] => return,
            };
        }
    }

    /// Multiplies `R` rows, the `first` of `stride`, with all weights, `J` outputs at a time; returns `R`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn outputs<W: Weight, const R: usize, const J: usize>(
        x: [&[f32]; R],
        weights: &[W],
        inputs: usize,
        first: usize,
        stride: usize,
        products: &mut [f32],
    ) -> usize {
        let mut products = products.chunks_exact_mut(stride).filter_map(|products| products.get_mut(first..first + R));
        let mut tiles = weights.chunks_exact(J * inputs);
        for tile in tiles.by_ref() {
            for (dots, products) in dots::<W, R, J>(x, tile, inputs).iter().zip(products.by_ref()) {
                products.copy_from_slice(dots);
            }
        }
        for row in tiles.remainder().chunks_exact(inputs) {
            for (dots, products) in dots::<W, R, 1>(x, row, inputs).iter().zip(products.by_ref()) {
                products.copy_from_slice(dots);
            }
        }
        R
    }

    /// The dot products of `R` rows with `J` weight rows. The order of the sums depends on neither.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn dots<W: Weight, const R: usize, const J: usize>(x: [&[f32]; R], weights: &[W], inputs: usize) -> [[f32; R]; J] {
        const LANES: usize = 8;
        /// Independent sums, so that an addition need not wait for the one before it.
        const SUMS: usize = 2;
        assert!(weights.len() == J * inputs && x.iter().all(|row| row.len() == inputs), "tiles are cut to size");
        let mut sums = [[[_mm256_setzero_ps(); SUMS]; R]; J];
        let vectors = inputs / (LANES * SUMS) * (LANES * SUMS);
        for start in (0..vectors).step_by(LANES * SUMS) {
            for s in 0..SUMS {
                let at = start + s * LANES;
                // SAFETY: 8 values from `at` on lie within rows of `inputs` values.
                let values: [__m256; R] = std::array::from_fn(|r| unsafe { _mm256_loadu_ps(x[r].as_ptr().add(at)) });
                for (j, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: the same, and the features are there.
                    let weight = unsafe { W::load(weights.as_ptr().add(j * inputs + at)) };
                    for (sums, value) in sums.iter_mut().zip(values) {
                        sums[s] = _mm256_fmadd_ps(weight, value, sums[s]);
                    }
                }
            }
        }
        std::array::from_fn(|j| {
            std::array::from_fn(|r| {
                let mut sum = add_lanes(sums[j][r].into_iter().fold(_mm256_setzero_ps(), |sum, next| _mm256_add_ps(sum, next)));
                for (weight, value) in weights[j * inputs..(j + 1) * inputs].iter().zip(x[r]).skip(vectors) {
                    sum = weight.widen().mul_add(*value, sum);
                }
                sum
            })
        })
    }
}
