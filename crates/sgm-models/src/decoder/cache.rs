//! The key-value cache of a batch, with the tokens, positions and tap states of its sequences.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::kv_cache::KvCache;
use sgm_core::TokenKind;

use crate::decoder::image_context::ImageContext;
use crate::decoder::pass::{AttentionPattern, Pass, Position, Positions, TokenOrder};
use crate::error::{Error, Result};
use crate::taps::registry::TapRegistry;
use crate::taps::sequence_state::SequenceStates;
use crate::taps::token_spans::TokenSpans;

/// The state of a batch of sequences between forward passes: the keys and values of every layer, the kinds and
/// positions of all tokens, and the state of taps.
///
/// A new cache is empty; [`Mllm::prefill`](crate::Mllm::prefill) fills it and [`Mllm::decode`](crate::Mllm::decode)
/// extends it by one token per sequence.
#[derive(Debug, Clone)]
pub struct Cache {
    layers: Vec<KvCache>,
    /// The further tokens that new buffers have room for.
    room: usize,
    /// Shared by all clones that use the same key-value buffers, which are written in place.
    buffer_users: Arc<()>,
    /// The kinds of the tokens so far, per row.
    kinds: Vec<Vec<TokenKind>>,
    /// The rotary positions of the tokens so far, per row.
    positions: Vec<Vec<Position>>,
    next: Vec<u32>,
    ids: Vec<usize>,
    /// Whether a sequence has ended, although it is still in the batch.
    ended: Vec<bool>,
    /// The largest rotary position so far.
    max_position: u32,
    /// The embeddings `[batch, tokens, hidden]` of all passes, kept for decoders that may have to restart.
    history: Option<Vec<Tensor>>,
    /// The images that further tokens attend to, for decoders with cross-attention.
    image_context: Option<ImageContext>,
    /// The states that taps keep for the sequences.
    states: SequenceStates,
    /// The taps of the [`TappedModel`](crate::TappedModel)s that made the cache, which see the passes of this cache
    /// only.
    extra_taps: Vec<TapRegistry>,
}

/// The further tokens that new buffers have room for by default.
const ROOM: usize = 64;

impl Cache {
    /// Creates an empty cache. With `may_restart`, it keeps the embeddings of all passes.
    pub(crate) fn new(layers: usize, may_restart: bool) -> Self {
        Self {
            layers: vec![KvCache::new(2, 1); layers],
            room: ROOM,
            buffer_users: Arc::default(),
            kinds: Vec::new(),
            positions: Vec::new(),
            next: Vec::new(),
            ids: Vec::new(),
            ended: Vec::new(),
            max_position: 0,
            history: may_restart.then(Vec::new),
            image_context: None,
            states: SequenceStates::default(),
            extra_taps: Vec::new(),
        }
    }

    /// Makes room for `tokens` tokens after the prefill, which then take no memory beyond that. Further ones take as much
    /// again, and a copy of all keys and values.
    #[must_use]
    pub fn with_room_for(self, tokens: usize) -> Self {
        Self { room: tokens, ..self }
    }

    /// Adds taps that see the passes of this cache.
    pub(crate) fn with_taps(mut self, taps: &TapRegistry) -> Self {
        self.extra_taps.push(taps.clone());
        self
    }

    /// Adds taps that see the passes of this cache before the taps that were added so far.
    pub(crate) fn with_taps_first(mut self, taps: &TapRegistry) -> Self {
        self.extra_taps.insert(0, taps.clone());
        self
    }

    /// The taps that see the passes of this cache in addition to those of the model.
    pub(crate) fn extra_taps(&self) -> &[TapRegistry] {
        &self.extra_taps
    }

    /// The number of sequences; 0 before the prefill.
    pub fn batch(&self) -> usize {
        self.ids.len()
    }

    /// The number of tokens so far, padding included.
    pub fn tokens(&self) -> usize {
        self.kinds.first().map_or(0, Vec::len)
    }

    /// The keys and values of one layer.
    pub(crate) fn layer(&mut self, layer: usize) -> Result<&mut KvCache> {
        self.layers
            .get_mut(layer)
            .ok_or_else(|| Error::Inputs { reason: format!("the cache has no layer {layer}; it was made by another model") })
    }

