//! Products with matrices in GGUF blocks. Inputs are rounded to 8 bits, block by block, for any number of rows.
//!
//! candle's kernels multiply what they repack for the processor's 8-bit dot products. Of the rest, formats with blocks
//! of 32 weights have 8-bit dot products here. Other formats are left to candle for few rows; for many rows, panels are
//! dequantised and multiplied in f32 with the rounded inputs, which gives the same values up to the rounding of sums.

use candle_core::quantized::k_quants::{BlockQ8K, GgmlType};
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Result, Tensor};
use candle_nn::Module;
use rayon::prelude::*;
use std::sync::Arc;

use crate::layers::products::few_rows::FEW_ROWS;
use crate::layers::products::{panels, transpose, with_last_dim, with_slice};

/// Values in a block of the formats with a scale for every 32 weights.
const BLOCK: usize = 32;

/// Multiplies f32 rows `x` `[.., inputs]` on the CPU with a quantised matrix `[outputs, inputs]`.
pub(crate) fn product(x: &Tensor, weight: &Arc<QTensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.shape().dims2()?;
    let rows = x.elem_count() / inputs.max(1);
    let dtype = weight.dtype();
    if !x.device().is_cpu() || rows == 0 || repacked(dtype, rows, outputs, inputs) {
        return QMatMul::QTensor(weight.clone()).forward(x);
    }
    let blocks_of_32 = Format::of(dtype).filter(|_| inputs.is_multiple_of(BLOCK) && has_avx2());
    let products = with_slice(x, |x: &[f32]| match blocks_of_32 {
        Some(format) => Ok(Some(integer_products(&Rounded::new(x, inputs), format, &weight.data()?, inputs))),
        None if rows > FEW_ROWS && dtype.block_size() == BlockQ8K::BLCK_SIZE => {
            dequantised(&rounded_by_256(x), weight, outputs, inputs).map(Some)
        }
        None => Ok(None),
    })?;
    match products {
        Some(products) => with_last_dim(products, x, outputs),
        None => QMatMul::QTensor(weight.clone()).forward(x),
    }
}

/// Whether candle has a kernel that repacks a matrix for the 8-bit dot products of this processor.
fn repacked(dtype: GgmlDType, rows: usize, outputs: usize, inputs: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let vnni = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni");
        outputs.is_multiple_of(16)
            && inputs.is_multiple_of(256)
            && match dtype {
                GgmlDType::Q4K => has_avx2(),
                GgmlDType::Q6K => has_avx2() && rows > 1,
                GgmlDType::Q8_0 => vnni,
                _ => false,
            }
    }
    // On other processors candle's own kernels are the ones to use.
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (dtype, rows, outputs, inputs);
        true
    }
}

fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The products of rounded rows with dequantised panels, `[rows, outputs]`.
fn dequantised(x: &[f32], weight: &QTensor, outputs: usize, inputs: usize) -> Result<Vec<f32>> {
    panels::product(x, inputs, outputs, |first, values: &mut [f32]| {
        let rows = rows_of(weight, first, values.len() / inputs)?.dequantize(&Device::Cpu)?.flatten_all()?;
        with_slice(&rows, |rows: &[f32]| {
            values.copy_from_slice(rows);
            Ok(())
        })
    })
}

/// Some rows of a quantised matrix. Blocks lie within rows, so nothing is quantised again.
pub(crate) fn rows_of(weight: &QTensor, start: usize, count: usize) -> Result<QTensor> {
    let (rows, inputs) = weight.shape().dims2()?;
    let data = weight.data()?;
    let row = data.len() / rows.max(1);
    let Some(bytes) = data.get(start * row..(start + count) * row) else {
        candle_core::bail!("a matrix of {rows} rows has no rows {start} to {}", start + count)
    };
    // Whole blocks from the start of an aligned vector of blocks are aligned too.
    QTensor::new(QStorage::from_data(bytes.into(), &weight.device(), weight.dtype())?, (count, inputs))
}

