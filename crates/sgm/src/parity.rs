//! Holds a model against a golden file: what Hugging Face transformers computed for the same checkpoint.
//!
//! A golden file is `golden.safetensors` with the inputs and outputs of some cases, and beside it
//! `golden.json` with the prompts and images they came from; `tools/golden/` makes them. Compared are
//! logits, pooled activations of every site, logits and greedy tokens under the file's own scales (worn
//! at run time and folded into the weights), and the way from text and images to token ids and pixels.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use sgm_bake::ScaledBackend;
use sgm_capture::{Pool, PooledTap, Pooling};
use sgm_core::{Intervention, Metadata, Site, SiteIntervention};
use sgm_models::{
    AutoMllm, Checkpoint, EosPolicy, GenerateOptions, Mllm, ModelInputs, Padding, Prompt, TokenKind, TokenSelection, generate_tokens,
    load_image,
};
use sgm_suppress::{Amplify, Glasses};

/// What can go wrong before there is anything to compare.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The golden file cannot be read.
    #[error("{path}: not a golden file: {reason}; make one with the scripts of tools/golden")]
    Golden {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// The model reports an error.
    #[error(transparent)]
    Model(#[from] sgm_models::Error),

    /// The file's scales do not fit the model.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),

    /// The file's scales cannot be worn.
    #[error(transparent)]
    Suppress(#[from] sgm_suppress::Error),

    /// The file's scales cannot be folded.
    #[error(transparent)]
    Bake(#[from] sgm_bake::Error),
}

type Result<T> = std::result::Result<T, Error>;

/// The name of the comparison of logits with the scales worn.
const SCALES_WORN: &str = "logits, scales worn";

/// One comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The golden file's case, or the letter of a prompt.
    pub case: String,
    /// What was compared.
    pub what: String,
    /// The largest absolute difference; for tokens and text, the number of differences.
    pub max_abs: f64,
    /// The largest difference relative to the largest golden value.
    pub relative: f64,
    /// The site of the largest difference, where many were compared at once.
    pub worst: Option<String>,
}

impl Check {
    /// Whether the relative difference is within a tolerance. NaN is not.
    pub fn passes(&self, tolerance: f64) -> bool {
        self.relative <= tolerance
    }
}

/// The part of `golden.json` that is read; other keys, and values of other forms, are for people.
#[derive(Debug, Default)]
struct Description {
    prompts: BTreeMap<String, String>,
    images: BTreeMap<String, String>,
    token_ids: BTreeMap<String, Vec<u32>>,
    messages: BTreeMap<String, Vec<serde_json::Value>>,
    add_generation_prompt: BTreeMap<String, bool>,
    expected_rendered: BTreeMap<String, String>,
    /// Whether the generator went on to a fixed length by making the end of sequence impossible, as under transformers'
    /// `min_new_tokens`, rather than by ignoring it.
    eos_suppressed: bool,
    /// Structured inputs of a case; some files have a sentence instead.
    case_inputs: BTreeMap<String, serde_json::Value>,
}

impl Description {
    fn parse(json: &[u8]) -> serde_json::Result<Self> {
        let json: serde_json::Value = serde_json::from_slice(json)?;
        fn part<T: serde::de::DeserializeOwned + Default>(json: &serde_json::Value, key: &str) -> T {
            json.get(key).and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
        }
        Ok(Self {
            prompts: part(&json, "prompts"),
            images: part(&json, "images"),
            token_ids: part(&json, "token_ids"),
            messages: part(&json, "messages"),
            add_generation_prompt: part(&json, "add_generation_prompt"),
            expected_rendered: part(&json, "expected_rendered"),
            eos_suppressed: part::<String>(&json, "eos") == "suppressed",
            case_inputs: part(&json, "case_inputs"),
        })
    }

    fn eos(&self) -> EosPolicy {
        if self.eos_suppressed { EosPolicy::Suppress } else { EosPolicy::Ignore }
    }
}

#[derive(Debug, Deserialize)]
struct CaseInputs {
    padding_side: String,
    rows: Vec<CaseRow>,
}

#[derive(Debug, Deserialize)]
struct CaseRow {
    prompt: String,
    images: Vec<String>,
}

/// Compares a checkpoint with a golden file; returns every comparison made, passed or not.
///
/// # Errors
///
/// When the golden file is not one, or the model cannot be loaded or run at all.
pub fn parity(checkpoint: &Checkpoint, golden: &Path) -> Result<Vec<Check>> {
    let wrong = |path: &Path, reason: String| Error::Golden { path: path.to_owned(), reason };
    let tensors = candle_core::safetensors::load(golden, &Device::Cpu).map_err(|e| wrong(golden, e.to_string()))?;
    let path = golden.with_extension("json");
    let description: Description = match std::fs::read(&path) {
        Ok(bytes) => Description::parse(&bytes).map_err(|e| wrong(&path, e.to_string()))?,
        Err(_) => Description::default(),
    };
    let golden = Golden { path: golden, tensors, description };
    // Weights in full precision, whatever form the checkpoint would run in.
    let model = AutoMllm::from_tensors(checkpoint, &checkpoint.tensors()?)?;
    let intervention = golden.intervention()?;
    let (vb, folded) = ScaledBackend::fold(checkpoint.tensors()?, &intervention, Amplify::Allow)?;
    let folded_model = AutoMllm::from_tensors(checkpoint, &vb)?;
    folded.check_complete()?;

    let mut checks = golden.text_checks(&model)?;
    for case in golden.cases() {
        checks.extend(golden.case_checks(&case, &model, &folded_model, &intervention)?);
    }
    if checks.is_empty() {
        return Err(wrong(golden.path, "it has no cases".to_owned()));
    }
    // Cases may lack them, but not all.
    if !checks.iter().any(|check| check.what == SCALES_WORN) {
        return Err(wrong(golden.path, "no case has logits_scaled".to_owned()));
    }
    Ok(checks)
}

struct Golden<'a> {
    path: &'a Path,
    tensors: HashMap<String, Tensor>,
    description: Description,
}

impl Golden<'_> {
    fn wrong(&self, reason: String) -> Error {
        Error::Golden { path: self.path.to_owned(), reason }
    }

    fn cases(&self) -> Vec<String> {
        let mut cases: Vec<String> = self.tensors.keys().filter_map(|k| k.strip_suffix(".input_ids")).map(str::to_owned).collect();
        cases.sort();
        cases
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| self.wrong(format!("it has no tensor `{name}`")))
    }

    /// The scales `alpha.layers.{i}.{projection}`.
    fn intervention(&self) -> Result<Intervention> {
        let mut intervention = Intervention::new(Metadata::default());
        for (name, scale) in &self.tensors {
            let Some(rest) = name.strip_prefix("alpha.") else { continue };
            let site = site(rest).ok_or_else(|| self.wrong(format!("`{name}` is not of a site")))?;
            intervention.insert(site, SiteIntervention::from_scale(scale.to_vec1()?))?;
        }
        Ok(intervention)
    }

    /// Chat template and tokenizer, prompt by prompt.
    fn text_checks(&self, model: &AutoMllm) -> Result<Vec<Check>> {
        let processor = model.processor();
        let mut checks = Vec::new();
        for (letter, expected) in &self.description.expected_rendered {
            let Some(messages) = self.description.messages.get(letter) else { continue };
            let messages = messages
                .iter()
                .map(|m| message(m).ok_or_else(|| self.wrong(format!("messages of `{letter}`"))))
                .collect::<Result<Vec<_>>>()?;
            let opening = self.description.add_generation_prompt.get(letter).copied().unwrap_or(true);
            let rendered = processor.apply_chat_template(&messages, opening)?;
            checks.push(Check::count(letter, "chat template", usize::from(&rendered != expected)));
        }
        for (letter, expected) in &self.description.token_ids {
            let Some(text) = self.description.prompts.get(letter) else { continue };
            let ids = processor.token_ids(text)?;
            checks.push(Check::count(letter, "token ids", differences(&ids, expected)));
        }
        Ok(checks)
    }

    fn case_checks(&self, case: &str, model: &AutoMllm, folded: &AutoMllm, intervention: &Intervention) -> Result<Vec<Check>> {
        let name = |what: &str| format!("{case}.{what}");
        let mask = self.tensor(&name("attention_mask"))?;
        let given = INPUTS.iter().filter_map(|what| Some(((*what).to_owned(), self.tensors.get(&name(what))?.clone())));
        let inputs = model.processor().tokens(self.tensor(&name("input_ids"))?, mask, given.collect())?;
        let generating = ModelInputs {
            tensors: inputs.tensors.iter().filter(|(name, _)| *name != POSITIONS).map(|(n, t)| (n.clone(), t.clone())).collect(),
            ..inputs.clone()
        };
        let inputs = numbered_as_forward(inputs)?;
        let mut checks = self.processor_checks(case, model, &inputs)?;

        let tap = PooledTap::new(POOLS.map(|(pool, _)| Pooling { pool, tokens: TokenSelection::All }).to_vec());
        let experts = intervention.sites().keys().any(|site| site.expert.is_some());
        let tap = Arc::new(if experts { tap.with_experts() } else { tap });
        let attached = model.taps().attach(tap.clone());
        let logits = logits(model, &inputs)?;
        drop(attached);
        checks.push(Check::attended(case, "logits", &logits, self.tensor(&name("logits"))?, mask)?);
        checks.extend(self.activation_checks(case, &tap)?);

        let scaled = self.tensors.get(&name("logits_scaled"));
        // Golden scales amplify some neurons on purpose, to test that too.
        let worn = Glasses::wear(model, intervention, Amplify::Allow)?;
        if let Some(scaled) = scaled {
            checks.push(Check::attended(case, SCALES_WORN, &self::logits(model, &inputs)?, scaled, mask)?);
        }
        checks.extend(self.generation_check(case, "generated_scaled", "generated, scales worn", model, &generating)?);
        drop(worn);
        if let Some(scaled) = scaled {
            checks.push(Check::attended(case, "logits, scales folded", &self::logits(folded, &inputs)?, scaled, mask)?);
        }
        checks.extend(self.generation_check(case, "generated_scaled", "generated, scales folded", folded, &generating)?);
        checks.extend(self.generation_check(case, "generated", "generated", model, &generating)?);
        Ok(checks)
    }

    /// From prompt and image files to ids and pixels.
    fn processor_checks(&self, case: &str, model: &AutoMllm, stored: &ModelInputs) -> Result<Vec<Check>> {
        let Some(given) = self.description.case_inputs.get(case) else { return Ok(Vec::new()) };
        let Ok(given) = CaseInputs::deserialize(given) else { return Ok(Vec::new()) };
        let missing = |letter: &str| self.wrong(format!("golden.json has no prompt or image `{letter}`"));
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut prompts = Vec::new();
        for row in &given.rows {
            let text = self.description.prompts.get(&row.prompt).ok_or_else(|| missing(&row.prompt))?.clone();
            let images = row.images.iter().map(|letter| {
                let file = self.description.images.get(letter).ok_or_else(|| missing(letter))?;
                Ok(Arc::new(load_image(directory.join(file))?))
            });
            prompts.push(Prompt::Raw { text, images: images.collect::<Result<_>>()? });
        }
        let padding = if given.padding_side == "right" { Padding::Right } else { Padding::Left };
        let made = model.processor().prompts(&prompts, padding)?;
        let ids = |inputs: &ModelInputs| inputs.input_ids.flatten_all()?.to_vec1::<u32>();
        let attended = |inputs: &ModelInputs| -> Vec<bool> { inputs.kinds.iter().flatten().map(|k| *k != TokenKind::Padding).collect() };
        let wrong_mask = differences(&attended(&made), &attended(stored));
        let mut checks = vec![Check::count(case, "processor: ids and mask", wrong_mask + differences(&ids(&made)?, &ids(stored)?))];
        for (name, made) in &made.tensors {
            if let Some(stored) = stored.tensors.get(name) {
                checks.push(Check::tensors(case, &format!("processor: {name}"), made, stored)?);
            }
        }
        Ok(checks)
    }

    fn activation_checks(&self, case: &str, tap: &PooledTap) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        let rows = tap.take();
        for (at, (_, pool)) in POOLS.iter().enumerate() {
            let mut worst: Option<Check> = None;
            for (name, golden) in &self.tensors {
                let Some(site) =
                    name.strip_prefix(case).and_then(|n| n.strip_prefix('.')).and_then(|n| n.strip_suffix(pool)).and_then(site)
                else {
                    continue;
                };
                let ours: Vec<Vec<f32>> = rows.values().filter_map(|row| row.get(at)?.get(&site).cloned()).collect();
                let mut check = Check::tensors(case, &format!("activations{pool}"), &Tensor::new(ours, &Device::Cpu)?, golden)?;
                check.worst = Some(site.to_string());
                // A NaN wins.
                if worst.as_ref().is_none_or(|w| check.relative.abs().total_cmp(&w.relative).is_gt()) {
                    worst = Some(check);
                }
            }
            checks.extend(worst);
        }
        Ok(checks)
    }

    fn generation_check(&self, case: &str, tensor: &str, what: &str, model: &AutoMllm, inputs: &ModelInputs) -> Result<Option<Check>> {
        let Some(golden) = self.tensors.get(&format!("{case}.{tensor}")) else { return Ok(None) };
        let golden: Vec<Vec<i64>> = golden.to_dtype(DType::I64)?.to_vec2()?;
        let max_new_tokens = golden.first().map_or(0, Vec::len);
        let options = GenerateOptions { max_new_tokens, eos: self.description.eos(), ..GenerateOptions::default() };
        let ours: Vec<i64> = generate_tokens(model, inputs, &options)?.into_iter().flat_map(|(tokens, _)| tokens).map(i64::from).collect();
        Ok(Some(Check::count(case, what, differences(&ours, &golden.concat()))))
    }
}

