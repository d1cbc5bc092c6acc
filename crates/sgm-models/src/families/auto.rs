//! Loading a model of any family, by the architecture in `config.json`.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use sgm_core::TokenKind;

use crate::checkpoint::model_files::Checkpoint;
use crate::checkpoint::model_info::ModelInfo;
use crate::decoder::cache::Cache;
use crate::decoder::pass::{Pass, Positions};
use crate::decoder::transformer::Decoder;
use crate::error::{Error, Result};
use crate::families::family::{DecoderInput, Family, FamilyParts};
use crate::families::{
    gemma3, idefics3, instructblip, internvl, llava, llava_next, llava_onevision, mllama, paligemma, pixtral, qwen_vl, text,
};
use crate::layers::linear::Weights;
use crate::model::mllm::Mllm;
use crate::model::partial_prefill::PartialPrefill;
use crate::model::shared_prefix::SharedPrefix;
use crate::processor::batch::Processor;
use crate::processor::model_inputs::{ModelInputs, POSITION_IDS};
use crate::taps::registry::{PassTaps, TapRegistry};
use crate::vision::feature_cache::FeatureCache;

/// A function that loads a checkpoint of one family.
type Adapter = fn(&Checkpoint, &Weights<'_>) -> Result<FamilyParts>;

/// The adapters by the class names of `architectures` in `config.json`.
const ADAPTERS: &[(&str, Adapter)] = &[
    ("LlavaForConditionalGeneration", llava_or_pixtral),
    ("LlavaNextForConditionalGeneration", llava_next::load),
    ("LlavaOnevisionForConditionalGeneration", llava_onevision::load),
    ("PaliGemmaForConditionalGeneration", paligemma::load),
    ("Gemma3ForConditionalGeneration", gemma3::load),
    ("Mistral3ForConditionalGeneration", pixtral::load),
    ("Qwen2VLForConditionalGeneration", qwen_vl::load),
    ("Qwen2_5_VLForConditionalGeneration", qwen_vl::load),
    ("Qwen3VLForConditionalGeneration", qwen_vl::load),
    ("Qwen3VLMoeForConditionalGeneration", qwen_vl::load),
    ("Idefics3ForConditionalGeneration", idefics3::load),
    ("SmolVLMForConditionalGeneration", idefics3::load),
    ("InternVLForConditionalGeneration", internvl::load),
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
    ("MixtralForCausalLM", text::load),
    ("Qwen2MoeForCausalLM", text::load),
    ("Qwen3MoeForCausalLM", text::load),
];

/// Loads a `LlavaForConditionalGeneration` checkpoint, whose tower may be Pixtral's.
fn llava_or_pixtral(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<FamilyParts> {
    let vision = checkpoint.config().section("vision_config")?;
    if vision.string("model_type")? == Some("pixtral") { pixtral::load(checkpoint, weights) } else { llava::load(checkpoint, weights) }
}

/// The supported architectures, by their class names in `config.json`.
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
/// The class name in `config.json` determines the adapter; [`ARCHITECTURES`] lists all class names. Configurations and
/// tensor names of transformers 4 and 5 and of the published repositories are supported.
#[derive(Debug)]
pub struct AutoMllm {
    info: ModelInfo,
    taps: TapRegistry,
    processor: Processor,
    decoder: Decoder,
    family: Box<dyn Family>,
    images: FeatureCache,
    unread: Vec<String>,
}

/// The number of unread tensors that a warning names.
const NAMED: usize = 5;

impl AutoMllm {
    /// Loads a checkpoint.
    ///
    /// # Errors
    ///
    /// Any error of this crate: a missing or damaged file, an unsupported architecture, or a configuration that
    /// contradicts the weights.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        Self::load_from(checkpoint, &checkpoint.weights()?)
    }

    /// Loads a checkpoint with the tensors of `vb`, for example with scales folded in on loading.
    ///
    /// All weights are converted to the dtype of `vb`, whatever the checkpoint stores.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_tensors(checkpoint: &Checkpoint, vb: &VarBuilder<'_>) -> Result<Self> {
        Self::load_from(checkpoint, &Weights::new(vb.clone(), None))
    }

    /// The tensors of the checkpoint that the model has not read and has no known reason to leave unread, in order.
    /// They are also logged as a warning.
    pub fn unread_tensors(&self) -> &[String] {
        &self.unread
    }

    /// Starts a prefill into an empty cache; returns the embeddings `[batch, tokens, hidden]`, the pass, and the
    /// additions after the first layers. All are without the tokens of the prefix, if there is one.
    fn start_prefill(&self, inputs: &ModelInputs, prefix: Option<&SharedPrefix>, cache: &mut Cache) -> Result<(Tensor, Pass, Vec<Tensor>)> {
        let DecoderInput { mut embeddings, mut order, mut additions } = self.family.embed(&self.decoder, &self.images, inputs)?;
        if let (Positions::Consecutive(_), Some(given)) = (&order.positions, inputs.tensors.get(POSITION_IDS)) {
            order.positions = given_positions(given, inputs)?;
        }
        let image_context = self.family.image_context(&self.decoder, &self.images, inputs)?;
        let mut pass = cache.begin(
            &inputs.kinds,
            &inputs.ids,
            order,
            prefix.map(|prefix| &prefix.cache),
            self.decoder.window(),
            self.decoder.device(),
        )?;
        if let Some(image_context) = image_context {
            cache.keep_image_context(&image_context)?;
            pass.image_context = Some(image_context);
        }
        if let Some(prefix) = prefix {
            for x in additions.iter_mut().chain([&mut embeddings]) {
                *x = x.narrow(1, prefix.tokens(), x.dim(1)? - prefix.tokens())?.contiguous()?;
            }
        }
        Ok((embeddings, pass, additions))
    }

    /// Runs the first pass of a cache, and repeats it as long as a tap asks for it.
    fn run_first_pass(&self, embeddings: &Tensor, pass: &Pass, cache: &mut Cache, additions: &[Tensor]) -> Result<Tensor> {
        let mut repeats = embeddings.dim(1)?;
        loop {
            let taps = PassTaps::new(&self.taps, cache.extra_taps(), || cache.spans());
            let hidden = self.decoder.forward(embeddings.clone(), pass, cache, &taps, additions)?;
            if !taps.settle()? || repeats == 0 {
                return Ok(hidden);
            }
            repeats -= 1;
            cache.empty_layers();
        }
    }

    /// Decodes one token of each sequence.
    fn decode_tokens(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        let embeddings = self.decoder.embed(&Tensor::new(tokens, self.decoder.device())?.unsqueeze(1)?)?;
        cache.record_embeddings(&embeddings);
        let pass = cache.extend(self.decoder.window(), self.decoder.device())?;
        if self.decoder.must_restart(&pass) {
            let (embeddings, pass) = cache.restart(self.decoder.window(), self.decoder.device())?;
            let hidden = self.run_first_pass(&embeddings, &pass, cache, &[])?;
            return Ok(hidden.narrow(1, hidden.dim(1)? - 1, 1)?.contiguous()?);
        }
        let taps = PassTaps::new(&self.taps, cache.extra_taps(), || cache.response_spans());
        let hidden = self.decoder.forward(embeddings, &pass, cache, &taps, &[])?;
        taps.settle()?;
        Ok(hidden)
    }

    fn load_from(checkpoint: &Checkpoint, weights: &Weights<'_>) -> Result<Self> {
        let FamilyParts { text, decoder, processor, family } = adapter(checkpoint)?(checkpoint, weights)?;
        let mut unread = weights.unread(checkpoint.tensor_names()?);
        unread.extend(checkpoint.unread_gguf_tensors()?);
        if !unread.is_empty() {
            let first = unread.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!(count = unread.len(), first, "the checkpoint has tensors that the model does not read");
        }
        let mut info = checkpoint.info()?;
        info.sites = text.sites();
        info.expert_sites = text.expert_sites();
        if info.eos.is_empty() {
            info.eos = processor.eos().into_iter().collect();
        }
        let images = FeatureCache::new(decoder.device());
        Ok(Self { info, taps: TapRegistry::default(), processor, decoder, family, images, unread })
    }
}

