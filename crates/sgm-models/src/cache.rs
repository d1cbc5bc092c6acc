use candle_core::{DType, Device, Tensor};
use candle_nn::kv_cache::KvCache;

use crate::{Error, Result, TokenKind, TokenSpans};

/// The state of a batch of sequences between forward passes: keys and values of every layer, which
/// positions are padding, and where each sequence stands.
///
/// A new cache is empty; [`Mllm::prefill`](crate::Mllm::prefill) fills it and
/// [`Mllm::decode`](crate::Mllm::decode) extends it by one token per sequence.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<KvCache>,
    /// Whether each position seen so far is part of the sequence, per row.
    attended: Vec<Vec<bool>>,
    rows: Vec<usize>,
    /// Whether each sequence has ended, though it is still in the batch.
    ended: Vec<bool>,
}

/// Cache slots kept ready beyond the prefilled tokens before the buffers must grow.
const HEADROOM: usize = 64;

/// What attention needs to know about the tokens of one pass.
pub(crate) struct Pass {
    /// Rotary positions of the new tokens, row-major; one row when all rows agree.
    pub(crate) positions: Vec<u32>,
    pub(crate) position_rows: usize,
    /// `[batch or 1, 1, new, seen + new]`, 0 where a token may attend, negative infinity elsewhere;
    /// none when every new token may attend to everything.
    pub(crate) mask: Option<Tensor>,
}

impl Cache {
    pub(crate) fn new(layers: usize) -> Self {
        Self { layers: vec![KvCache::new(2, 1); layers], attended: Vec::new(), rows: Vec::new(), ended: Vec::new() }
    }

    /// The number of sequences; 0 before the prefill.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// The number of positions seen so far, padding included.
    pub fn tokens(&self) -> usize {
        self.attended.first().map_or(0, Vec::len)
    }

    /// The keys and values of one layer.
    pub(crate) fn layer(&mut self, layer: usize) -> Result<&mut KvCache> {
        self.layers
            .get_mut(layer)
            .ok_or_else(|| Error::Inputs { reason: format!("the cache has no layer {layer}; it was made by another model") })
    }

    /// Registers the tokens of a prefill, `[batch][tokens]`, into an empty cache.
    pub(crate) fn begin(&mut self, attended: Vec<Vec<bool>>, rows: Vec<usize>, window: Option<usize>, device: &Device) -> Result<Pass> {
        if !self.rows.is_empty() {
            return Err(Error::Inputs { reason: "the cache is in use; prefill needs a new one".to_owned() });
        }
        let tokens = attended.first().map_or(0, Vec::len);
        for layer in &mut self.layers {
            *layer = KvCache::new(2, tokens + HEADROOM);
        }
        self.attended = attended;
        self.ended = vec![false; rows.len()];
        self.rows = rows;
        self.pass(tokens, window, device)
    }

    /// Registers one further token of each sequence.
    pub(crate) fn extend(&mut self, window: Option<usize>, device: &Device) -> Result<Pass> {
        for row in &mut self.attended {
            row.push(true);
        }
        self.pass(1, window, device)
    }

    /// The spans of the newest token of each sequence: part of its response, unless that has ended.
    pub(crate) fn response_spans(&self) -> TokenSpans {
        let kinds = self.ended.iter().map(|ended| if *ended { TokenKind::Padding } else { TokenKind::Response });
        TokenSpans::new(kinds.collect(), self.rows.clone())
    }

    /// Declares a sequence of the batch ended: what it is still decoded with is padding to taps.
    pub fn end(&mut self, index: usize) {
        if let Some(ended) = self.ended.get_mut(index) {
            *ended = true;
        }
    }

    /// Keeps only the given sequences, in the given order; they are indices into the current batch.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when an index is out of range.
    pub fn retain(&mut self, keep: &[usize]) -> Result<()> {
        let missing = || Error::Inputs { reason: format!("cannot keep sequences {keep:?} of {}", self.rows.len()) };
        let attended = keep.iter().map(|i| self.attended.get(*i).cloned().ok_or_else(missing)).collect::<Result<_>>()?;
        let rows = keep.iter().map(|i| self.rows.get(*i).copied().ok_or_else(missing)).collect::<Result<_>>()?;
        let index: Vec<u32> = keep.iter().map(|i| u32::try_from(*i).map_err(|_| missing())).collect::<Result<_>>()?;
        let capacity = self.tokens() + HEADROOM;
        for layer in &mut self.layers {
            let (Some(k), Some(v)) = (layer.k()?, layer.v()?) else { continue };
            let index = Tensor::new(index.as_slice(), k.device())?;
            let mut kept = KvCache::new(2, capacity);
            kept.append(&k.contiguous()?.index_select(&index, 0)?, &v.contiguous()?.index_select(&index, 0)?)?;
            *layer = kept;
        }
        self.ended = keep.iter().map(|i| self.ended.get(*i).copied().unwrap_or(false)).collect();
        self.attended = attended;
        self.rows = rows;
        Ok(())
    }

    fn pass(&self, new: usize, window: Option<usize>, device: &Device) -> Result<Pass> {
        let total = self.tokens();
        let padded = self.attended.iter().any(|row| row.contains(&false));
        let rows = if padded { self.attended.as_slice() } else { self.attended.get(..1).unwrap_or_default() };
        let position = |row: &[bool], at: usize| {
            let before = row.iter().take(at + 1).filter(|a| **a).count();
            u32::try_from(before.saturating_sub(1)).unwrap_or(u32::MAX)
        };
        let positions = rows.iter().flat_map(|row| (total - new..total).map(move |at| position(row, at))).collect();
        let beyond_window = |query: usize, key: usize| window.is_some_and(|w| query >= key + w);
        let mask = if new == 1 && !padded && window.is_none_or(|w| total <= w) {
            None
        } else {
            // A padding query may attend to everything: what comes of it is finite and nobody reads it,
            // whereas a query without any key would be NaN.
            let mask: Vec<f32> = rows
                .iter()
                .flat_map(|row| (total - new..total).map(move |query| (row, query)))
                .flat_map(|(row, query)| {
                    let padding = row.get(query).is_some_and(|attended| !attended);
                    row.iter().enumerate().map(move |(key, attended)| {
                        let may = padding || (*attended && key <= query && !beyond_window(query, key));
                        if may { 0.0 } else { f32::NEG_INFINITY }
                    })
                })
                .collect();
            Some(Tensor::from_vec(mask, (rows.len(), 1, new, total), device)?.to_dtype(DType::F32)?)
        };
        Ok(Pass { positions, position_rows: rows.len(), mask })
    }
}