/// What a golden file may give a model beside token ids and mask: pixels, and what processors make with them.
const INPUTS: [&str; 11] = [
    "pixel_values",
    "image_sizes",
    "batch_num_images",
    "image_grid_thw",
    "pixel_attention_mask",
    "aspect_ratio_ids",
    "aspect_ratio_mask",
    "cross_attention_mask",
    "qformer_input_ids",
    "qformer_attention_mask",
    POSITIONS,
];

/// How a golden file's forward passes number their tokens, where that is not from 0 over the tokens attended to.
const POSITIONS: &str = "position_ids";

const POOLS: [(Pool, &str); 2] = [(Pool::Mean, ".mean"), (Pool::Max, ".max")];

/// The site of `layers.{i}.{projection}`.
fn site(name: &str) -> Option<Site> {
    let (layer, projection) = name.strip_prefix("layers.")?.split_once('.')?;
    format!("lm.layers.{layer}.mlp.{projection}").parse().ok()
}

fn message(value: &serde_json::Value) -> Option<sgm_models::Message> {
    use sgm_models::{Content, Message, Role};
    let role = [Role::System, Role::User, Role::Assistant].into_iter().find(|r| Some(r.name()) == value["role"].as_str())?;
    if let Some(text) = value["content"].as_str() {
        return Some(Message { role, content: vec![Content::Text(text.to_owned())] });
    }
    let content = value["content"].as_array()?.iter().map(|part| match part["type"].as_str()? {
        // What the image shows does not matter to a template.
        "image" => Some(Content::Image(Arc::default())),
        _ => Some(Content::Text(part["text"].as_str()?.to_owned())),
    });
    Some(Message { role, content: content.collect::<Option<_>>()? })
}

