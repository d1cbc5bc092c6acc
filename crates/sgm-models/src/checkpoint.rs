use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use crate::config::Section;
use crate::gguf::GgufModel;
use crate::linear::Weights;
use crate::mapped::{MappedBackend, MappedWeights};
use crate::model::ModelInfo;
use crate::{Error, Result, decoder, hub, weights_identity};

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

/// What becomes of matrices stored in fewer bits than the model computes in, which on a CPU is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Matrices {
    /// They are widened as they load if all together then take up to 4 GiB, and kept otherwise.
    #[default]
    Auto,
    /// They are widened as they load: quantised ones are dequantised.
    Widen,
    /// They are kept. Those of 16 bits are widened at every product, which is slower and gives the same results bit for
    /// bit; quantised ones are multiplied with inputs rounded to 8 bits, block by block, as llama.cpp does.
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
    /// Language models of the GGUF architectures `llama`, `qwen2` and `gemma3` can be run. A LLaVA-1.5 is two files, of
    /// which the language model's is opened: the vision tower is the file in the same directory that has `mmproj` in its
    /// name, or that of [`with_mmproj`](Self::with_mmproj). Should that be of another family than LLaVA-1.5, the
    /// model takes text only. A GGUF file is memory-mapped, and must not change while there is a checkpoint of it.
    ///
    /// What is no directory may be a model id, `organisation/name` or `organisation/name@revision`: it is looked for in the
    /// local Hugging Face cache and, with feature `hub`, downloaded into it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is neither file nor directory nor id; [`Error::MissingFile`] when the directory has no
    /// `config.json`; [`Error::Config`] when that is not JSON, or a GGUF file's metadata lack something; [`Error::Gguf`]
    /// when such a file is damaged; [`Error::Unsupported`] for its architecture or tensor types; [`Error::Hub`] when a
    /// download fails.
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

    /// The language model of a GGUF file with the vision tower of another one, the `mmproj` of LLaVA-1.5.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`] when either is no such file, and as [`open`](Self::open).
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

    /// A model whose files are in memory under their usual names; nothing is written to disk.
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
        let config_sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { name, config, config_sha256, device: Device::Cpu, matrices: Matrices::Auto, chat_template: None, files })
    }

    /// Chooses what becomes of matrices stored in few bits.
    #[must_use]
    pub fn with_matrices(mut self, matrices: Matrices) -> Self {
        self.matrices = matrices;
        self
    }

    /// Gives the model another chat template, in Jinja, than it brings, or one where it brings none.
    ///
    /// `{% for message in messages %}{{ message.content }}{% endfor %}` shows a language model the words as they stand, as one wants it
    /// that has not been taught to converse.
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
    /// [`Error::Config`] when it names none.
    pub fn architecture(&self) -> Result<&str> {
        let names = self.config.get("architectures").and_then(|v| v.as_array());
        let name = names.and_then(|a| a.first()).and_then(|v| v.as_str());
        name.ok_or_else(|| self.config.error("architectures", "expected a list with the model's class name; is this a model directory?"))
    }

    pub(crate) fn config(&self) -> &Section {
        &self.config
    }

    /// The bytes of a file, or none if the checkpoint has no such file.
    pub(crate) fn read(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>> {
        self.files.read(file)
    }

    /// A JSON file, or none if the checkpoint has no such file.
    pub(crate) fn json(&self, file: &str) -> Result<Option<Section>> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        Section::parse(&self.files.path(file).display().to_string(), &bytes).map(Some)
    }

    /// The tokenizer, without padding and truncation of its own.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.files {
            Files::Gguf(model) => model.tokenizer(),
            _ => self.tokenizer_in(""),
        }
    }

    /// The same of a further tokenizer, in a directory within that of the model, such as `qformer_tokenizer/`.
    pub(crate) fn tokenizer_in(&self, directory: &str) -> Result<Tokenizer> {
        let bytes = self.read(&format!("{directory}tokenizer.json"))?.ok_or_else(|| Error::MissingFile {
            path: self.files.path(directory),
            wanted: "tokenizer.json (convert a slow tokenizer with transformers' AutoTokenizer and save_pretrained)",
        })?;
        let error = |e: tokenizers::Error| Error::Tokenizer { reason: e.to_string() };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(error)?;
        // Batches are padded here, where token kinds are known; a file's own settings would interfere.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(error)?;
        Ok(tokenizer)
    }

    /// The text of a special token by its name in `tokenizer_config.json`, such as `bos_token`.
    pub(crate) fn special_token(&self, name: &str) -> Result<Option<String>> {
        self.special_token_in("", name)
    }

    /// The same of a further tokenizer, as in [`tokenizer_in`](Self::tokenizer_in).
    pub(crate) fn special_token_in(&self, directory: &str, name: &str) -> Result<Option<String>> {
        let Some(config) = self.json(&format!("{directory}tokenizer_config.json"))? else { return Ok(None) };
        // A token is written as a string or as an object with its content.
        let token = config.get(name).and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
        Ok(token.map(str::to_owned))
    }

    pub(crate) fn missing(&self, wanted: &'static str) -> Error {
        Error::MissingFile { path: self.files.path(""), wanted }
    }

    /// What is known of the model, its sites aside.
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
            weights: self.weights_identity(),
            dtype: self.dtype()?.as_str().to_owned(),
            eos,
            sites: Vec::new(),
        })
    }

    /// What tells the weights from others, see [`ModelInfo::weights`].
    fn weights_identity(&self) -> Option<String> {
        match &self.files {
            Files::Directory(_) => weights_identity::of_files(&self.weight_files().ok()?).ok(),
            Files::Gguf(model) => weights_identity::of_files(&model.paths()).ok(),
            Files::Embedded(_) => weights_identity::of_bytes(&self.read(WEIGHTS).ok()??).ok(),
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
        Ok(decoder::compute_dtype(&self.device, stored))
    }

    /// The weights, matrices as they are stored where that serves.
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

    /// The weights by their names in the checkpoint, converted as they load to the dtype the model computes in.
    ///
    /// Those of GGUF files have their Hugging Face names, and quantised ones are dequantised.
    ///
    /// Files are memory-mapped: they must not change while the model loads.
    ///
    /// # Errors
    ///
    /// [`Error::MissingFile`] when there are none, [`Error::Weights`] when a file is damaged.
    pub fn tensors(&self) -> Result<VarBuilder<'static>> {
        let dtype = self.dtype()?;
        match &self.files {
            Files::Directory(_) => {
                let mapped = MappedWeights::open(&self.weight_files()?)?;
                Ok(VarBuilder::from_backend(Box::new(MappedBackend(Arc::new(mapped))), dtype, self.device.clone()))
            }
            Files::Gguf(model) => Ok(VarBuilder::from_backend(Box::new(model.weights()?), dtype, self.device.clone())),
            Files::Embedded(_) => {
                let bytes = self.read(WEIGHTS)?.ok_or_else(|| self.missing(WEIGHTS))?;
                let unreadable = |e: candle_core::Error| Error::Weights { path: self.files.path(WEIGHTS), reason: e.to_string() };
                match bytes {
                    Cow::Borrowed(bytes) => VarBuilder::from_slice_safetensors(bytes, dtype, &self.device).map_err(unreadable),
                    Cow::Owned(bytes) => VarBuilder::from_buffered_safetensors(bytes, dtype, &self.device).map_err(unreadable),
                }
            }
        }
    }

    /// The weight files in the order of their names: the one file, or the shards of the index.
    fn weight_files(&self) -> Result<Vec<PathBuf>> {
        let single = self.files.path(WEIGHTS);
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = self.json(INDEX)?.ok_or_else(|| self.missing("model.safetensors or model.safetensors.index.json"))?;
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
    /// The path of a file, for reading it or for messages about it.
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
