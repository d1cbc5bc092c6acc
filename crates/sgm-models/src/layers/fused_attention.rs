//! Dot-product attention on the CPU, block by block of queries, without a table of all scores.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::layers::exponential::exponentials;
use crate::layers::products::multiply;

/// The largest number of queries whose scores are in memory at once, for each thread.
const QUERIES: usize = 64;
/// With fewer tokens, the queries of all heads that share a key head form one block.
const FEW_TOKENS: usize = 16;

/// Attends from queries `[batch, heads, tokens, head_dim]`, already scaled, to keys and values `[batch, kv_heads, seen,
/// head_dim]`, all f32; returns `[batch, tokens, heads * head_dim]`. For gradients, the scores are computed again.
pub(crate) struct FusedAttention {
    mask: Option<Mask>,
    softcap: Option<f64>,
}

/// Added to the scores of all heads.
struct Mask {
    tensor: Tensor,
    values: Vec<f32>,
    /// 1, or the number of sequences.
    rows: usize,
}

impl FusedAttention {
    /// `None` for tensors of another dtype than f32 or on another device than the CPU, or a mask that differs between
    /// heads.
    pub(crate) fn new(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, softcap: Option<f64>) -> Result<Option<Self>> {
        if [q, k, v].into_iter().chain(mask).any(|x| x.dtype() != DType::F32 || !x.device().is_cpu()) {
            return Ok(None);
        }
        let Some(mask) = mask else { return Ok(Some(Self { mask: None, softcap })) };
        let ((batch, _, tokens, _), seen) = (q.dims4()?, k.dim(2)?);
        let rows = match *mask.dims() {
            [rows, 1, t, s] if (rows == 1 || rows == batch) && t == tokens && s == seen => rows,
            _ => return Ok(None),
        };
        Ok(Some(Self { mask: Some(Mask { tensor: mask.detach(), values: mask.flatten_all()?.to_vec1()?, rows }), softcap }))
    }
}

impl CustomOp3 for FusedAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((batch, heads, tokens, head_dim), (_, kv_heads, seen, _)) = (q_layout.shape().dims4()?, k_layout.shape().dims4()?);
        let (q, k, v) = (Rows::new(q, q_layout)?, Rows::new(k, k_layout)?, Rows::new(v, v_layout)?);
        #[allow(clippy::cast_possible_truncation, reason = "scores are f32")]
        let softcap = self.softcap.map(|cap| cap as f32);
        let group = heads / kv_heads;
        let few = tokens < FEW_TOKENS;
        // A block has some queries of one head, or all queries of the heads of a group.
        let block = if few { tokens } else { QUERIES };
        let (units, per_unit) = if few { (kv_heads, group) } else { (heads, 1) };
        let blocks_of_unit = tokens.div_ceil(block);
        let place = |i: usize| (i / (units * blocks_of_unit), i / blocks_of_unit % units * per_unit, i % blocks_of_unit * block);
        let blocks: Option<Vec<Vec<f32>>> = (0..batch * units * blocks_of_unit)
            .into_par_iter()
            .map(|i| {
                let (row, head, first) = place(i);
                let queries = block.min(tokens - first);
                let mask = self.mask.as_ref().and_then(|mask| {
                    let start = (row % mask.rows * tokens + first) * seen;
                    mask.values.get(start..start + queries * seen)
                });
                let (k, v) = (k.from(row, head / group, 0)?, v.from(row, head / group, 0)?);
                Block { q: q.from(row, head, first)?, k, v, rows: per_unit * queries, seen, head_dim, mask, softcap }.attend()
            })
            .collect();
        let Some(blocks) = blocks else { candle_core::bail!("keys {k_layout:?} or values {v_layout:?} do not fit queries {q_layout:?}") };

        let mut attended = vec![0f32; batch * tokens * heads * head_dim];
        for (i, values) in blocks.iter().enumerate() {
            let (row, head, first) = place(i);
            let queries = block.min(tokens - first);
            for (r, values) in values.chunks_exact(head_dim).enumerate() {
                let at = ((row * tokens + first + r % queries) * heads + head + r / queries) * head_dim;
                if let Some(attended) = attended.get_mut(at..at + head_dim) {
                    attended.copy_from_slice(values);
                }
            }
        }
        Ok((CpuStorage::F32(attended), (batch, tokens, heads * head_dim).into()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((batch, heads, tokens, head_dim), (_, kv_heads, seen, _)) = (q.dims4()?, k.dims4()?);
        let group = (batch, kv_heads, heads / kv_heads * tokens, head_dim);
        let gradient = gradient.reshape((batch, tokens, heads, head_dim))?.transpose(1, 2)?.contiguous()?.reshape(group)?;
        let (queries, keys, values) = (q.detach().reshape(group)?, k.detach().contiguous()?, v.detach().contiguous()?);
        let mut scores = queries.matmul(&keys.t()?)?;
        let mut slope = None;
        if let Some(cap) = self.softcap {
            let tanh = (scores / cap)?.tanh()?;
            slope = Some((1.0 - tanh.sqr()?)?);
            scores = (tanh * cap)?;
        }
        if let Some(Mask { tensor, .. }) = &self.mask {
            let shape = scores.shape().clone();
            scores = scores.reshape((batch, heads, tokens, seen))?.broadcast_add(tensor)?.reshape(shape)?;
        }
        let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
        let of_probabilities = (gradient.matmul(&values.t()?)? * &probabilities)?;
        let sums = of_probabilities.sum_keepdim(D::Minus1)?;
        let mut of_scores = (of_probabilities - probabilities.broadcast_mul(&sums)?)?;
        if let Some(slope) = slope {
            of_scores = (of_scores * slope)?;
        }
        let for_tracked = |tensor: &Tensor, of: &dyn Fn() -> Result<Tensor>| if tensor.track_op() { of().map(Some) } else { Ok(None) };
        Ok((
            for_tracked(q, &|| of_scores.matmul(&keys)?.reshape(q.shape()))?,
            for_tracked(k, &|| of_scores.t()?.matmul(&queries))?,
            for_tracked(v, &|| probabilities.t()?.matmul(&gradient))?,
        ))
    }
}

