use std::collections::BTreeMap;

use candle_core::Tensor;
use sgm_core::Site;

use crate::{Cache, Error, PartialPrefill, Processor, Result, TapRegistry, TokenKind};

/// One site of a model and the number of its neurons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteInfo {
    /// The site.
    pub site: Site,
    /// Its output channels.
    pub width: usize,
}

/// What is known of a model beside its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The model's name: its directory's name, or the id it was embedded under.
    pub name: String,
    /// The class name of `architectures` in `config.json`.
    pub architecture: String,
    /// SHA-256 of `config.json`, in hex.
    pub config_sha256: String,
    /// A sampled SHA-256 of the weight files, in hex: each file's length, and its bytes up to 8 MiB; of larger files the first
    /// MiB and 1,024 blocks of 4 KiB spread evenly. None when the files cannot be read.
    ///
    /// It tells models apart that were trained or quantised differently, and is cheap; a change of a few rows may escape it, and
    /// scales folded in while loading do.
    pub weights: Option<String>,
    /// The dtype it computes in, such as `f32`.
    pub dtype: String,
    /// The tokens that end a response.
    pub eos: Vec<u32>,
    /// The sites, by layer and projection.
    pub sites: Vec<SiteInfo>,
}

impl ModelInfo {
    /// The width of each site, as [`Intervention::check_against`](sgm_core::Intervention::check_against) takes it.
    pub fn widths(&self) -> BTreeMap<Site, usize> {
        self.sites.iter().map(|s| (s.site, s.width)).collect()
    }

    /// The number of neurons of all sites.
    pub fn neurons(&self) -> usize {
        self.sites.iter().map(|s| s.width).sum()
    }
}

/// A batch as a model takes it: token ids with their kinds, and pixels.
#[derive(Debug, Clone)]
pub struct ModelInputs {
    /// Token ids u32 `[batch, tokens]`, images already expanded to one placeholder token per feature.
    pub input_ids: Tensor,
    /// What each position holds, `[batch][tokens]`; [`TokenKind::Padding`] is not attended to.
    pub kinds: Vec<Vec<TokenKind>>,
    /// The caller's number of each row, which taps see.
    pub rows: Vec<usize>,
    /// Pixels, and what a family's image processor makes beside them, by their Hugging Face names. `position_ids` i64
    /// `[batch, tokens]` may replace the numbering of models that number their tokens one after the other.
    pub tensors: BTreeMap<String, Tensor>,
}

impl ModelInputs {
    /// The batch size and the number of tokens of each row.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when ids, kinds and rows disagree about them, or there are no tokens.
    pub fn dims(&self) -> Result<(usize, usize)> {
        let (batch, tokens) = self.input_ids.dims2()?;
        let agree = self.kinds.len() == batch && self.rows.len() == batch && self.kinds.iter().all(|k| k.len() == tokens);
        if !agree || batch == 0 || tokens == 0 {
            let kinds = self.kinds.iter().map(Vec::len).collect::<Vec<_>>();
            let reason = format!(
                "ids are [{batch}, {tokens}], kinds have lengths {kinds:?}, {} rows; all must agree and none be 0",
                self.rows.len()
            );
            return Err(Error::Inputs { reason });
        }
        Ok((batch, tokens))
    }

    /// One of the tensors beside the token ids.
    pub(crate) fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::Inputs { reason: format!("this model also needs `{name}`; use its processor") })
    }
}

/// A multimodal LLM.
///
/// A forward pass is `prefill` once and `decode` per further token; both return hidden states, of
/// which `logits` projects those that are wanted. The model itself does not change while it runs: all
/// state is in the [`Cache`], so one model serves many batches at once.
pub trait Mllm: Send + Sync {
    /// What the model is.
    fn info(&self) -> &ModelInfo;

    /// The taps attached to the model.
    fn taps(&self) -> &TapRegistry;

    /// Its tokenizer, chat template and image processor.
    fn processor(&self) -> &Processor;

    /// An empty cache for one batch.
    fn new_cache(&self) -> Cache;

    /// Processes whole prompts, and given responses, into an empty cache.
    ///
    /// Returns the last layer's normalised hidden states `[batch, tokens, hidden]`; those at padding
    /// are finite but meaningless.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when the inputs contradict each other, the model or the cache; otherwise what
    /// candle or a tap reports.
    fn prefill(&self, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor>;

    /// Begins a prefill that is run in parts: embeds whole prompts, and given responses, and runs no layer.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    fn begin_prefill(&self, inputs: &ModelInputs) -> Result<PartialPrefill>;

    /// Runs the next so many layers, or those that are left. What taps see, and what they change, is what it is in [`prefill`](Self::prefill),
    /// but they are not asked whether to [repeat](crate::Tap::settle) the pass.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill).
    fn continue_prefill(&self, partial: &PartialPrefill, layers: usize) -> Result<PartialPrefill>;

    /// Processes one further token of each sequence; returns hidden states `[batch, 1, hidden]`.
    ///
    /// # Errors
    ///
    /// [`Error::Inputs`] when the number of tokens is not the cache's batch size.
    fn decode(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor>;

    /// Next-token logits `[.., vocabulary]` of hidden states `[.., hidden]`.
    ///
    /// # Errors
    ///
    /// What candle reports.
    fn logits(&self, hidden: &Tensor) -> Result<Tensor>;
}
