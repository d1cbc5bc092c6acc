//! One entry for every family: the architecture in `config.json` decides which adapter loads a checkpoint.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::cache::{Order, Pass, Positions};
use crate::checkpoint::Checkpoint;
use crate::cross_attention::Sight;
use crate::decoder::Decoder;
use crate::decoder_config::DecoderConfig;
use crate::linear::Weights;
use crate::model::{Mllm, ModelInfo, ModelInputs};
use crate::partial_prefill::PartialPrefill;
use crate::tap::PassTaps;
use crate::{Cache, Error, Processor, Result, TapRegistry, idefics3, instructblip, llava, llava_next, mllama, paligemma, qwen_vl, text};

/// What a family adds to the decoder: how images enter it.
pub(crate) trait Family: fmt::Debug + Send + Sync {
    /// Turns a batch of prompts into what the decoder takes.
    fn embed(&self, decoder: &Decoder, inputs: &ModelInputs) -> Result<Embedded>;

    /// What the tokens see of the images, for decoders with layers that attend to them.
    fn sight(&self, _decoder: &Decoder, _inputs: &ModelInputs) -> Result<Option<Sight>> {
        Ok(None)
    }
}

/// A batch of prompts as the decoder takes it.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// `[batch, tokens, hidden]`, images in place.
    pub(crate) embeddings: Tensor,
    /// Numbering and visibility of the tokens.
    pub(crate) order: Order,
    /// Added to the hidden states `[batch, tokens, hidden]` after each of the first layers.
    pub(crate) after: Vec<Tensor>,
}

impl Embedded {
    /// A causal sequence, numbered from 0.
    pub(crate) fn causal(embeddings: Tensor) -> Self {
        Self { embeddings, order: Order { positions: Positions::From(0), prefix: false }, after: Vec::new() }
    }
}

/// What an adapter makes of a checkpoint.
pub(crate) struct Parts {
    pub(crate) text: DecoderConfig,
    pub(crate) decoder: Decoder,
    pub(crate) processor: Processor,
    pub(crate) family: Box<dyn Family>,
}

