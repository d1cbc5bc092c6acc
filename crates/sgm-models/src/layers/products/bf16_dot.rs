//! Products of many bf16 rows with bf16 weights by the processor's dot products of bf16 pairs (AVX-512 BF16).

use half::bf16;

/// Multiplies rows `x` `[rows, inputs]` with weights `[outputs, inputs]`, summed in f32; returns `[rows, outputs]`.
/// `None` if the processor lacks the instructions or the number of inputs is odd.
pub(crate) fn product(x: &[bf16], weights: &[bf16], inputs: usize) -> Option<Vec<f32>> {
    #[cfg(target_arch = "x86_64")]
    if inputs > 0
        && inputs.is_multiple_of(2)
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
    {
        return Some(avx512::product(x, weights, inputs));
    }
    let _ = (x, weights, inputs);
    None
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "vector instructions that the processor was found to have")]
#[allow(clippy::indexing_slicing, reason = "indices of arrays, and of slices that are cut to size")]
mod avx512 {
    use std::arch::x86_64::*;

    use half::bf16;
    use rayon::prelude::*;

    use crate::layers::products::join;

    /// f32 sums in a vector, one for each weight row.
    const LANES: usize = 16;
    /// Vectors of weight rows that are multiplied together.
    const VECTORS: usize = 3;
    /// Weight rows of a panel.
    const PANEL: usize = VECTORS * LANES;
    /// Rows of `x` that are multiplied together: with [`VECTORS`], as many sums as fit into the registers.
    const ROWS: usize = 8;
    /// Pairs of inputs whose packed weights stay in a core's cache.
    const BLOCK: usize = 1024;

    pub(super) fn product(x: &[bf16], weights: &[bf16], inputs: usize) -> Vec<f32> {
        let (rows, outputs) = (x.len() / inputs, weights.len() / inputs);
        let pairs = |[a, b]: &[bf16; 2]| u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
        let x: Vec<u32> = x.as_chunks().0.iter().map(pairs).collect();
        // SAFETY: the caller has found the features.
        let panel = |weights: &[bf16]| unsafe { panel(&x, rows, inputs / 2, weights) };
        let panels: Vec<Vec<f32>> = weights.par_chunks(PANEL * inputs).map(panel).collect();
        join(&panels, PANEL, rows, outputs)
    }

    /// The products `[rows, PANEL]` of pairs `x` `[rows, inputs]` with up to [`PANEL`] weight rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn panel(x: &[u32], rows: usize, inputs: usize, weights: &[bf16]) -> Vec<f32> {
        let mut products = vec![0f32; rows * PANEL];
        let mut packed = vec![0u32; BLOCK.min(inputs) * PANEL];
        for start in (0..inputs).step_by(BLOCK) {
            let pairs = BLOCK.min(inputs - start);
            pack(weights, inputs, start, pairs, &mut packed);
            let mut groups = products.chunks_exact_mut(ROWS * PANEL);
            for (i, products) in groups.by_ref().enumerate() {
                multiply::<ROWS>(&x[i * ROWS * inputs + start..], inputs, &packed, pairs, products);
            }
            let left = rows % ROWS;
            for (i, products) in groups.into_remainder().chunks_exact_mut(PANEL).enumerate() {
                multiply::<1>(&x[(rows - left + i) * inputs + start..], inputs, &packed, pairs, products);
            }
        }
        products
    }

    /// Packs pairs of inputs from `start` on: `[pairs, PANEL]`, with zeros for missing weight rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack(weights: &[bf16], inputs: usize, start: usize, pairs: usize, packed: &mut [u32]) {
        packed.fill(0);
        for (lane, row) in weights.chunks_exact(2 * inputs).enumerate() {
            let row = row[2 * start..2 * (start + pairs)].as_chunks().0;
            for (packed, [a, b]) in packed.chunks_exact_mut(PANEL).zip(row) {
                packed[lane] = u32::from(a.to_bits()) | u32::from(b.to_bits()) << 16;
            }
        }
    }

    /// Adds the products of `R` rows, `stride` pairs apart, with a packed panel to `products` `[R, PANEL]`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn multiply<const R: usize>(x: &[u32], stride: usize, packed: &[u32], pairs: usize, products: &mut [f32]) {
        assert!(x.len() >= (R - 1) * stride + pairs && packed.len() >= pairs * PANEL && products.len() == R * PANEL, "cut to size");
        let products = products.as_mut_ptr();
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; R];
        // SAFETY: the assertion covers all accesses.
        unsafe {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(products.add(r * PANEL + v * LANES));
                }
            }
            for pair in 0..pairs {
                let weights: [__m512i; VECTORS] =
                    std::array::from_fn(|v| _mm512_loadu_si512(packed.as_ptr().add(pair * PANEL + v * LANES).cast()));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_epi32(x.as_ptr().add(r * stride + pair).read().cast_signed());
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbf16_ps(*sum, bits(weight), bits(value));
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(products.add(r * PANEL + v * LANES), *sum);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bits(pairs: __m512i) -> __m512bh {
        // SAFETY: both types are 512 bits of any value.
        unsafe { std::mem::transmute(pairs) }
    }
}