/// Padding between the tokens of a sequence, which InstructBLIP's processor puts behind the image, is counted by a plain
/// forward pass of transformers, and not when it generates. Elsewhere it makes no difference to rotary positions.
fn numbered_as_forward(mut inputs: ModelInputs) -> Result<ModelInputs> {
    let interrupted = |row: &Vec<TokenKind>| {
        let padding: Vec<bool> = row.iter().map(|kind| *kind == TokenKind::Padding).collect();
        let own = padding.iter().skip_while(|p| **p).collect::<Vec<_>>();
        own.iter().rev().skip_while(|p| ***p).any(|p| **p)
    };
    if inputs.kinds.iter().any(interrupted) && !inputs.tensors.contains_key(POSITIONS) {
        let (batch, tokens) = inputs.dims()?;
        let counted = Tensor::arange(0i64, tokens as i64, &Device::Cpu)?.expand((batch, tokens))?.contiguous()?;
        inputs.tensors.insert(POSITIONS.to_owned(), counted);
    }
    Ok(inputs)
}

fn logits(model: &AutoMllm, inputs: &ModelInputs) -> Result<Tensor> {
    Ok(model.logits(&model.prefill(inputs, &mut model.new_cache())?)?)
}

fn differences<T: PartialEq>(ours: &[T], golden: &[T]) -> usize {
    ours.iter().zip(golden).filter(|(a, b)| a != b).count() + ours.len().abs_diff(golden.len())
}