    /// Registers the tokens of a prefill, `[batch][tokens]`, in an empty cache; with a cache of one sequence that they begin with,
    /// all rows get its keys and values, and the pass is over the other tokens.
    pub(crate) fn begin(
        &mut self,
        kinds: &[Vec<TokenKind>],
        ids: &[usize],
        order: TokenOrder,
        prefix: Option<&Self>,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Pass> {
        if !self.ids.is_empty() {
            return Err(Error::Inputs { reason: "the cache is in use; prefill needs a new one".to_owned() });
        }
        let tokens = kinds.first().map_or(0, Vec::len);
        (self.positions, self.next) = match order.positions {
            Positions::Given { positions, next } => (positions, next),
            Positions::Consecutive(first) => kinds.iter().map(|row| count_positions(row, first)).unzip(),
        };
        self.kinds = kinds.to_vec();
        self.ended = vec![false; ids.len()];
        self.ids = ids.to_vec();
        self.states = SequenceStates::new(ids.len());
        self.empty_layers();
        if let Some(prefix) = prefix {
            self.repeat_layers(prefix)?;
        }
        self.pass(tokens - prefix.map_or(0, Self::tokens), order.attention, window, device)
    }

    /// Drops all keys and values, so that the first pass can be repeated.
    pub(crate) fn empty_layers(&mut self) {
        let capacity = self.tokens().saturating_add(self.room);
        self.layers.iter_mut().for_each(|layer| *layer = KvCache::new(2, capacity));
        self.buffer_users = Arc::default();
    }

    /// Gives every sequence the keys and values of another cache's only sequence.
    fn repeat_layers(&mut self, prefix: &Self) -> Result<()> {
        let batch = self.ids.len();
        for (layer, prefix) in self.layers.iter_mut().zip(&prefix.layers) {
            let (Some(k), Some(v)) = (prefix.k()?, prefix.v()?) else { continue };
            let repeated = |of: Tensor| of.contiguous()?.repeat((batch, 1, 1, 1));
            layer.append(&repeated(k)?, &repeated(v)?)?;
        }
        Ok(())
    }

    /// Copies the keys and values of the given sequences, or of all, into new buffers.
    fn copy_layers(&mut self, sequences: Option<&[u32]>) -> Result<()> {
        let capacity = self.tokens().saturating_add(self.room);
        for layer in &mut self.layers {
            let (Some(k), Some(v)) = (layer.k()?, layer.v()?) else { continue };
            let chosen = |of: Tensor| match sequences {
                None => of.contiguous(),
                Some(sequences) => of.contiguous()?.index_select(&Tensor::new(sequences, of.device())?, 0),
            };
            *layer = KvCache::new(2, capacity);
            layer.append(&chosen(k)?, &chosen(v)?)?;
        }
        self.buffer_users = Arc::default();
        Ok(())
    }

    /// Keeps the embeddings of a pass, if the decoder may have to restart.
    pub(crate) fn record_embeddings(&mut self, embeddings: &Tensor) {
        if let Some(history) = &mut self.history {
            history.push(embeddings.clone());
        }
    }

    /// Drops all keys and values; returns the embeddings and the pass over all tokens so far.
    pub(crate) fn restart(&mut self, window: Option<usize>, device: &Device) -> Result<(Tensor, Pass)> {
        self.states = SequenceStates::new(self.ids.len());
        self.empty_layers();
        let embeddings = Tensor::cat(self.history.as_deref().unwrap_or_default(), 1)?.contiguous()?;
        Ok((embeddings, self.pass(self.tokens(), AttentionPattern::Causal, window, device)?))
    }

    /// The token spans of all tokens so far.
    pub(crate) fn spans(&self) -> TokenSpans {
        self.spans_after(0)
    }

    /// The token spans of the tokens so far but the first ones of each sequence.
    pub(crate) fn spans_after(&self, first: usize) -> TokenSpans {
        let kinds = self.kinds.iter().flat_map(|row| row.iter().skip(first).copied()).collect();
        TokenSpans::new(kinds, self.ids.clone(), self.states.shared())
    }

    /// Keeps the image context of the last token of each prompt, for further tokens.
    pub(crate) fn keep_image_context(&mut self, image_context: &ImageContext) -> Result<()> {
        let last = |row: &Vec<TokenKind>| row.iter().rposition(|kind| *kind != TokenKind::Padding).unwrap_or(0);
        self.image_context = Some(image_context.for_next_tokens(&self.kinds.iter().map(last).collect::<Vec<_>>())?);
        Ok(())
    }

    /// Registers one further token of each sequence.
    pub(crate) fn extend(&mut self, window: Option<usize>, device: &Device) -> Result<Pass> {
        if Arc::strong_count(&self.buffer_users) > 1 {
            self.copy_layers(None)?;
        }
        for ((kinds, positions), next) in self.kinds.iter_mut().zip(&mut self.positions).zip(&mut self.next) {
            kinds.push(TokenKind::Response);
            positions.push([*next; 3]);
            *next = next.saturating_add(1);
        }
        self.pass(1, AttentionPattern::Causal, window, device)
    }

    /// The token spans of the newest token of each sequence: response, or padding after the end of the sequence.
    pub(crate) fn response_spans(&self) -> TokenSpans {
        let kinds = self.ended.iter().map(|ended| if *ended { TokenKind::Padding } else { TokenKind::Response });
        TokenSpans::new(kinds.collect(), self.ids.clone(), self.states.shared())
    }

    /// Marks a sequence of the batch as ended: taps see its further tokens as padding.
    pub fn end(&mut self, index: usize) {
        if let Some(ended) = self.ended.get_mut(index) {
            *ended = true;
        }
    }

    /// Keeps only the given sequences, in the given order; they are indices into the current batch.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] if an index is out of range.
    pub fn retain(&mut self, keep: &[usize]) -> Result<()> {
        let missing = || Error::Inputs { reason: format!("cannot keep sequences {keep:?} of {}", self.ids.len()) };
        fn kept<T: Clone>(all: &[T], keep: &[usize]) -> Option<Vec<T>> {
            keep.iter().map(|i| all.get(*i).cloned()).collect()
        }
        let kinds = kept(&self.kinds, keep).ok_or_else(missing)?;
        let positions = kept(&self.positions, keep).ok_or_else(missing)?;
        let next = kept(&self.next, keep).ok_or_else(missing)?;
        let ended = kept(&self.ended, keep).ok_or_else(missing)?;
        let ids = kept(&self.ids, keep).ok_or_else(missing)?;
        let index: Vec<u32> = keep.iter().map(|i| u32::try_from(*i).map_err(|_| missing())).collect::<Result<_>>()?;
        if let Some(image_context) = &self.image_context {
            self.image_context = Some(image_context.select(&Tensor::new(index.as_slice(), image_context.device())?)?);
        }
        for embeddings in self.history.iter_mut().flatten() {
            *embeddings = embeddings.index_select(&Tensor::new(index.as_slice(), embeddings.device())?, 0)?;
        }
        self.copy_layers(Some(&index))?;
        self.states = self.states.select(keep);
        (self.kinds, self.positions, self.next, self.ended, self.ids) = (kinds, positions, next, ended, ids);
        Ok(())
    }

    fn pass(&mut self, new: usize, attention: AttentionPattern, window: Option<usize>, device: &Device) -> Result<Pass> {
        let total = self.tokens();
        let newest = self.positions.iter().flat_map(|row| row.iter().skip(total - new)).flatten().max();
        let previous_max_position = self.max_position;
        self.max_position = self.max_position.max(newest.copied().unwrap_or(0));
        let same = self.positions.windows(2).all(|pair| matches!(pair, [a, b] if a == b));
        let rows = if same { self.positions.get(..1).unwrap_or_default() } else { self.positions.as_slice() };
        Ok(Pass {
            positions: rows.iter().flat_map(|row| row.iter().skip(total - new).copied()).collect(),
            position_rows: rows.len(),
            max_position: self.max_position,
            previous_max_position,
            mask: self.mask(new, attention, None, device)?,
            window_mask: if window.is_some() { self.mask(new, attention, window, device)? } else { None },
            image_context: self.image_context.clone(),
        })
    }

    fn mask(&self, new: usize, attention: AttentionPattern, window: Option<usize>, device: &Device) -> Result<Option<Tensor>> {
        let total = self.tokens();
        let padded = self.kinds.iter().any(|row| row.contains(&TokenKind::Padding));
        if new == 1 && !padded && window.is_none_or(|w| total <= w) {
            return Ok(None);
        }
        let causal = attention == AttentionPattern::Causal;
        let rows = if padded || !causal { self.kinds.as_slice() } else { self.kinds.get(..1).unwrap_or_default() };
        let in_window = |query: usize, key: usize| window.is_none_or(|w| query < key + w);
        // A padding query may attend to everything: its result is finite and unused, whereas a query without any key
        // would yield NaN.
        let may = |(query, asking): (usize, &(TokenKind, u32)), (key, asked): (usize, &(TokenKind, u32))| match (asking, asked) {
            ((TokenKind::Padding, _), _) => true,
            (_, (TokenKind::Padding, _)) => false,
            ((_, own), (_, other)) => {
                let same_block = *own > 0 && own == other;
                let before = in_window(query, key) && key <= query;
                before || same_block && (attention == AttentionPattern::PrefixLm || in_window(query, key))
            }
        };
        let mut mask = Vec::with_capacity(rows.len() * new * total);
        for row in rows {
            let row = blocks(row, attention);
            for asking in row.iter().enumerate().skip(total - new) {
                mask.extend(row.iter().enumerate().map(|asked| if may(asking, asked) { 0.0 } else { f32::NEG_INFINITY }));
            }
        }
        Ok(Some(Tensor::from_vec(mask, (rows.len(), 1, new, total), device)?.to_dtype(DType::F32)?))
    }
}

/// The kind of each token of a row, and its block: the tokens of a block attend to each other in both directions. Block 0
/// has the tokens that are in none.
fn blocks(kinds: &[TokenKind], attention: AttentionPattern) -> Vec<(TokenKind, u32)> {
    let (mut images, mut previous) = (0, TokenKind::Padding);
    let block = |kind: &TokenKind| {
        images += u32::from(*kind == TokenKind::Image && previous != TokenKind::Image);
        previous = *kind;
        let block = match (attention, kind) {
            (AttentionPattern::PrefixLm, TokenKind::PromptText | TokenKind::Image) => 1,
            (AttentionPattern::ImageBlocks, TokenKind::Image) => images,
            _ => 0,
        };
        (*kind, block)
    };
    kinds.iter().map(block).collect()
}

/// The positions of a row, counted from `first`, and its next position. Padding takes the position of the token before
/// it.
fn count_positions(kinds: &[TokenKind], first: u32) -> (Vec<Position>, u32) {
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
