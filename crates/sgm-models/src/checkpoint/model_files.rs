//! The files of a model, from a directory, a GGUF file or memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use sgm_core::gguf::{PartName, language_models_in};
use sgm_core::quantisation;
use tokenizers::Tokenizer;

use crate::checkpoint::gguf::gguf_model::GgufModel;
use crate::checkpoint::mapped_weights::{MappedBackend, MappedWeights};
use crate::checkpoint::model_info::ModelInfo;
use crate::checkpoint::section::Section;
use crate::checkpoint::{fingerprint, hub, sentence_piece, special_tokens};
use crate::error::{Error, Result};
use crate::layers::linear::Weights;
use crate::layers::products::has_avx2;

/// The files of a model: a directory in the Hugging Face layout, a GGUF file, or a set of embedded files.
#[derive(Debug)]
pub struct Checkpoint {
    name: String,
    files: Files,
    config: Section,
    config_sha256: String,
    device: Device,
    dtype: DType,
    matrices: Matrices,
    chat_template: Option<String>,
}

/// The treatment of matrices that are stored in fewer bits than the model computes in, which is f32 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Matrices {
    /// Kept where products with the stored matrices are at least as fast: 16-bit matrices on the CPU, quantised ones on
    /// x86 processors with AVX2. Elsewhere widened if all of them together then take up to 4 GiB.
    #[default]
    Auto,
    /// Widened on loading; quantised matrices are dequantised.
    Widen,
    /// Kept as they are stored. 16-bit matrices are widened a few rows at a time within each product, which gives
    /// bit-equal results; quantised matrices are multiplied with inputs rounded to 8 bits, block by block, as in
    /// llama.cpp.
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
/// The single weight file, or the index of its shards, in the order in which transformers looks for them.
const WEIGHT_FILES: [(&str, &str); 2] = [(WEIGHTS, "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")];

