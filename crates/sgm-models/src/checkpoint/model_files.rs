//! The files of a model, from a directory, a GGUF file or memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use tokenizers::Tokenizer;

use crate::checkpoint::gguf::gguf_model::GgufModel;
use crate::checkpoint::mapped_safetensors::{MappedBackend, MappedWeights};
use crate::checkpoint::model_info::ModelInfo;
use crate::checkpoint::section::Section;
use crate::checkpoint::{fingerprint, hub};
use crate::error::{Error, Result};
use crate::layers::linear::Weights;

/// The files of a model: a directory in the Hugging Face layout, a GGUF file, or a set of embedded files.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    files: Files,
    config: Section,
    config_sha256: String,
    device: Device,
    matrices: Matrices,
    chat_template: Option<String>,
}

/// The treatment of matrices that are stored in fewer bits than the model computes in, which is f32 on a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Matrices {
    /// Widened on loading if all of them together then take up to 4 GiB, otherwise kept.
    #[default]
    Auto,
    /// Widened on loading; quantised matrices are dequantised.
    Widen,
    /// Kept as they are stored. 16-bit matrices are widened at every product, which is slower and gives bit-equal
    /// results; quantised matrices are multiplied with inputs rounded to 8 bits, block by block, as in llama.cpp.
    Keep,
}

const WIDEN_UP_TO: usize = 4 << 30;

#[derive(Debug)]
enum Files {
    Directory(PathBuf),
    Gguf(Box<GgufModel>),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Checkpoint {
    /// Opens a model directory or a GGUF file, to run on the CPU.
    ///
    /// The GGUF architectures `llama`, `qwen2` and `gemma3` are supported. LLaVA-1.5 consists of two files, of which
    /// the language model is opened: its vision tower is the file in the same directory that has `mmproj` in its name,
    /// or the one given to [`with_mmproj`](Self::with_mmproj). With a vision tower of another family than LLaVA-1.5,
    /// the model takes text only. A GGUF file is memory-mapped and must not change while a checkpoint of it exists.
    ///
    /// A name that is not a path may be a model id, `organisation/name` or `organisation/name@revision`. It is looked
    /// up in the local Hugging Face cache and, with feature `hub`, downloaded into it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the name is neither a file nor a directory nor an id; [`Error::MissingFile`] if the
    /// directory has no `config.json`; [`Error::Config`] if that file is not JSON, or the metadata of a GGUF file are
    /// incomplete; [`Error::Gguf`] if a GGUF file is damaged; [`Error::Unsupported`] for an unsupported architecture or
    /// tensor type; [`Error::Hub`] if a download fails.
    pub fn open(model: impl AsRef<Path>) -> Result<Self> {
        let model = model.as_ref();
        if !model.exists() {
            let id = model.to_string_lossy();
            return Self::new(id.clone().into_owned(), Files::Directory(hub::directory(&id)?));
        }
        let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        if model.is_file() {
            let name = model.file_stem().map_or_else(|| model.display().to_string(), text);
            return Self::new(name, Files::Gguf(Box::new(GgufModel::open(model)?)));
        }
        let full = std::fs::canonicalize(model).ok();
        let name = full.as_deref().and_then(Path::file_name).map_or_else(|| model.display().to_string(), text);
        Self::new(name, Files::Directory(model.to_owned()))
    }

    /// Uses another file as the vision tower of a GGUF language model: the `mmproj` file of LLaVA-1.5.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`] if either is not such a file; otherwise as [`open`](Self::open).
    pub fn with_mmproj(self, path: impl AsRef<Path>) -> Result<Self> {
        match &self.files {
            Files::Gguf(model) => {
                let opened = Self::new(self.name.clone(), Files::Gguf(Box::new(model.with_mmproj(path.as_ref())?)))?;
                Ok(Self { matrices: self.matrices, chat_template: self.chat_template, ..opened })
            }
            _ => {
                let reason = "it goes with the GGUF file of a language model, but the checkpoint is none".to_owned();
                Err(Error::Gguf { path: path.as_ref().to_owned(), reason })
            }
        }
    }

    /// Opens a model whose files are in memory under their usual names; nothing is written to disk.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn embedded(name: &str, files: &'static [(&'static str, &'static [u8])]) -> Result<Self> {
        Self::new(name.to_owned(), Files::Embedded(files))
    }

    fn new(name: String, files: Files) -> Result<Self> {
        let missing = || Error::MissingFile { path: files.path(""), wanted: CONFIG };
        let bytes = files.read(CONFIG)?.ok_or_else(missing)?;
        let config = Section::parse(&files.path(CONFIG).display().to_string(), &bytes)?;
        let config_sha256 = sgm_core::sha256::hex_digest(&bytes);
        Ok(Self { name, config, config_sha256, device: Device::Cpu, matrices: Matrices::Auto, chat_template: None, files })
    }

