use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::kv_cache::KvCache;

use crate::cross_attention::Sight;
use crate::memory::Memories;
use crate::rope::Position;
use crate::{Error, Result, TapRegistry, TokenKind, TokenSpans};

/// The state of a batch of sequences between forward passes: keys and values of every layer, which
/// positions are padding, and where each sequence stands.
///
/// A new cache is empty; [`Mllm::prefill`](crate::Mllm::prefill) fills it and
/// [`Mllm::decode`](crate::Mllm::decode) extends it by one token per sequence.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<KvCache>,
    /// Held by every clone that shares the layers' buffers, which are written in place.
    sharers: Arc<()>,
    /// What each position seen so far holds, per row.
    kinds: Vec<Vec<TokenKind>>,
    /// The rotary position of each, and the one that comes next.
    positions: Vec<Vec<Position>>,
    next: Vec<u32>,
    rows: Vec<usize>,
    /// Whether each sequence has ended, though it is still in the batch.
    ended: Vec<bool>,
    /// The largest rotary position so far.
    reached: u32,
    /// The embeddings `[batch, tokens, hidden]` of all passes, kept for decoders that may have to begin anew.
    history: Option<Vec<Tensor>>,
    /// What further tokens see of the images, for layers that attend to them.
    sight: Option<Sight>,
    /// What taps remember of each sequence.
    memories: Memories,
    /// The taps of the views that the cache was made by, which see its passes and no others.
    views: Vec<TapRegistry>,
}

/// Cache slots kept ready beyond the prefilled tokens before the buffers must grow.
const HEADROOM: usize = 64;

/// How the tokens of a prompt are numbered.
#[derive(Debug)]
pub(crate) enum Positions {
    /// One after the other from this number, padding left out.
    From(u32),
    /// As given, `[batch][tokens]`, with the number of each row's next token.
    Given { positions: Vec<Vec<Position>>, next: Vec<u32> },
}

/// How a prefill attends.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) positions: Positions,
    /// The tokens of a prompt see each other in both directions, as in a prefix language model.
    pub(crate) prefix: bool,
}

/// What attention needs to know about the tokens of one pass.
#[derive(Debug)]
pub(crate) struct Pass {
    /// Rotary positions of the new tokens, row-major; one row when all rows agree.
    pub(crate) positions: Vec<Position>,
    pub(crate) position_rows: usize,
    /// The largest rotary position so far, and before this pass.
    pub(crate) reached: u32,
    pub(crate) reached_before: u32,
    /// `[batch or 1, 1, new, seen + new]`, 0 where a token may attend, negative infinity elsewhere;
    /// none when every new token may attend to everything.
    pub(crate) mask: Option<Tensor>,
    /// The same for sliding layers.
    pub(crate) window_mask: Option<Tensor>,
    /// What the new tokens see of the images.
    pub(crate) sight: Option<Sight>,
}

impl Cache {
    /// An empty cache, which keeps the embeddings it is shown if the decoder may `begin_anew`.
    pub(crate) fn new(layers: usize, begin_anew: bool) -> Self {
        Self {
            layers: vec![KvCache::new(2, 1); layers],
            sharers: Arc::default(),
            kinds: Vec::new(),
            positions: Vec::new(),
            next: Vec::new(),
            rows: Vec::new(),
            ended: Vec::new(),
            reached: 0,
            history: begin_anew.then(Vec::new),
            sight: None,
            memories: Memories::default(),
            views: Vec::new(),
        }
    }

    /// The same cache, whose passes these taps see too.
    pub(crate) fn seen_by(mut self, taps: &TapRegistry) -> Self {
        self.views.push(taps.clone());
        self
    }

    /// The taps that see the passes of this cache beside those of the model.
    pub(crate) fn views(&self) -> &[TapRegistry] {
        &self.views
    }

    /// The number of sequences; 0 before the prefill.
    pub fn batch(&self) -> usize {
        self.rows.len()
    }

    /// The number of positions seen so far, padding included.
    pub fn tokens(&self) -> usize {
        self.kinds.first().map_or(0, Vec::len)
    }

    /// The keys and values of one layer.
    pub(crate) fn layer(&mut self, layer: usize) -> Result<&mut KvCache> {
        self.layers
            .get_mut(layer)
            .ok_or_else(|| Error::Inputs { reason: format!("the cache has no layer {layer}; it was made by another model") })
    }

