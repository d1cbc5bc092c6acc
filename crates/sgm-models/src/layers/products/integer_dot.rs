//! Dot products of rows rounded to 8 bits with matrices in GGUF blocks.

use candle_core::quantized::GgmlDType;

#[cfg(target_arch = "x86_64")]
use crate::layers::products::has_avx2;

/// Multiplies rows `x` `[rows, inputs]` with a matrix `[outputs, inputs]`; returns `[rows, outputs]`. `None` for other
/// formats, and on processors without AVX2, FMA and F16C.
pub(crate) fn product(x: &[f32], dtype: GgmlDType, blocks: &[u8], inputs: usize) -> Option<Vec<f32>> {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        return x86::product(x, dtype, blocks, inputs);
    }
    let _ = (x, dtype, blocks, inputs);
    None
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
#[allow(clippy::indexing_slicing, reason = "indices of arrays, and of slices that are cut to size")]
mod x86 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use candle_core::quantized::GgmlDType;
    use rayon::prelude::*;

    use crate::layers::products::blocks::{Factors, Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    use crate::layers::products::few_rows::FEW_ROWS;
    use crate::layers::products::rounded::{BLOCK, Rounded};
    use crate::layers::products::{add_lanes, join, transpose};

    pub(super) fn product(x: &[f32], dtype: GgmlDType, blocks: &[u8], inputs: usize) -> Option<Vec<f32>> {
        if inputs == 0 || !inputs.is_multiple_of(dtype.block_size()) {
            return None;
        }
        let by_format = match dtype {
            GgmlDType::Q4_0 => by_format::<Q4_0, 1, 18>,
            GgmlDType::Q4_1 => by_format::<Q4_1, 1, 20>,
            GgmlDType::Q5_0 => by_format::<Q5_0, 1, 22>,
            GgmlDType::Q5_1 => by_format::<Q5_1, 1, 24>,
            GgmlDType::Q8_0 => by_format::<Q8_0, 1, 34>,
            GgmlDType::Q4K => by_format::<Q4K, 8, 144>,
            GgmlDType::Q5K => by_format::<Q5K, 8, 176>,
            GgmlDType::Q6K => by_format::<Q6K, 8, 210>,
            _ => return None,
        };
        Some(by_format(&Rounded::new(x, inputs), blocks, inputs))
    }

    fn by_format<F: Format<G, N>, const G: usize, const N: usize>(x: &Rounded, blocks: &[u8], inputs: usize) -> Vec<f32> {
        let (blocks, row_blocks) = (blocks.as_chunks().0, inputs / (BLOCK * G));
        if x.rows > FEW_ROWS && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            many_rows::<F, G, N>(x, blocks, row_blocks)
        } else {
            few_rows::<F, G, N>(x, blocks, row_blocks)
        }
    }

    /// For few rows: every row of weights is unpacked in registers. The processor has AVX2, FMA and F16C.
    fn few_rows<F: Format<G, N>, const G: usize, const N: usize>(x: &Rounded, blocks: &[[u8; N]], row_blocks: usize) -> Vec<f32> {
        /// The number of weight rows that one thread multiplies at a time.
        const CHUNK: usize = 64;
        let mut products = vec![0f32; x.rows * (blocks.len() / row_blocks)];
        products.par_chunks_mut(CHUNK * x.rows).zip(blocks.par_chunks(CHUNK * row_blocks)).for_each(|(products, blocks)| {
            for (products, blocks) in products.chunks_exact_mut(x.rows).zip(blocks.chunks_exact(row_blocks)) {
                // SAFETY: the processor has the features.
                unsafe { outputs::<F, G, N>(x, blocks, products) };
            }
        });
        transpose(products, x.rows)
    }

    /// The dot products of one row of weights with all rows of `x`, four at a time.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn outputs<F: Format<G, N>, const G: usize, const N: usize>(x: &Rounded, weights: &[[u8; N]], products: &mut [f32]) {
        let mut fours = products.chunks_exact_mut(4);
        let mut first = 0;
        for four in fours.by_ref() {
            four.copy_from_slice(&dots::<F, G, N, 4>(x, first, weights));
            first += 4;
        }
        for product in fours.into_remainder() {
            [*product] = dots::<F, G, N, 1>(x, first, weights);
            first += 1;
        }
    }

    /// The dot products of one row of weights with `R` rows of `x` from `first` on.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn dots<F: Format<G, N>, const G: usize, const N: usize, const R: usize>(x: &Rounded, first: usize, weights: &[[u8; N]]) -> [f32; R] {
        let groups = weights.len() * G;
        let end = (first + R) * groups;
        assert!(x.integers.len() >= end * BLOCK && x.scales.len() >= end && x.sums.len() >= end, "rows are cut to size");
        let mut sums = [_mm256_setzero_ps(); R];
        let mut minima = [[0f32; G]; R];
        for (i, block) in weights.iter().enumerate() {
            // SAFETY: the processor has the features; the assertion covers the accesses.
            unsafe {
                let mut factors: Factors<G> = F::factors(block);
                let of_block = |values: &[f32], r: usize| values.as_ptr().add((first + r) * groups + i * G).cast::<[f32; G]>().read();
                if R == 1 {
                    let x_scales = of_block(&x.scales, 0);
                    for scales in &mut factors.scales {
                        scales.iter_mut().zip(x_scales).for_each(|(scale, x_scale)| *scale *= x_scale);
                    }
                }
                for group in 0..G {
                    let integers = F::integers(block, group);
                    let [first_half, second_half] = [factors.scales[0][group], factors.scales[1][group]];
                    let scales = if F::HALVES {
                        _mm256_set_m128(_mm_set1_ps(second_half), _mm_set1_ps(first_half))
                    } else {
                        _mm256_set1_ps(first_half)
                    };
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let at = (first + r) * groups + i * G + group;
                        let values = _mm256_loadu_si256(x.integers.as_ptr().add(at * BLOCK).cast());
                        let pairs = if F::SIGNED {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(integers), _mm256_sign_epi8(values, integers))
                        } else {
                            _mm256_maddubs_epi16(integers, values)
                        };
                        let products = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                        let scale = if R == 1 { scales } else { _mm256_mul_ps(scales, _mm256_set1_ps(*x.scales.get_unchecked(at))) };
                        *sum = _mm256_fmadd_ps(products, scale, *sum);
                    }
                }
                if !F::SIGNED {
                    for (r, minima) in minima.iter_mut().enumerate() {
                        for ((sum, minimum), x_sum) in minima.iter_mut().zip(factors.minima).zip(of_block(&x.sums, r)) {
                            *sum = minimum.mul_add(x_sum, *sum);
                        }
                    }
                }
            }
        }
        let mut products = [0f32; R];
        for ((product, sum), minima) in products.iter_mut().zip(sums).zip(minima) {
            *product = minima.into_iter().fold(add_lanes(sum), |product, minimum| product + minimum);
        }
        products
    }

    /// The weight rows of a panel, one for each lane of a vector of 32-bit sums.
    const LANES: usize = 16;
    /// Rows of `x` that are multiplied together.
    const ROWS: usize = 8;
    /// An instruction multiplies words of 4 bytes in each lane.
    const WORDS: usize = BLOCK / 4;

    /// 32 weights of each row of a panel.
    #[derive(Clone)]
    #[repr(C, align(64))]
    struct Packed {
        integers: [[[u8; 4]; LANES]; WORDS],
        /// Of the first 16 weights and of the others.
        scales: [[f32; LANES]; 2],
        minima: [f32; LANES],
        /// Takes back what the shift of the inputs by 128 adds to the products with signed integers.
        corrections: [[i32; LANES]; 2],
    }

    const EMPTY: Packed =
        Packed { integers: [[[0; 4]; LANES]; WORDS], scales: [[0.0; LANES]; 2], minima: [0.0; LANES], corrections: [[0; LANES]; 2] };

    /// For many rows: panels of weight rows are unpacked once, for all rows. The processor has AVX2, FMA, F16C and AVX-512
    /// VNNI.
    fn many_rows<F: Format<G, N>, const G: usize, const N: usize>(x: &Rounded, blocks: &[[u8; N]], row_blocks: usize) -> Vec<f32> {
        // Signed weights are multiplied with inputs that are shifted to be positive.
        let shift = if F::SIGNED { 0x80 } else { 0 };
        let word = |bytes: &[i8; 4]| i32::from_le_bytes(bytes.map(|byte| byte.cast_unsigned() ^ shift));
        let words: Vec<i32> = x.integers.as_chunks().0.iter().map(word).collect();
        // SAFETY: the processor has the features.
        let panel = |blocks: &[[u8; N]]| unsafe { panel::<F, G, N>(x, &words, blocks, row_blocks) };
        let panels: Vec<Vec<f32>> = blocks.par_chunks(LANES * row_blocks).map(panel).collect();
        join(&panels, LANES, x.rows, blocks.len() / row_blocks)
    }

    /// The products `[rows, LANES]` of all rows with up to [`LANES`] rows of weights.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vnni")]
    fn panel<F: Format<G, N>, const G: usize, const N: usize>(
        x: &Rounded,
        words: &[i32],
        blocks: &[[u8; N]],
        row_blocks: usize,
    ) -> Vec<f32> {
        let mut packed = vec![EMPTY; row_blocks * G];
        for (lane, row) in blocks.chunks_exact(row_blocks).enumerate() {
            for (packed, block) in packed.chunks_exact_mut(G).zip(row) {
                // SAFETY: the processor has the features.
                let factors: Factors<G> = unsafe { F::factors(block) };
                for (group, packed) in packed.iter_mut().enumerate() {
                    // SAFETY: the processor has the features; both types are 32 bytes of any value.
                    let bytes = unsafe { std::mem::transmute::<__m256i, [[u8; 4]; WORDS]>(F::integers(block, group)) };
                    for (word, (integers, bytes)) in packed.integers.iter_mut().zip(bytes).enumerate() {
                        integers[lane] = bytes;
                        if F::SIGNED {
                            let sum: i32 = bytes.iter().map(|byte| i32::from(byte.cast_signed())).sum();
                            packed.corrections[if F::HALVES { 2 * word / WORDS } else { 0 }][lane] -= 128 * sum;
                        }
                    }
                    for (packed, scales) in packed.scales.iter_mut().zip(factors.scales) {
                        packed[lane] = scales[group];
                    }
                    packed.minima[lane] = factors.minima[group];
                }
            }
        }
        let mut products = vec![0f32; x.rows * LANES];
        let mut groups = products.chunks_exact_mut(ROWS * LANES);
        let mut first = 0;
        for products in groups.by_ref() {
            multiply::<F, G, N, ROWS>(x, words, first, &packed, products);
            first += ROWS;
        }
        for products in groups.into_remainder().chunks_exact_mut(LANES) {
            multiply::<F, G, N, 1>(x, words, first, &packed, products);
            first += 1;
        }
        products
    }

    /// Writes the products `[R, LANES]` of `R` rows from `first` on.
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn multiply<F: Format<G, N>, const G: usize, const N: usize, const R: usize>(
        x: &Rounded,
        words: &[i32],
        first: usize,
        packed: &[Packed],
        products: &mut [f32],
    ) {
        let groups = packed.len();
        let end = (first + R) * groups;
        assert!(words.len() >= end * WORDS && x.scales.len() >= end && x.sums.len() >= end, "rows are cut to size");
        let mut sums = [_mm512_setzero_ps(); R];
        for (i, packed) in packed.iter().enumerate() {
            // SAFETY: the assertion covers the accesses.
            unsafe {
                let weights: [__m512i; WORDS] = std::array::from_fn(|w| _mm512_loadu_si512(packed.integers[w].as_ptr().cast()));
                let [first_half, second_half] = packed.scales.each_ref().map(|scales| _mm512_loadu_ps(scales.as_ptr()));
                let corrections = packed.corrections.each_ref().map(|sums| _mm512_loadu_si512(sums.as_ptr().cast()));
                let minima = _mm512_loadu_ps(packed.minima.as_ptr());
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = (first + r) * groups + i;
                    let values = words.as_ptr().add(at * WORDS);
                    let dot = |mut integers: __m512i, range: Range<usize>| {
                        for w in range {
                            let value = _mm512_set1_epi32(values.add(w).read());
                            integers = if F::SIGNED {
                                _mm512_dpbusd_epi32(integers, value, weights[w])
                            } else {
                                _mm512_dpbusd_epi32(integers, weights[w], value)
                            };
                        }
                        _mm512_cvtepi32_ps(integers)
                    };
                    let products = if F::HALVES {
                        let second = _mm512_mul_ps(dot(corrections[1], WORDS / 2..WORDS), second_half);
                        _mm512_fmadd_ps(dot(corrections[0], 0..WORDS / 2), first_half, second)
                    } else {
                        _mm512_mul_ps(dot(corrections[0], 0..WORDS), first_half)
                    };
                    *sum = _mm512_fmadd_ps(products, _mm512_set1_ps(*x.scales.get_unchecked(at)), *sum);
                    if !F::SIGNED {
                        *sum = _mm512_fmadd_ps(minima, _mm512_set1_ps(*x.sums.get_unchecked(at)), *sum);
                    }
                }
            }
        }
        for (products, sum) in products.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            // SAFETY: a chunk has as many values as a vector.
            unsafe { _mm512_storeu_ps(products.as_mut_ptr(), sum) };
        }
    }
}