impl Check {
    fn count(case: &str, what: &str, differences: usize) -> Self {
        let differences = differences as f64;
        Self { case: case.to_owned(), what: what.to_owned(), max_abs: differences, relative: differences, worst: None }
    }

    fn tensors(case: &str, what: &str, ours: &Tensor, golden: &Tensor) -> Result<Self> {
        let mut check = Self::count(case, what, 1);
        if ours.dims() != golden.dims() {
            (check.max_abs, check.relative) = (f64::INFINITY, f64::INFINITY);
            check.worst = Some(format!("shape {:?}, golden {:?}", ours.dims(), golden.dims()));
            return Ok(check);
        }
        let values = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let (ours, golden) = (values(ours)?, values(golden)?);
        // Like f64::max, but a NaN stays.
        let max = |max: f64, value: f64| if value > max || value.is_nan() { value } else { max };
        check.max_abs = ours.iter().zip(&golden).map(|(a, b)| (a - b).abs()).fold(0.0, max);
        let largest = golden.iter().map(|v| v.abs()).fold(0.0, max);
        check.relative = if check.max_abs == 0.0 { 0.0 } else { check.max_abs / largest };
        Ok(check)
    }

    /// Compares `[batch, tokens, ..]` at the positions whose mask is 1.
    fn attended(case: &str, what: &str, ours: &Tensor, golden: &Tensor, mask: &Tensor) -> Result<Self> {
        if ours.dims() != golden.dims() {
            return Self::tensors(case, what, ours, golden);
        }
        let mask = mask.to_dtype(DType::U8)?.unsqueeze(D::Minus1)?.broadcast_as(ours.shape())?;
        // Not a product: what stands at padding may be anything.
        let zero = ours.zeros_like()?;
        Self::tensors(case, what, &mask.where_cond(ours, &zero)?, &mask.where_cond(&golden.to_dtype(ours.dtype())?, &zero)?)
    }
}
