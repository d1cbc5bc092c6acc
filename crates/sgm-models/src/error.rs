use std::path::PathBuf;

/// What can go wrong when a model is loaded, fed or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{path}: cannot read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// There is no model of this name, neither a directory nor in the Hugging Face cache.
    #[error("`{name}` is no model directory{}", not_cached(.cache))]
    NotFound {
        /// The path or id.
        name: String,
        /// The cache, if the name can be a model id.
        cache: Option<PathBuf>,
    },

    /// A model cannot be downloaded.
    #[error("{id}: cannot download: {reason}; gated models need HF_TOKEN in the environment")]
    Hub {
        /// The model id.
        id: String,
        /// What the hub client says.
        reason: String,
    },

    /// A model directory lacks a file.
    #[error("{path}: the model directory has no {wanted}; copy the whole checkpoint directory, with its tokenizer and processor files")]
    MissingFile {
        /// The directory.
        path: PathBuf,
        /// The file, or the alternatives.
        wanted: &'static str,
    },

    /// A JSON file of the model directory cannot be understood.
    #[error("{file}: `{key}`: {reason}")]
    Config {
        /// The file.
        file: String,
        /// The key's path within it.
        key: String,
        /// What is wrong.
        reason: String,
    },

    /// The checkpoint is of a kind this build has no adapter for.
    #[error("{what} `{got}` is not supported; supported: {}", .supported.join(", "))]
    Unsupported {
        /// What is unsupported: an architecture, a text model, an activation function.
        what: &'static str,
        /// The value found.
        got: String,
        /// The values that would work.
        supported: &'static [&'static str],
    },

    /// A weight file is damaged or is not safetensors.
    #[error("{path}: not a readable safetensors file: {reason}; download or copy it again")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },

    /// A GGUF file is damaged, or is not what it is used as.
    #[error("{path}: not a usable GGUF file: {reason}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// The checkpoint lacks a part of the model under any of the names it is known by.
    #[error("the checkpoint has no {part}; none of these tensors is in it: {}", .names.join(", "))]
    MissingTensor {
        /// The part.
        part: &'static str,
        /// The names tried.
        names: Vec<String>,
    },

    /// The tokenizer file cannot be loaded, or text cannot be encoded or decoded.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What the tokenizer says.
        reason: String,
    },

    /// A chat template cannot be rendered.
    #[error("chat template: {reason}")]
    ChatTemplate {
        /// What the template engine says.
        reason: String,
    },

    /// A file or buffer is not an image.
    #[error("{name}: not a readable image: {reason}; PNG and JPEG are supported")]
    Image {
        /// The file, or where the bytes came from.
        name: String,
        /// What the decoder says.
        reason: String,
    },

    /// A prompt has another number of image placeholders than of images.
    #[error("prompt {prompt}: {placeholders} image placeholders in the text but {images} images given")]
    ImageCount {
        /// The prompt's index in the batch.
        prompt: usize,
        /// Placeholders in the rendered text.
        placeholders: usize,
        /// Images given.
        images: usize,
    },

    /// The inputs of a forward pass contradict each other or the model.
    #[error("model inputs: {reason}")]
    Inputs {
        /// What is wrong.
        reason: String,
    },

    /// A tap refused what it saw.
    #[error("tap at {site}: {reason}")]
    Tap {
        /// The site.
        site: sgm_core::Site,
        /// What the tap says.
        reason: String,
    },

    /// A defence around a model failed by itself.
    #[error("defence {defence}: {source}")]
    Defence {
        /// The defence.
        defence: String,
        /// Its error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),

    /// A site or an intervention is wrong.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),
}

fn not_cached(cache: &Option<PathBuf>) -> String {
    match cache {
        None => String::new(),
        Some(cache) if cfg!(feature = "hub") => {
            format!(", and not in the Hugging Face cache {}; unset HF_HUB_OFFLINE to download it", cache.display())
        }
        Some(cache) => {
            format!(", and not in the Hugging Face cache {}; download it with `hf download`, or build with feature `hub`", cache.display())
        }
    }
}