    /// Registers the tokens of a prefill, `[batch][tokens]`, into an empty cache.
    pub(crate) fn begin(
        &mut self,
        kinds: &[Vec<TokenKind>],
        rows: &[usize],
        order: Order,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Pass> {
        if !self.rows.is_empty() {
            return Err(Error::Inputs { reason: "the cache is in use; prefill needs a new one".to_owned() });
        }
        let tokens = kinds.first().map_or(0, Vec::len);
        (self.positions, self.next) = match order.positions {
            Positions::Given { positions, next } => (positions, next),
            Positions::From(first) => kinds.iter().map(|row| counted(row, first)).unzip(),
        };
        self.kinds = kinds.to_vec();
        self.ended = vec![false; rows.len()];
        self.rows = rows.to_vec();
        self.memories = Memories::new(rows.len());
        self.empty_layers();
        self.pass(tokens, order.prefix, window, device)
    }

    /// Forgets all keys and values, so that the pass that began the cache can be repeated.
    pub(crate) fn empty_layers(&mut self) {
        let capacity = self.tokens() + HEADROOM;
        self.layers.iter_mut().for_each(|layer| *layer = KvCache::new(2, capacity));
        self.sharers = Arc::default();
    }

    /// Copies the keys and values of all layers, those of the given sequences or of all, into buffers of its own.
    fn copy_layers(&mut self, sequences: Option<&[u32]>) -> Result<()> {
        let capacity = self.tokens() + HEADROOM;
        for layer in &mut self.layers {
            let (Some(k), Some(v)) = (layer.k()?, layer.v()?) else { continue };
            let chosen = |of: Tensor| match sequences {
                None => of.contiguous(),
                Some(sequences) => of.contiguous()?.index_select(&Tensor::new(sequences, of.device())?, 0),
            };
            *layer = KvCache::new(2, capacity);
            layer.append(&chosen(k)?, &chosen(v)?)?;
        }
        self.sharers = Arc::default();
        Ok(())
    }

    /// Keeps the embeddings of a pass, if the decoder may have to begin anew.
    pub(crate) fn remember(&mut self, embeddings: &Tensor) {
        if let Some(history) = &mut self.history {
            history.push(embeddings.clone());
        }
    }

    /// Forgets all keys and values; returns everything seen so far as if it came in one pass.
    pub(crate) fn begin_anew(&mut self, window: Option<usize>, device: &Device) -> Result<(Tensor, Pass)> {
        self.memories = Memories::new(self.rows.len());
        self.empty_layers();
        let embeddings = Tensor::cat(self.history.as_deref().unwrap_or_default(), 1)?.contiguous()?;
        Ok((embeddings, self.pass(self.tokens(), false, window, device)?))
    }

    /// The kinds of all tokens so far.
    pub(crate) fn spans(&self) -> TokenSpans {
        TokenSpans::new(self.kinds.concat(), self.rows.clone(), self.memories.shared())
    }

    /// Keeps for further tokens what the last one of each prompt sees of the images.
    pub(crate) fn keep_sight(&mut self, sight: &Sight) -> Result<()> {
        let last = |row: &Vec<TokenKind>| row.iter().rposition(|kind| *kind != TokenKind::Padding).unwrap_or(0);
        self.sight = Some(sight.after(&self.kinds.iter().map(last).collect::<Vec<_>>())?);
        Ok(())
    }

    /// Registers one further token of each sequence.
    pub(crate) fn extend(&mut self, window: Option<usize>, device: &Device) -> Result<Pass> {
        if Arc::strong_count(&self.sharers) > 1 {
            self.copy_layers(None)?;
        }
        for ((kinds, positions), next) in self.kinds.iter_mut().zip(&mut self.positions).zip(&mut self.next) {
            kinds.push(TokenKind::Response);
            positions.push([*next; 3]);
            *next = next.saturating_add(1);
        }
        self.pass(1, false, window, device)
    }

    /// The spans of the newest token of each sequence: part of its response, unless that has ended.
    pub(crate) fn response_spans(&self) -> TokenSpans {
        let kinds = self.ended.iter().map(|ended| if *ended { TokenKind::Padding } else { TokenKind::Response });
        TokenSpans::new(kinds.collect(), self.rows.clone(), self.memories.shared())
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
        fn kept<T: Clone>(all: &[T], keep: &[usize]) -> Option<Vec<T>> {
            keep.iter().map(|i| all.get(*i).cloned()).collect()
        }
        let kinds = kept(&self.kinds, keep).ok_or_else(missing)?;
        let positions = kept(&self.positions, keep).ok_or_else(missing)?;
        let next = kept(&self.next, keep).ok_or_else(missing)?;
        let ended = kept(&self.ended, keep).ok_or_else(missing)?;
        let rows = kept(&self.rows, keep).ok_or_else(missing)?;
        let index: Vec<u32> = keep.iter().map(|i| u32::try_from(*i).map_err(|_| missing())).collect::<Result<_>>()?;
        if let Some(sight) = &self.sight {
            self.sight = Some(sight.of(&Tensor::new(index.as_slice(), sight.device())?)?);
        }
        for embeddings in self.history.iter_mut().flatten() {
            *embeddings = embeddings.index_select(&Tensor::new(index.as_slice(), embeddings.device())?, 0)?;
        }
        self.copy_layers(Some(&index))?;
        self.memories = self.memories.of(keep);
        (self.kinds, self.positions, self.next, self.ended, self.rows) = (kinds, positions, next, ended, rows);
        Ok(())
    }

    fn pass(&mut self, new: usize, prefix: bool, window: Option<usize>, device: &Device) -> Result<Pass> {
        let total = self.tokens();
        let newest = self.positions.iter().flat_map(|row| row.iter().skip(total - new)).flatten().max();
        let reached_before = self.reached;
        self.reached = self.reached.max(newest.copied().unwrap_or(0));
        let same = self.positions.windows(2).all(|pair| matches!(pair, [a, b] if a == b));
        let rows = if same { self.positions.get(..1).unwrap_or_default() } else { self.positions.as_slice() };
        Ok(Pass {
            positions: rows.iter().flat_map(|row| row.iter().skip(total - new).copied()).collect(),
            position_rows: rows.len(),
            reached: self.reached,
            reached_before,
            mask: self.mask(new, prefix, None, device)?,
            window_mask: if window.is_some() { self.mask(new, prefix, window, device)? } else { None },
            sight: self.sight.clone(),
        })
    }

    fn mask(&self, new: usize, prefix: bool, window: Option<usize>, device: &Device) -> Result<Option<Tensor>> {
        let total = self.tokens();
        let padded = self.kinds.iter().any(|row| row.contains(&TokenKind::Padding));
        if new == 1 && !padded && window.is_none_or(|w| total <= w) {
            return Ok(None);
        }
        let rows = if padded || prefix { self.kinds.as_slice() } else { self.kinds.get(..1).unwrap_or_default() };
        let is_prompt = |kind: TokenKind| matches!(kind, TokenKind::PromptText | TokenKind::Image);
        let within = |query: usize, key: usize| key <= query && window.is_none_or(|w| query < key + w);
        // A padding query may attend to everything: what comes of it is finite and nobody reads it,
        // whereas a query without any key would be NaN.
        let may = |query: usize, asking: TokenKind, key: usize, asked: TokenKind| match (asking, asked) {
            (TokenKind::Padding, _) => true,
            (_, TokenKind::Padding) => false,
            _ => within(query, key) || prefix && is_prompt(asking) && is_prompt(asked),
        };
        let mut mask = Vec::with_capacity(rows.len() * new * total);
        for row in rows {
            for (query, asking) in row.iter().enumerate().skip(total - new) {
                mask.extend(
                    row.iter().enumerate().map(|(key, asked)| if may(query, *asking, key, *asked) { 0.0 } else { f32::NEG_INFINITY }),
                );
            }
        }
        Ok(Some(Tensor::from_vec(mask, (rows.len(), 1, new, total), device)?.to_dtype(DType::F32)?))
    }
}

/// The positions of a row counted from `first`, and the next one; padding has that of the token before it.
fn counted(kinds: &[TokenKind], first: u32) -> (Vec<Position>, u32) {
    let mut next = first;
    let positions = kinds.iter().map(|kind| {
        if *kind != TokenKind::Padding {
            next = next.saturating_add(1);
        }
        [next.saturating_sub(1).max(first); 3]
    });
    let positions = positions.collect();
    (positions, next)
}