/// Loads a checkpoint of one family.
type Adapter = fn(&Checkpoint, &Weights<'_>) -> Result<Parts>;

/// The adapters, by the class names of `architectures` in `config.json`.
const ADAPTERS: &[(&str, Adapter)] = &[
    ("LlavaForConditionalGeneration", llava::load),
    ("LlavaNextForConditionalGeneration", llava_next::load),
    ("PaliGemmaForConditionalGeneration", paligemma::load),
    ("Qwen2VLForConditionalGeneration", qwen_vl::load),
    ("Qwen2_5_VLForConditionalGeneration", qwen_vl::load),
    ("Qwen3VLForConditionalGeneration", qwen_vl::load),
    ("Idefics3ForConditionalGeneration", idefics3::load),
    ("SmolVLMForConditionalGeneration", idefics3::load),
    ("MllamaForConditionalGeneration", mllama::load),
    ("InstructBlipForConditionalGeneration", instructblip::load),
    ("LlamaForCausalLM", text::load),
    ("MistralForCausalLM", text::load),
    ("Qwen2ForCausalLM", text::load),
    ("Qwen3ForCausalLM", text::load),
    ("GemmaForCausalLM", text::load),
    ("Gemma2ForCausalLM", text::load),
    ("Gemma3ForCausalLM", text::load),
    ("Phi3ForCausalLM", text::load),
];

/// The architectures there are adapters for, by their class names in `config.json`.
pub const ARCHITECTURES: &[&str] = &names();

const fn names() -> [&'static str; ADAPTERS.len()] {
    let mut names = [""; ADAPTERS.len()];
    let mut i = 0;
    while i < names.len() {
        #[allow(clippy::indexing_slicing, reason = "evaluated when the crate is compiled")]
        {
            names[i] = ADAPTERS[i].0;
        }
        i += 1;
    }
    names
}

/// A model of any supported family.
///
/// The class name in `config.json` picks the adapter; [`ARCHITECTURES`] lists them. Configurations and tensor names of
/// transformers 4 and 5 and of the published repositories are understood.
#[derive(Debug)]
pub struct AutoMllm {
    info: ModelInfo,
    taps: TapRegistry,
    processor: Processor,
    decoder: Decoder,
    family: Box<dyn Family>,
}

impl AutoMllm {
    /// Loads a checkpoint.
    ///
    /// # Errors
    ///
    /// Any error of this crate: a missing or damaged file, an architecture without adapter, a configuration that
    /// contradicts the weights.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let adapter = adapter(checkpoint)?;
        Self::assemble(checkpoint, adapter(checkpoint, &checkpoint.weights()?)?)
    }

    /// Loads a checkpoint whose tensors come through `vb`, for example with scales folded in as they load.
    ///
    /// All weights are converted to the dtype of `vb`, whatever the checkpoint stores.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_tensors(checkpoint: &Checkpoint, vb: &VarBuilder<'_>) -> Result<Self> {
        let adapter = adapter(checkpoint)?;
        Self::assemble(checkpoint, adapter(checkpoint, &Weights::new(vb.clone(), None))?)
    }

    /// What a prefill into an empty cache begins with: embeddings `[batch, tokens, hidden]`, how they attend, and what is added after each
    /// of the first layers.
    fn enter(&self, inputs: &ModelInputs, cache: &mut Cache) -> Result<(Tensor, Pass, Vec<Tensor>)> {
        let Embedded { embeddings, mut order, after } = self.family.embed(&self.decoder, inputs)?;
        if let (Positions::From(_), Some(given)) = (&order.positions, inputs.tensors.get(POSITION_IDS)) {
            order.positions = given_positions(given, inputs)?;
        }
        let sight = self.family.sight(&self.decoder, inputs)?;
        let mut pass = cache.begin(&inputs.kinds, &inputs.rows, order, self.decoder.window(), self.decoder.device())?;
        if let Some(sight) = sight {
            cache.keep_sight(&sight)?;
            pass.sight = Some(sight);
        }
        Ok((embeddings, pass, after))
    }

    /// Runs a pass that begins an empty cache until no tap wants it repeated.
    fn begin(&self, embeddings: &Tensor, pass: &Pass, cache: &mut Cache, after: &[Tensor]) -> Result<Tensor> {
        let mut repeats = embeddings.dim(1)?;
        loop {
            let taps = PassTaps::new(&self.taps, cache.views(), || cache.spans());
            let hidden = self.decoder.forward(embeddings.clone(), pass, cache, &taps, after)?;
            if !taps.settle()? || repeats == 0 {
                return Ok(hidden);
            }
            repeats -= 1;
            cache.empty_layers();
        }
    }

    /// The next token of each sequence.
    fn step(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        let embeddings = self.decoder.embed(&Tensor::new(tokens, self.decoder.device())?.unsqueeze(1)?)?;
        cache.remember(&embeddings);
        let pass = cache.extend(self.decoder.window(), self.decoder.device())?;
        if self.decoder.begins_anew(&pass) {
            let (embeddings, pass) = cache.begin_anew(self.decoder.window(), self.decoder.device())?;
            let hidden = self.begin(&embeddings, &pass, cache, &[])?;
            return Ok(hidden.narrow(1, hidden.dim(1)? - 1, 1)?.contiguous()?);
        }
        let taps = PassTaps::new(&self.taps, cache.views(), || cache.response_spans());
        let hidden = self.decoder.forward(embeddings, &pass, cache, &taps, &[])?;
        taps.settle()?;
        Ok(hidden)
    }

    fn assemble(checkpoint: &Checkpoint, parts: Parts) -> Result<Self> {
        let Parts { text, decoder, processor, family } = parts;
        let mut info = checkpoint.info()?;
        info.sites = text.sites();
        if info.eos.is_empty() {
            info.eos = processor.eos().into_iter().collect();
        }
        Ok(Self { info, taps: TapRegistry::default(), processor, decoder, family })
    }
}