/// Runs `work` on a thread of rayon, as the batches of [`Generator`](crate::Generator) do. From another thread, every
/// parallel operation of candle would be handed over to rayon and waited for, which dominates the run time of small
/// models.
fn on_rayon_thread<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_thread_index().is_some() { work() } else { rayon::scope(|_| work()) }
}

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
    if checkpoint.config().has("mm_vision_tower") || architecture.starts_with("Llava") && architecture.ends_with("ForCausalLM") {
        let reason = format!(
            "`{architecture}` is in the layout of the original LLaVA code; take the converted checkpoint, such as \
             `llava-hf/llava-1.5-7b-hf` for `liuhaotian/llava-v1.5-7b`, or convert it with `convert_llava_weights_to_hf.py` of transformers' repository"
        );
        return Err(checkpoint.config().error("architectures", reason));
    }
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
        on_rayon_thread(|| {
            let (embeddings, pass, additions) = self.start_prefill(inputs, None, cache)?;
            cache.record_embeddings(&embeddings);
            self.run_first_pass(&embeddings, &pass, cache, &additions)
        })
    }

    fn share_prefix(&self, tokens: &[u32], mut cache: Cache) -> Result<Option<SharedPrefix>> {
        let views = cache.extra_taps().iter().filter(|taps| !taps.is_empty()).count();
        let fixed = self.decoder.can_share_prefix() && !self.family.attends_to_later_text();
        if tokens.is_empty() || !fixed || views > 1 || !self.taps.is_empty() {
            return Ok(None);
        }
        let inputs = ModelInputs {
            input_ids: Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?,
            kinds: vec![vec![TokenKind::PromptText; tokens.len()]],
            ids: vec![0],
            tensors: BTreeMap::new(),
        };
        self.prefill(&inputs, &mut cache)?;
        Ok(Some(SharedPrefix { ids: tokens.to_vec(), cache }))
    }

    fn prefill_after(&self, prefix: &SharedPrefix, inputs: &ModelInputs, cache: &mut Cache) -> Result<Tensor> {
        prefix.check(inputs)?;
        on_rayon_thread(|| {
            let (embeddings, pass, additions) = self.start_prefill(inputs, Some(prefix), cache)?;
            let taps = PassTaps::new(&self.taps, cache.extra_taps(), || cache.spans_after(prefix.tokens()));
            let hidden = self.decoder.forward(embeddings, &pass, cache, &taps, &additions)?;
            if taps.settle()? {
                return Err(Error::Inputs { reason: "a tap asks to repeat a pass that began with a shared prefix".to_owned() });
            }
            Ok(hidden)
        })
    }

    fn begin_prefill(&self, inputs: &ModelInputs) -> Result<PartialPrefill> {
        let mut cache = self.new_cache();
        let (hidden, pass, additions) = self.start_prefill(inputs, None, &mut cache)?;
        Ok(PartialPrefill { hidden, layers: 0, cache, pass: Arc::new(pass), additions: additions.into() })
    }

    fn continue_prefill(&self, partial: &PartialPrefill, layers: usize) -> Result<PartialPrefill> {
        let next = partial.layers..partial.layers.saturating_add(layers).min(self.decoder.layers());
        let taps = PassTaps::new(&self.taps, partial.cache.extra_taps(), || partial.cache.spans());
        let (hidden, mut cache) = (partial.hidden.clone(), partial.cache.clone());
        let hidden =
            on_rayon_thread(|| self.decoder.run_layers(next.clone(), hidden, &partial.pass, &mut cache, &taps, &partial.additions))?;
        Ok(PartialPrefill { hidden, layers: next.end, ..partial.clone() })
    }

    fn finish_prefill(&self, partial: &PartialPrefill) -> Result<Tensor> {
        self.decoder.normalise(&self.continue_prefill(partial, usize::MAX)?.hidden)
    }

    fn decode(&self, tokens: &[u32], cache: &mut Cache) -> Result<Tensor> {
        if tokens.len() != cache.batch() || tokens.is_empty() {
            let reason =
                format!("{} tokens for a cache of {} sequences; prefill first, then give one token each", tokens.len(), cache.batch());
            return Err(Error::Inputs { reason });
        }
        on_rayon_thread(|| self.decode_tokens(tokens, cache))
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.decoder.logits(hidden)
    }
}