/// The values of a tensor `[batch, heads, n, head_dim]` whose rows `[n, head_dim]` are stored one after another.
struct Rows<'a> {
    values: &'a [f32],
    /// The distances between sequences and between heads.
    strides: [usize; 2],
    head_dim: usize,
}

impl<'a> Rows<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let values = storage.as_slice::<f32>()?.get(layout.start_offset()..).unwrap_or_default();
        match (layout.dims(), layout.stride()) {
            ([.., head_dim], [batch, head, row, 1]) if row == head_dim => {
                Ok(Self { values, strides: [*batch, *head], head_dim: *head_dim })
            }
            _ => candle_core::bail!("{layout:?} has no contiguous rows"),
        }
    }

    /// The values from the row `first` of a head on.
    fn from(&self, batch: usize, head: usize, first: usize) -> Option<&'a [f32]> {
        self.values.get(batch * self.strides[0] + head * self.strides[1] + first * self.head_dim..)
    }
}

/// Queries of one sequence that attend to the same keys.
struct Block<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// The number of queries.
    rows: usize,
    /// The number of keys.
    seen: usize,
    head_dim: usize,
    /// Added to the scores, `[tokens, seen]`, for each head of the queries anew.
    mask: Option<&'a [f32]>,
    softcap: Option<f32>,
}

impl Block<'_> {
    /// The attended values `[rows, head_dim]`.
    fn attend(&self) -> Option<Vec<f32>> {
        let Self { rows, head_dim, .. } = *self;
        // The keys that any query may attend to: with a causal mask, those before the last query.
        let may = |key: &f32| *key != f32::NEG_INFINITY;
        let masks = || self.mask.unwrap_or_default().chunks_exact(self.seen.max(1));
        let first = masks().filter_map(|mask| mask.iter().position(may)).min().unwrap_or(0);
        let end = masks().filter_map(|mask| mask.iter().rposition(may)).max().map_or(self.seen, |last| last + 1);
        let keys = end - first;
        let (k, v) = (self.k.get(first * head_dim..end * head_dim)?, self.v.get(first * head_dim..end * head_dim)?);
        let q = self.q.get(..rows * head_dim)?;

        let mut scores = vec![0f32; rows * keys];
        multiply([rows, head_dim, keys], q, k, true, &mut scores, keys, Parallelism::None);
        if let Some(cap) = self.softcap {
            scores.iter_mut().for_each(|score| *score = (*score / cap).tanh() * cap);
        }
        let mut inverses = Vec::with_capacity(rows);
        let mut masks = masks().cycle();
        for scores in scores.chunks_exact_mut(keys.max(1)) {
            if let Some(mask) = masks.next() {
                scores.iter_mut().zip(mask.get(first..)?).for_each(|(score, mask)| *score += mask);
            }
            inverses.push(1.0 / exponentials(scores, maximum(scores)));
        }
        let mut attended = vec![0f32; rows * head_dim];
        multiply([rows, keys, head_dim], &scores, v, false, &mut attended, head_dim, Parallelism::None);
        for (values, inverse) in attended.chunks_exact_mut(head_dim.max(1)).zip(inverses) {
            values.iter_mut().for_each(|value| *value *= inverse);
        }
        Some(attended)
    }
}

fn maximum(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (whole, rest) = values.as_chunks::<LANES>();
    let mut maxima = [f32::NEG_INFINITY; LANES];
    for values in whole {
        maxima.iter_mut().zip(values).for_each(|(maximum, value)| *maximum = if value > maximum { *value } else { *maximum });
    }
    maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |maximum, value| maximum.max(*value))
}