/// Rounds rows as candle does for formats with blocks of 256 weights.
fn rounded_by_256(x: &[f32]) -> Vec<f32> {
    let mut blocks = vec![BlockQ8K::zeros(); x.len() / BlockQ8K::BLCK_SIZE];
    BlockQ8K::from_float(x, &mut blocks);
    let mut values = vec![0f32; x.len()];
    BlockQ8K::to_float(&blocks, &mut values);
    values
}

/// Rows rounded to 8 bits: 32 values share a scale, as in the format Q8_0, but the scale is kept in f32.
#[derive(Debug)]
struct Rounded {
    /// `[rows, inputs]`.
    integers: Vec<i8>,
    /// `[rows, inputs / 32]`.
    scales: Vec<f32>,
    /// The sum of the rounded values of each block.
    sums: Vec<f32>,
    rows: usize,
}

impl Rounded {
    fn new(x: &[f32], inputs: usize) -> Self {
        let blocks = x.len() / BLOCK;
        let mut rounded = Self { integers: vec![0; x.len()], scales: vec![0.0; blocks], sums: vec![0.0; blocks], rows: x.len() / inputs };
        let row_blocks = inputs / BLOCK;
        let rows = x.par_chunks_exact(inputs).zip(rounded.integers.par_chunks_exact_mut(inputs));
        let rows = rows.zip(rounded.scales.par_chunks_exact_mut(row_blocks)).zip(rounded.sums.par_chunks_exact_mut(row_blocks));
        rows.for_each(|(((x, integers), scales), sums)| {
            for (((x, integers), scale), sum) in x.as_chunks().0.iter().zip(integers.as_chunks_mut().0).zip(scales).zip(sums) {
                (*scale, *sum) = round(x, integers);
            }
        });
        rounded
    }
}

/// Rounds a block to integers of at most 127; returns their scale and the sum of the rounded values.
fn round(x: &[f32; BLOCK], integers: &mut [i8; BLOCK]) -> (f32, f32) {
    /// Adding it rounds to the nearest integer, which the low byte of the sum holds.
    const ROUND: f32 = 12_582_912.0;
    let largest = x.iter().fold(0f32, |largest, value| if value.abs() > largest { value.abs() } else { largest });
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sum = 0i32;
    for (value, integer) in x.iter().zip(integers) {
        let [byte, ..] = (value * inverse + ROUND).to_bits().to_le_bytes();
        *integer = byte.cast_signed();
        sum += i32::from(*integer);
    }
    (scale, scale * sum as f32)
}

/// A format whose blocks of 32 weights are `scale * integer + minimum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
}

impl Format {
    fn of(dtype: GgmlDType) -> Option<Self> {
        Some(match dtype {
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q8_0 => Self::Q8_0,
            _ => return None,
        })
    }
}

/// The products `[rows, outputs]` of rounded rows with blocks of 32 weights. The processor has AVX2.
fn integer_products(x: &Rounded, format: Format, blocks: &[u8], inputs: usize) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    {
        if x.rows > FEW_ROWS && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            return avx512::product(x, format, blocks, inputs);
        }
        transpose(avx2::product(x, format, blocks, inputs), x.rows)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (x, format, blocks, inputs);
        Vec::new()
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
#[allow(clippy::indexing_slicing, reason = "indices of arrays, and of slices that are cut to size")]
mod avx2 {
    use std::arch::x86_64::*;

    use rayon::prelude::*;

    use super::{BLOCK, Format, Rounded};

    /// The number of weight rows that one thread multiplies at a time.
    const CHUNK: usize = 64;

    /// The products `[outputs, rows]`.
    pub(super) fn product(x: &Rounded, format: Format, blocks: &[u8], inputs: usize) -> Vec<f32> {
        // SAFETY: the caller has found AVX2, FMA and F16C.
        match format {
            Format::Q4_0 => all(x, blocks, inputs, |x, row: &[[u8; 18]], to| unsafe { outputs::<Q4_0, 18>(x, row, to) }),
            Format::Q4_1 => all(x, blocks, inputs, |x, row: &[[u8; 20]], to| unsafe { outputs::<Q4_1, 20>(x, row, to) }),
            Format::Q5_0 => all(x, blocks, inputs, |x, row: &[[u8; 22]], to| unsafe { outputs::<Q5_0, 22>(x, row, to) }),
            Format::Q5_1 => all(x, blocks, inputs, |x, row: &[[u8; 24]], to| unsafe { outputs::<Q5_1, 24>(x, row, to) }),
            Format::Q8_0 => all(x, blocks, inputs, |x, row: &[[u8; 34]], to| unsafe { outputs::<Q8_0, 34>(x, row, to) }),
        }
    }