/// Does work on a thread of rayon's, as batches of [`Generator`](crate::Generator) are: from elsewhere, every parallel operation of candle's would be
/// handed over to such a thread and waited for, and a small model would mostly wait.
fn on_a_worker<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() { work() } else { rayon::scope(|_| work()) }
}

/// The caller's own numbering of the tokens, i64 `[batch, tokens]`; each sequence goes on from its last one.
pub(crate) const POSITION_IDS: &str = "position_ids";

fn given_positions(given: &Tensor, inputs: &ModelInputs) -> Result<Positions> {
    let shape = inputs.dims()?;
    if given.dims() != [shape.0, shape.1] {
        return Err(Error::Inputs { reason: format!("{POSITION_IDS} are {:?}, expected {shape:?} like the token ids", given.dims()) });
    }
    let position = |p: i64| u32::try_from(p).map_err(|_| Error::Inputs { reason: format!("{p} is not a position") });
    let rows = given.to_dtype(DType::I64)?.to_vec2::<i64>()?;
    let positions = rows.iter().map(|row| row.iter().map(|p| Ok([position(*p)?; 3])).collect()).collect::<Result<Vec<Vec<_>>>>()?;
    let next = positions.iter().map(|row| row.last().map_or(0, |[last, ..]| last.saturating_add(1))).collect();
    Ok(Positions::Given { positions, next })
}

fn adapter(checkpoint: &Checkpoint) -> Result<Adapter> {
    let architecture = checkpoint.architecture()?;
    let known = ADAPTERS.iter().find(|(name, _)| *name == architecture);
    known.map(|(_, adapter)| *adapter).ok_or_else(|| Error::Unsupported {
        what: "architecture",
        got: architecture.to_owned(),
        supported: ARCHITECTURES,
    })
}

impl Mllm for AutoMllm {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn taps(&self) -> &TapRegistry {
        &self.taps
    }

    fn processor(&self) -> &Processor {
        &self.processor
    }

    fn new_cache(&self) -> Cache {
        self.decoder.new_cache()
    }

    fn prefill(&self, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor> {
        on_a_worker(|| {
            let (embeddings, pass, after) = self.enter(inputs, cache)?;
            cache.remember(&embeddings);
            self.begin(&embeddings, &pass, cache, &after)
        })
    }

    fn begin_prefill(&self, inputs: &ModelInputs) -> Result<PartialPrefill> {
        let mut cache = self.new_cache();
        let (hidden, pass, after) = self.enter(inputs, &mut cache)?;
        Ok(PartialPrefill { hidden, layers: 0, cache, pass: Arc::new(pass), after: after.into() })
    }

    fn continue_prefill(&self, partial: &PartialPrefill, layers: usize) -> Result<PartialPrefill> {
        let next = partial.layers..partial.layers.saturating_add(layers).min(self.decoder.layers());
        let taps = PassTaps::new(&self.taps, partial.cache.views(), || partial.cache.spans());
        let (hidden, mut cache) = (partial.hidden.clone(), partial.cache.clone());
        let hidden = on_a_worker(|| self.decoder.through(next.clone(), hidden, &partial.pass, &mut cache, &taps, &partial.after))?;
        Ok(PartialPrefill { hidden, layers: next.end, ..partial.clone() })
    }

    fn decode(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        if tokens.len() != cache.batch() || tokens.is_empty() {
            let reason =
                format!("{} tokens for a cache of {} sequences; prefill first, then give one token each", tokens.len(), cache.batch());
            return Err(Error::Inputs { reason });
        }
        on_a_worker(|| self.step(tokens, cache))
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.decoder.logits(hidden)
    }
}