    /// Sets the treatment of matrices that are stored in few bits.
    #[must_use]
    pub fn with_matrices(mut self, matrices: Matrices) -> Self {
        self.matrices = matrices;
        self
    }

    /// Sets the chat template, in Jinja, in place of the model's own.
    ///
    /// For a language model without instruction tuning, `{% for message in messages %}{{ message.content }}{% endfor
    /// %}` passes the text of the prompt unchanged.
    #[must_use]
    pub fn with_chat_template(mut self, template: impl Into<String>) -> Self {
        self.chat_template = Some(template.into());
        self
    }

    /// The chat template that replaces the model's own.
    pub(crate) fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The class name of the model, the first of `architectures` in `config.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is none.
    pub fn architecture(&self) -> Result<&str> {
        let names = self.config.get("architectures").and_then(|v| v.as_array());
        let name = names.and_then(|a| a.first()).and_then(|v| v.as_str());
        name.ok_or_else(|| self.config.error("architectures", "expected a list with the model's class name; is this a model directory?"))
    }

    pub(crate) fn config(&self) -> &Section {
        &self.config
    }

    /// Reads a file; `None` if the checkpoint has no such file.
    pub(crate) fn read(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>> {
        self.files.read(file)
    }

    /// Reads a JSON file; `None` if the checkpoint has no such file.
    pub(crate) fn json(&self, file: &str) -> Result<Option<Section>> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        Section::parse(&self.files.path(file).display().to_string(), &bytes).map(Some)
    }

    /// Loads the tokenizer, without its own settings for padding and truncation.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.files {
            Files::Gguf(model) => model.tokenizer(),
            _ => self.tokenizer_in(""),
        }
    }

    /// Loads a second tokenizer from a subdirectory, such as `qformer_tokenizer/`.
    pub(crate) fn tokenizer_in(&self, directory: &str) -> Result<Tokenizer> {
        let bytes = self.read(&format!("{directory}tokenizer.json"))?.ok_or_else(|| Error::MissingFile {
            path: self.files.path(directory),
            wanted: "tokenizer.json (convert a slow tokenizer with transformers' AutoTokenizer and save_pretrained)",
        })?;
        let error = |e: tokenizers::Error| Error::Tokenizer { reason: e.to_string() };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(error)?;
        // Padding happens in this crate, where token kinds are known; the tokenizer's own settings would interfere.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(error)?;
        Ok(tokenizer)
    }

    /// The text of a special token by its name in `tokenizer_config.json`, such as `bos_token`.
    pub(crate) fn special_token(&self, name: &str) -> Result<Option<String>> {
        self.special_token_in("", name)
    }

    /// The text of a special token of a second tokenizer, as in [`tokenizer_in`](Self::tokenizer_in).
    pub(crate) fn special_token_in(&self, directory: &str, name: &str) -> Result<Option<String>> {
        let Some(config) = self.json(&format!("{directory}tokenizer_config.json"))? else { return Ok(None) };
        // The value is a string, or an object with the string as its content.
        let token = config.get(name).and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
        Ok(token.map(str::to_owned))
    }

    pub(crate) fn missing_file(&self, wanted: &'static str) -> Error {
        Error::MissingFile { path: self.files.path(""), wanted }
    }

    /// The description of the model, without its sites.
    pub(crate) fn info(&self) -> Result<ModelInfo> {
        let architecture = self.architecture()?;
        let generation = self.json("generation_config.json")?;
        let mut eos = generation.as_ref().map_or(Ok(Vec::new()), |g| g.ids("eos_token_id"))?;
        if eos.is_empty() {
            eos = self.config.ids("eos_token_id")?;
        }
        if eos.is_empty() {
            eos = self.config.section("text_config")?.ids("eos_token_id")?;
        }
        Ok(ModelInfo {
            name: self.name.clone(),
            architecture: architecture.to_owned(),
            config_sha256: self.config_sha256.clone(),
            weights: self.fingerprint(),
            dtype: self.dtype()?.as_str().to_owned(),
            eos,
            sites: Vec::new(),
        })
    }

    /// The fingerprint of the weight files, see [`ModelInfo::weights`].
    fn fingerprint(&self) -> Option<String> {
        match &self.files {
            Files::Directory(_) => fingerprint::of_files(&self.weight_files().ok()?).ok(),
            Files::Gguf(model) => fingerprint::of_files(&model.paths()).ok(),
            Files::Embedded(_) => fingerprint::of_bytes(&self.read(WEIGHTS).ok()??).ok(),
        }
    }

    fn dtype(&self) -> Result<DType> {
        let stored = match self.config.string("dtype")? {
            Some(dtype) => Some(dtype),
            None => self.config.string("torch_dtype")?,
        };
        let stored = match stored {
            Some("float16") => DType::F16,
            Some("bfloat16") => DType::BF16,
            _ => DType::F32,
        };
        Ok(compute_dtype(&self.device, stored))
    }

    /// Opens the weights; matrices may stay in their stored format.
    pub(crate) fn weights(&self) -> Result<Weights<'static>> {
        let dtype = self.dtype()?;
        let keep = |widened: usize| match self.matrices {
            Matrices::Auto => widened > WIDEN_UP_TO,
            Matrices::Widen => false,
            Matrices::Keep => true,
        };
        if let Files::Gguf(model) = &self.files {
            let stored = model.weights()?;
            let keep = keep(stored.widened_bytes());
            return Ok(Weights::new(self.tensors()?, if keep { Some(Arc::new(stored)) } else { None }));
        }
        if matches!(self.files, Files::Embedded(_)) || dtype != DType::F32 {
            return Ok(Weights::new(self.tensors()?, None));
        }
        let mapped = Arc::new(MappedWeights::open(&self.weight_files()?)?);
        let keep = keep(mapped.widened_bytes());
        let vb = VarBuilder::from_backend(Box::new(MappedBackend(mapped.clone())), dtype, self.device.clone());
        Ok(Weights::new(vb, if keep { Some(mapped) } else { None }))
    }

    /// The weights by their names in the checkpoint, converted on loading to the dtype in which the model computes.
    ///
    /// Tensors of GGUF files have their Hugging Face names, and quantised ones are dequantised.
    ///
    /// Files are memory-mapped: they must not change while the model loads.
    ///
    /// # Errors
    ///
    /// [`Error::MissingFile`] if there are no weights, [`Error::Weights`] if a file is damaged.
    pub fn tensors(&self) -> Result<VarBuilder<'static>> {
        let dtype = self.dtype()?;
        match &self.files {
            Files::Directory(_) => {
                let mapped = MappedWeights::open(&self.weight_files()?)?;
                Ok(VarBuilder::from_backend(Box::new(MappedBackend(Arc::new(mapped))), dtype, self.device.clone()))
            }
            Files::Gguf(model) => Ok(VarBuilder::from_backend(Box::new(model.weights()?), dtype, self.device.clone())),
            Files::Embedded(_) => {
                let bytes = self.read(WEIGHTS)?.ok_or_else(|| self.missing_file(WEIGHTS))?;
                let unreadable = |e: candle_core::Error| Error::Weights { path: self.files.path(WEIGHTS), reason: e.to_string() };
                match bytes {
                    Cow::Borrowed(bytes) => VarBuilder::from_slice_safetensors(bytes, dtype, &self.device).map_err(unreadable),
                    Cow::Owned(bytes) => VarBuilder::from_buffered_safetensors(bytes, dtype, &self.device).map_err(unreadable),
                }
            }
        }
    }

    /// The weight files in the order of their names: the single file, or the shards of the index.
    fn weight_files(&self) -> Result<Vec<PathBuf>> {
        let single = self.files.path(WEIGHTS);
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = self.json(INDEX)?.ok_or_else(|| self.missing_file("model.safetensors or model.safetensors.index.json"))?;
        let map = index.get("weight_map").and_then(|v| v.as_object()).ok_or_else(|| index.error("weight_map", "expected an object"))?;
        let mut shards = BTreeMap::new();
        for (tensor, shard) in map {
            let plain = shard.as_str().filter(|s| !s.contains(['/', '\\']) && *s != "..");
            let shard =
                plain.ok_or_else(|| index.error(&format!("weight_map.{tensor}"), "expected the name of a file in the same directory"))?;
            shards.insert(shard.to_owned(), self.files.path(shard));
        }
        match shards.values().find(|path| !path.is_file()) {
            Some(path) => Err(Error::Weights { path: path.clone(), reason: "the index names it, but it is not there".to_owned() }),
            None => Ok(shards.into_values().collect()),
        }
    }
}

impl Files {
    /// The path of a file, for reading and for messages.
    fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Directory(directory) if file.is_empty() => directory.clone(),
            Self::Directory(directory) => directory.join(file),
            Self::Gguf(model) => model.path().join(file),
            Self::Embedded(_) => Path::new("(embedded)").join(file),
        }
    }

    fn read(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            Self::Embedded(files) => Ok(files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| Cow::Borrowed(*bytes))),
            Self::Gguf(model) => Ok(model.file(file).map(|bytes| Cow::Owned(bytes.to_owned()))),
            Self::Directory(_) => match std::fs::read(self.path(file)) {
                Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Io { path: self.path(file), source }),
            },
        }
    }
}

/// The dtype for computation on a device: f32 on CPUs, where 16-bit arithmetic is slower.
fn compute_dtype(device: &Device, stored: DType) -> DType {
    if device.is_cpu() { DType::F32 } else { stored }
}