impl Checkpoint {
    /// Opens a model directory or a GGUF file, to run on the CPU in f32; see [`with_device`](Self::with_device) and
    /// [`with_dtype`](Self::with_dtype).
    ///
    /// The GGUF architectures `llama`, `mistral3`, `qwen2`, `qwen2vl`, `qwen3`, `phi3`, `gemma`, `gemma2` and `gemma3` are
    /// supported. Of a model split over several files any part can be named; a directory without `config.json` is that
    /// of the one GGUF model in it.
    ///
    /// A multimodal GGUF model consists of two files, of which the language model is opened. Its vision tower is the
    /// first file in the same directory with `mmproj` in its name that fits: its projector (`mlp` of LLaVA-1.5,
    /// `qwen2vl_merger`, `qwen2.5vl_merger` or `idefics3`) suits the architecture, its width is that of the embeddings,
    /// and the words of its name are words of the language model's name, or, where its name has no words, the
    /// vocabulary has the projector's image token. Which file is used is logged; one that does not fit is named in a
    /// warning, and the model takes text only. [`with_mmproj`](Self::with_mmproj) names the file. GGUF files are
    /// memory-mapped and must not change while a checkpoint of them exists.
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
            return Self::new(id.clone().into_owned(), Files::in_directory(hub::directory(&id)?)?);
        }
        let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        if model.is_file() {
            let part = PartName::of(model).map(|part| part.prefix);
            let name = part.unwrap_or_else(|| model.file_stem().map_or_else(|| model.display().to_string(), text));
            return Self::new(name, Files::Gguf(Box::new(GgufModel::open(model)?)));
        }
        let full = std::fs::canonicalize(model).ok();
        let name = full.as_deref().and_then(Path::file_name).map_or_else(|| model.display().to_string(), text);
        Self::new(name, Files::in_directory(model.to_owned())?)
    }

    /// Uses a file, an `mmproj` file of any name, as the vision tower of a GGUF language model.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`] if either is not such a file or the two do not fit; otherwise as [`open`](Self::open).
    pub fn with_mmproj(self, path: impl AsRef<Path>) -> Result<Self> {
        match &self.files {
            Files::Gguf(model) => {
                let opened = Self::new(self.name.clone(), Files::Gguf(Box::new(model.with_mmproj(path.as_ref())?)))?;
                let Self { device, dtype, matrices, chat_template, .. } = self;
                Ok(Self { device, dtype, matrices, chat_template, ..opened })
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

    /// The model directory or the GGUF file, of a language model if there are two; `None` for embedded files.
    ///
    /// This is where an id was found in the cache, or downloaded to.
    pub fn path(&self) -> Option<&Path> {
        match &self.files {
            Files::Directory(directory) => Some(directory),
            Files::Gguf(model) => Some(model.path()),
            Files::Embedded(_) => None,
        }
    }

    fn new(name: String, files: Files) -> Result<Self> {
        let missing = || Error::MissingFile { path: files.path(""), wanted: CONFIG };
        let bytes = files.read(CONFIG)?.ok_or_else(missing)?;
        let config = Section::parse(&files.path(CONFIG).display().to_string(), &bytes)?;
        let config_sha256 = sgm_core::sha256::hex_digest(&bytes);
        let (device, dtype) = (Device::Cpu, DType::F32);
        Ok(Self { name, config, config_sha256, device, dtype, matrices: Matrices::Auto, chat_template: None, files })
    }

    /// Sets the device on which the model runs; its weights are loaded there. Inputs may be on any device.
    ///
    /// Devices other than the CPU need a feature of this crate, such as `cuda`.
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Sets the dtype in which the model computes: f32, f16 or bf16, whatever the checkpoint stores.
    ///
    /// On a CPU f32 is the fastest. In 16 bits, sums within products and norms are still f32, but every result is rounded
    /// to the dtype, so that logits differ from those in f32 in about the third significant digit (bf16) or fourth (f16).
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for any other dtype.
    pub fn with_dtype(mut self, dtype: DType) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            let got = dtype.as_str().to_owned();
            return Err(Error::Unsupported { what: "dtype to compute in", got, supported: &["f32", "f16", "bf16"] });
        }
        self.dtype = dtype;
        Ok(self)
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
        let error = |e: tokenizers::Error| Error::Tokenizer { reason: e.to_string() };
        let mut tokenizer = match self.read(&format!("{directory}tokenizer.json"))? {
            Some(bytes) => Tokenizer::from_bytes(&bytes).map_err(error)?,
            None => self.sentence_piece(directory)?,
        };
        // Padding happens in this crate, where token kinds are known; the tokenizer's own settings would interfere.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(error)?;
        Ok(tokenizer)
    }

    /// Builds the tokenizer from a SentencePiece model.
    fn sentence_piece(&self, directory: &str) -> Result<Tokenizer> {
        let model = self.read(&format!("{directory}tokenizer.model"))?.ok_or_else(|| Error::MissingFile {
            path: self.files.path(directory),
            wanted: "tokenizer.json (for a tokenizer in other files, write it with transformers' AutoTokenizer and save_pretrained)",
        })?;
        let settings = self.json(&format!("{directory}tokenizer_config.json"))?;
        let settings = settings.unwrap_or_else(|| Section::from_map("tokenizer_config.json", serde_json::Map::new()));
        let added = self.json(&format!("{directory}added_tokens.json"))?;
        sentence_piece::tokenizer(&model, &settings, added.as_ref()).map_err(|reason| Error::Tokenizer { reason })
    }

    /// The text of a special token by its name in `tokenizer_config.json`, such as `bos_token`.
    pub(crate) fn special_token(&self, name: &str) -> Result<Option<String>> {
        self.special_token_in("", name)
    }

    /// The text of a special token of a second tokenizer, as in [`tokenizer_in`](Self::tokenizer_in).
    pub(crate) fn special_token_in(&self, directory: &str, name: &str) -> Result<Option<String>> {
        Ok(special_tokens::special_tokens(self, directory)?.remove(name))
    }

    /// The path of a file, for messages.
    pub(crate) fn path_of(&self, file: &str) -> PathBuf {
        self.files.path(file)
    }

    /// The names of the files in a subdirectory, in order; none if there is no such directory.
    pub(crate) fn files_in(&self, directory: &str) -> Result<Vec<String>> {
        let Files::Directory(_) = &self.files else { return Ok(Vec::new()) };
        let path = self.files.path(directory);
        let io = |source| Error::Io { path: path.clone(), source };
        let entries = match std::fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let names = entries.map(|entry| Ok(entry.map_err(io)?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
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
            dtype: self.dtype.as_str().to_owned(),
            eos,
            sites: Vec::new(),
            expert_sites: Vec::new(),
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

    /// Opens the weights; matrices may stay in their stored format.
    pub(crate) fn weights(&self) -> Result<Weights<'static>> {
        let keep = |fast: bool, widened: usize| {
            let kept = match self.matrices {
                Matrices::Auto => fast && self.device.is_cpu() || widened > WIDEN_UP_TO,
                Matrices::Widen => false,
                Matrices::Keep => true,
            };
            tracing::info!(model = self.name, kept, "matrices in few bits are kept as they are stored, or widened");
            kept
        };
        if let Files::Gguf(model) = &self.files {
            let stored = model.weights()?;
            let keep = keep(has_avx2(), stored.widened_bytes());
            return Ok(Weights::new(self.tensors()?, if keep { Some(Arc::new(stored)) } else { None }));
        }
        if self.dtype != DType::F32 {
            return Ok(Weights::new(self.tensors()?, None));
        }
        let mapped = Arc::new(self.mapped()?);
        let keep = keep(true, mapped.widened_bytes());
        let vb = VarBuilder::from_backend(Box::new(MappedBackend(mapped.clone())), self.dtype, self.device.clone());
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
    /// [`Error::MissingFile`] if there are no weights, [`Error::Weights`] if a file is damaged, and
    /// [`sgm_core::Error::Quantised`] if the weights are quantised in a format that is not read.
    pub fn tensors(&self) -> Result<VarBuilder<'static>> {
        match &self.files {
            Files::Gguf(model) => Ok(VarBuilder::from_backend(Box::new(model.weights()?), self.dtype, self.device.clone())),
            _ => Ok(VarBuilder::from_backend(Box::new(MappedBackend(Arc::new(self.mapped()?))), self.dtype, self.device.clone())),
        }
    }

    /// The names of all tensors, without the scales of quantised ones; none for a GGUF file.
    pub(crate) fn tensor_names(&self) -> Result<BTreeSet<String>> {
        match &self.files {
            Files::Gguf(_) => Ok(BTreeSet::new()),
            _ => Ok(self.mapped()?.names()),
        }
    }

    /// Maps the safetensors files.
    fn mapped(&self) -> Result<MappedWeights> {
        let fp8 = quantisation::of_config(self.config.map())?;
        match &self.files {
            Files::Embedded(files) => {
                let bytes = files.iter().find(|(name, _)| *name == WEIGHTS).map(|(_, bytes)| *bytes);
                MappedWeights::embedded(&self.files.path(WEIGHTS), bytes.ok_or_else(|| self.missing_file(WEIGHTS))?, fp8)
            }
            _ => MappedWeights::open(&self.weight_files()?, fp8),
        }
    }

    /// The tensors of GGUF files that have not been read, in order; none for other checkpoints.
    pub(crate) fn unread_gguf_tensors(&self) -> Result<Vec<String>> {
        match &self.files {
            Files::Gguf(model) => Ok(model.weights()?.unread()),
            Files::Directory(_) | Files::Embedded(_) => Ok(Vec::new()),
        }
    }

    /// The weight files in the order of their names: the single file, or the shards of the index.
    fn weight_files(&self) -> Result<Vec<PathBuf>> {
        for (single, index) in WEIGHT_FILES {
            let single = self.files.path(single);
            if single.is_file() {
                return Ok(vec![single]);
            }
            if let Some(index) = self.json(index)? {
                return self.shards(&index);
            }
        }
        Err(self.missing_file("model.safetensors, pytorch_model.bin or the index of their shards"))
    }

    /// The shards that an index names.
    fn shards(&self, index: &Section) -> Result<Vec<PathBuf>> {
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
    /// The files of a directory: those of the Hugging Face layout, or without `config.json` the one GGUF model in it.
    fn in_directory(directory: PathBuf) -> Result<Self> {
        if directory.join(CONFIG).is_file() {
            return Ok(Self::Directory(directory));
        }
        let models = language_models_in(&directory).map_err(|source| Error::Io { path: directory.clone(), source })?;
        match models.as_slice() {
            [] => Ok(Self::Directory(directory)),
            [model] => Ok(Self::Gguf(Box::new(GgufModel::open(model)?))),
            several => {
                let names = several.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy()).collect::<Vec<_>>();
                Err(Error::Gguf { path: directory, reason: format!("the directory has several models; name one of {}", names.join(", ")) })
            }
        }
    }

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