    fn all<const N: usize>(x: &Rounded, blocks: &[u8], inputs: usize, row: impl Fn(&Rounded, &[[u8; N]], &mut [f32]) + Sync) -> Vec<f32> {
        let (blocks, row_blocks) = (blocks.as_chunks::<N>().0, inputs / BLOCK);
        let mut products = vec![0f32; x.rows * (blocks.len() / row_blocks)];
        products.par_chunks_mut(CHUNK * x.rows).zip(blocks.par_chunks(CHUNK * row_blocks)).for_each(|(products, blocks)| {
            for (products, blocks) in products.chunks_exact_mut(x.rows).zip(blocks.chunks_exact(row_blocks)) {
                row(x, blocks, products);
            }
        });
        products
    }

    /// 32 weights: `scale * integer + minimum`.
    pub(super) struct Weights {
        pub(super) integers: __m256i,
        pub(super) scale: f32,
        pub(super) minimum: f32,
    }

    pub(super) trait Block<const N: usize> {
        /// Whether the integers are signed.
        const SIGNED: bool = false;

        /// # Safety
        ///
        /// The processor has AVX2 and F16C.
        unsafe fn read(block: &[u8; N]) -> Weights;
    }

    pub(super) struct Q4_0;
    pub(super) struct Q4_1;
    pub(super) struct Q5_0;
    pub(super) struct Q5_1;
    pub(super) struct Q8_0;

    #[target_feature(enable = "f16c")]
    fn half(bytes: [u8; 2]) -> f32 {
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(bytes).into())))
    }

    /// The low halves of 16 bytes, then the high halves.
    #[target_feature(enable = "avx2")]
    fn nibbles(bytes: [u8; 16]) -> __m256i {
        // SAFETY: 16 bytes are read.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes), _mm256_set1_epi8(0x0f))
    }

    /// 16 in every byte whose bit is set.
    #[target_feature(enable = "avx2")]
    fn fifth_bits(bits: [u8; 4]) -> __m256i {
        let from = _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(i32::from_le_bytes(bits)), from);
        let one_bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
        _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, one_bit), one_bit), _mm256_set1_epi8(16))
    }

    macro_rules! block {
        ($format:ident, $size:literal, $signed:literal, $pattern:pat => $weights:expr) => {
            impl Block<$size> for $format {
                const SIGNED: bool = $signed;

                #[inline(always)]
                unsafe fn read($pattern: &[u8; $size]) -> Weights {
                    // SAFETY: as documented.
                    unsafe { $weights }
                }
            }
        };
    }

    block!(Q4_0, 18, false, &[a, b, ref q @ ..] => {
        let scale = half([a, b]);
        Weights { integers: nibbles(*q), scale, minimum: -8.0 * scale }
    });
    block!(Q4_1, 20, false, &[a, b, c, d, ref q @ ..] => Weights { integers: nibbles(*q), scale: half([a, b]), minimum: half([c, d]) });
    block!(Q5_0, 22, false, &[a, b, e, f, g, h, ref q @ ..] => {
        let scale = half([a, b]);
        Weights { integers: _mm256_or_si256(nibbles(*q), fifth_bits([e, f, g, h])), scale, minimum: -16.0 * scale }
    });
    block!(Q5_1, 24, false, &[a, b, c, d, e, f, g, h, ref q @ ..] => {
        Weights { integers: _mm256_or_si256(nibbles(*q), fifth_bits([e, f, g, h])), scale: half([a, b]), minimum: half([c, d]) }
    });
    block!(Q8_0, 34, true, &[a, b, ref q @ ..] => {
        Weights { integers: _mm256_loadu_si256(q.as_ptr().cast()), scale: half([a, b]), minimum: 0.0 }
    });

    /// The dot products of one row of weights with all rows of `x`, four at a time.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn outputs<B: Block<N>, const N: usize>(x: &Rounded, weights: &[[u8; N]], products: &mut [f32]) {
        let mut groups = products.chunks_exact_mut(4);
        let mut first = 0;
        for group in groups.by_ref() {
            group.copy_from_slice(&dots::<B, N, 4>(x, first, weights));
            first += 4;
        }
        for product in groups.into_remainder() {
            [*product] = dots::<B, N, 1>(x, first, weights);
            first += 1;
        }
    }

    /// The dot products of one row of weights with `R` rows of `x` from `first` on.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn dots<B: Block<N>, const N: usize, const R: usize>(x: &Rounded, first: usize, weights: &[[u8; N]]) -> [f32; R] {
        let blocks = weights.len();
        assert!(x.integers.len() >= (first + R) * blocks * BLOCK && x.scales.len() >= (first + R) * blocks, "rows are cut to size");
        let mut sums = [_mm256_setzero_ps(); R];
        let mut minima = [0f32; R];
        for (i, block) in weights.iter().enumerate() {
            // SAFETY: the processor has the features; the assertion covers the accesses.
            unsafe {
                let Weights { integers, scale, minimum } = B::read(block);
                for r in 0..R {
                    let at = (first + r) * blocks + i;
                    let values = _mm256_loadu_si256(x.integers.as_ptr().add(at * BLOCK).cast());
                    let pairs = if B::SIGNED {
                        _mm256_maddubs_epi16(_mm256_abs_epi8(integers), _mm256_sign_epi8(values, integers))
                    } else {
                        _mm256_maddubs_epi16(integers, values)
                    };
                    let products = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                    sums[r] = _mm256_fmadd_ps(products, _mm256_set1_ps(scale * x.scales.get_unchecked(at)), sums[r]);
                    if !B::SIGNED {
                        minima[r] = minimum.mul_add(*x.sums.get_unchecked(at), minima[r]);
                    }
                }
            }
        }
        std::array::from_fn(|r| add(sums[r]) + minima[r])
    }

    #[target_feature(enable = "avx2")]
    fn add(sums: __m256) -> f32 {
        let sum = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
#[allow(clippy::indexing_slicing, reason = "indices of arrays, and of slices that are cut to size")]
mod avx512 {
    use std::arch::x86_64::*;

    use rayon::prelude::*;

    use super::avx2::{Block, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Weights};
    use super::{BLOCK, Format, Rounded};

    /// The weight rows of a panel, one for each lane of a vector of 32-bit sums.
    const LANES: usize = 16;
    /// Rows of `x` that are multiplied together.
    const ROWS: usize = 8;
    /// A dot product instruction multiplies 4 bytes in each lane.
    const GROUPS: usize = BLOCK / 4;

    /// One block of each row of a panel.
    #[derive(Clone)]
    #[repr(C, align(64))]
    struct Packed {
        /// Not negative.
        integers: [[[u8; 4]; LANES]; GROUPS],
        scales: [f32; LANES],
        minima: [f32; LANES],
    }

    /// The products `[rows, outputs]`.
    pub(super) fn product(x: &Rounded, format: Format, blocks: &[u8], inputs: usize) -> Vec<f32> {
        // SAFETY: the caller has found the features.
        match format {
            Format::Q4_0 => all(x, blocks, inputs, |x, blocks: &[[u8; 18]]| unsafe { panel::<Q4_0, 18>(x, blocks, inputs / BLOCK) }),
            Format::Q4_1 => all(x, blocks, inputs, |x, blocks: &[[u8; 20]]| unsafe { panel::<Q4_1, 20>(x, blocks, inputs / BLOCK) }),
            Format::Q5_0 => all(x, blocks, inputs, |x, blocks: &[[u8; 22]]| unsafe { panel::<Q5_0, 22>(x, blocks, inputs / BLOCK) }),
            Format::Q5_1 => all(x, blocks, inputs, |x, blocks: &[[u8; 24]]| unsafe { panel::<Q5_1, 24>(x, blocks, inputs / BLOCK) }),
            Format::Q8_0 => all(x, blocks, inputs, |x, blocks: &[[u8; 34]]| unsafe { panel::<Q8_0, 34>(x, blocks, inputs / BLOCK) }),
        }
    }

    fn all<const N: usize>(x: &Rounded, blocks: &[u8], inputs: usize, panel: impl Fn(&Rounded, &[[u8; N]]) -> Vec<f32> + Sync) -> Vec<f32> {
        let (blocks, row_blocks) = (blocks.as_chunks::<N>().0, inputs / BLOCK);
        let outputs = blocks.len() / row_blocks;
        let panels: Vec<Vec<f32>> = blocks.par_chunks(LANES * row_blocks).map(|blocks| panel(x, blocks)).collect();
        let mut products = vec![0f32; x.rows * outputs];
        products.par_chunks_mut(outputs.max(1)).enumerate().for_each(|(row, products)| {
            for (products, panel) in products.chunks_mut(LANES).zip(&panels) {
                let columns = products.len();
                products.copy_from_slice(&panel[row * LANES..row * LANES + columns]);
            }
        });
        products
    }

    /// The products `[rows, LANES]` of all rows with up to [`LANES`] rows of weights.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512vnni")]
    fn panel<B: Block<N>, const N: usize>(x: &Rounded, blocks: &[[u8; N]], row_blocks: usize) -> Vec<f32> {
        let empty = Packed { integers: [[[0; 4]; LANES]; GROUPS], scales: [0.0; LANES], minima: [0.0; LANES] };
        let mut packed = vec![empty; row_blocks];
        for (lane, row) in blocks.chunks_exact(row_blocks).enumerate() {
            for (packed, block) in packed.iter_mut().zip(row) {
                // SAFETY: the processor has the features; the bytes are those of a vector.
                let (bytes, scale, minimum) = unsafe {
                    let Weights { integers, scale, minimum } = B::read(block);
                    // Signed integers are shifted by 128 and the minimum by as much in the other direction.
                    let (integers, minimum) = if B::SIGNED {
                        (_mm256_xor_si256(integers, _mm256_set1_epi8(i8::MIN)), minimum - 128.0 * scale)
                    } else {
                        (integers, minimum)
                    };
                    (std::mem::transmute::<__m256i, [[u8; 4]; GROUPS]>(integers), scale, minimum)
                };
                for (integers, bytes) in packed.integers.iter_mut().zip(bytes) {
                    integers[lane] = bytes;
                }
                packed.scales[lane] = scale;
                packed.minima[lane] = minimum;
            }
        }
        let mut products = vec![0f32; x.rows * LANES];
        let mut groups = products.chunks_exact_mut(ROWS * LANES);
        let mut first = 0;
        for products in groups.by_ref() {
            multiply::<ROWS>(x, first, &packed, products);
            first += ROWS;
        }
        for products in groups.into_remainder().chunks_exact_mut(LANES) {
            multiply::<1>(x, first, &packed, products);
            first += 1;
        }
        products
    }

    /// Writes the products `[R, LANES]` of `R` rows from `first` on.
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn multiply<const R: usize>(x: &Rounded, first: usize, packed: &[Packed], products: &mut [f32]) {
        let blocks = packed.len();
        let rows = first..first + R;
        assert!(x.integers.len() >= rows.end * blocks * BLOCK && x.scales.len() >= rows.end * blocks, "rows are cut to size");
        assert!(x.sums.len() == x.scales.len() && products.len() == R * LANES, "rows are cut to size");
        let mut sums = [_mm512_setzero_ps(); R];
        for (i, packed) in packed.iter().enumerate() {
            // SAFETY: the assertions cover the accesses.
            unsafe {
                let weights: [__m512i; GROUPS] = std::array::from_fn(|g| _mm512_loadu_si512(packed.integers[g].as_ptr().cast()));
                let (scales, minima) = (_mm512_loadu_ps(packed.scales.as_ptr()), _mm512_loadu_ps(packed.minima.as_ptr()));
                for (r, sum) in sums.iter_mut().enumerate() {
                    let at = (first + r) * blocks + i;
                    let values = x.integers.as_ptr().add(at * BLOCK).cast::<i32>();
                    let mut integers = _mm512_setzero_si512();
                    for (g, weights) in weights.iter().enumerate() {
                        integers = _mm512_dpbusd_epi32(integers, *weights, _mm512_set1_epi32(values.add(g).read_unaligned()));
                    }
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(*x.scales.get_unchecked(at)));
                    *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(integers), scale, *sum);
                    *sum = _mm512_fmadd_ps(minima, _mm512_set1_ps(*x.sums.get_unchecked(at)), *sum);
                }
            }
        }
        for (products, sum) in products.chunks_exact_mut(LANES).zip(sums) {
            // SAFETY: a chunk has as many values as a vector.
            unsafe { _mm512_storeu_ps(products.as_mut_ptr(), sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [GgmlDType; 10] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    #[test]
    fn rows_of_a_quantised_matrix_are_those_of_its_dequantised_form() {
        let weight = Tensor::randn(0f32, 1.0, (6, 256), &Device::Cpu).unwrap();
        for dtype in FORMATS {
            let whole = QTensor::quantize(&weight, dtype).unwrap();
            let rows = rows_of(&whole, 2, 3).unwrap().dequantize(&Device::Cpu).unwrap();
            let expected = whole.dequantize(&Device::Cpu).unwrap().narrow(0, 2, 3).unwrap();
            assert_eq!(rows.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
            assert!(rows_of(&whole, 4, 3).is_err());
        }
    }

    /// The largest difference relative to the largest value.
    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let largest = |x: &Tensor| x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        largest(&(a - b).unwrap()) / largest(b)
    }

    #[test]
    fn products_of_any_number_of_rows_are_those_of_the_dequantised_matrix_with_inputs_rounded_to_8_bits() {
        // With and without candle's repacked kernels, whose sizes are multiples of 16 and 256.
        for (outputs, inputs) in [(48, 512), (70, 256), (33, 512)] {
            let weight = Tensor::randn(0f32, 1.0, (outputs, inputs), &Device::Cpu).unwrap();
            for dtype in FORMATS {
                let weight = Arc::new(QTensor::quantize(&weight, dtype).unwrap());
                let dense = weight.dequantize(&Device::Cpu).unwrap();
                for rows in [1, 2, 5, FEW_ROWS, FEW_ROWS + 1, 40] {
                    let x = Tensor::randn(0f32, 1.0, (1, rows, inputs), &Device::Cpu).unwrap();
                    let products = product(&x, &weight).unwrap();
                    assert_eq!(products.dims(), [1, rows, outputs]);
                    let exact = x.broadcast_matmul(&dense.t().unwrap()).unwrap();
                    // The rounding is by at most a 254th of the largest input of a block.
                    assert!(difference(&products, &exact) < 0.02, "{dtype:?} {rows}: {}", difference(&products, &exact));
                    let one_by_one: Vec<_> = (0..rows).map(|row| product(&x.narrow(1, row, 1).unwrap(), &weight).unwrap()).collect();
                    let one_by_one = Tensor::cat(&one_by_one, 1).unwrap();
                    let bound = if FORMATS.iter().position(|f| *f == dtype) < Some(5) { 2e-6 } else { 2e-5 };
                    assert!(
                        difference(&products, &one_by_one) < bound,
                        "{dtype:?} {outputs} x {inputs}, {rows}: {}",
                        difference(&products, &one_by_one)
                    );
                }
            }
        }
    }

    #[test]
    fn rows_of_zeros_give_zeros() {
        let weight = Arc::new(QTensor::quantize(&Tensor::randn(0f32, 1.0, (8, 64), &Device::Cpu).unwrap(), GgmlDType::Q4_1).unwrap());
        let x = Tensor::zeros((1, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(product(&x, &weight).unwrap().to_vec2::<f32>().unwrap(), [[0.0; 8]]);
    }
}
