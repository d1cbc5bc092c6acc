//! The error type of the crate.

use std::path::PathBuf;

/// An error in loading, feeding or running a model.
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

    /// No model of this name exists, neither as a directory nor in the Hugging Face cache.
    #[error("`{name}` is no model directory{}", not_cached(.cache))]
    NotFound {
        /// The path or id.
        name: String,
        /// The cache, if the name can be a model id.
        cache: Option<PathBuf>,
    },

    /// A model could not be downloaded.
    #[error("{id}: cannot download: {reason}; gated models need HF_TOKEN in the environment")]
    Hub {
        /// The model id.
        id: String,
        /// The reason that the hub client gives.
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

    /// A JSON file of the model directory has an invalid value.
    #[error("{file}: `{key}`: {reason}")]
    Config {
        /// The file.
        file: String,
        /// The path of the key within the file.
        key: String,
        /// The reason.
        reason: String,
    },

    /// The checkpoint is of a kind that this build does not support.
    #[error("{what} `{got}` is not supported; supported: {}", .supported.join(", "))]
    Unsupported {
        /// The kind of thing that is unsupported: an architecture, a text model, an activation function.
        what: &'static str,
        /// The value found.
        got: String,
        /// The supported values.
        supported: &'static [&'static str],
    },

    /// A weight file is damaged or is not a safetensors file.
    #[error("{path}: not a readable safetensors file: {reason}; download or copy it again")]
    Weights {
        /// The file.
        path: PathBuf,
        /// The reason that the parser gives.
        reason: String,
    },

    /// A GGUF file is damaged, or is not of the kind it is used as.
    #[error("{path}: not a usable GGUF file: {reason}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// The checkpoint lacks a part of the model under every name that is tried.
    #[error("the checkpoint has no {part}; none of these tensors is in it: {}", .names.join(", "))]
    MissingTensor {
        /// The part.
        part: &'static str,
        /// The names tried.
        names: Vec<String>,
    },

    /// The checkpoint has no output head, and the configuration does not tie it to the embeddings.
    #[error(
        "the checkpoint has no output head ({}), and config.json does not say that the embeddings serve as one; copy the whole \
         checkpoint, or set `tie_word_embeddings` to true in config.json if they do", .names.join(", ")
    )]
    NoHead {
        /// The names tried.
        names: Vec<String>,
    },

    /// The logits of a token are not numbers.
    #[error(
        "prompt {prompt}: the logits of token {token} of the answer are not finite numbers, so that no token can be chosen; the weights \
         may be damaged, or a tap or intervention may produce values out of range"
    )]
    NotFinite {
        /// The id of the prompt: its index in the call, or the one given in [`GenerateOptions::ids`](crate::GenerateOptions::ids).
        prompt: usize,
        /// The index of the token in the answer.
        token: usize,
    },

    /// The tokenizer file cannot be loaded, or text cannot be encoded or decoded.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// The reason that the tokenizer gives.
        reason: String,
    },

    /// A chat template could not be rendered.
    #[error("chat template: {reason}")]
    ChatTemplate {
        /// The reason that the template engine gives.
        reason: String,
    },

    /// The prompt that a chat template renders lacks what a message says.
    #[error(
        "chat template {file}: the prompt that it renders does not contain the text of message {message} ({role}); leave the message out, \
         or set another template"
    )]
    MessageLost {
        /// The file of the template.
        file: String,
        /// The role of the message.
        role: &'static str,
        /// The index of the message in the conversation.
        message: usize,
    },

    /// A prompt cannot be processed.
    #[error("prompt {prompt}: {source}")]
    Prompt {
        /// The id of the prompt: its index in the call, or the one given in [`GenerateOptions::ids`](crate::GenerateOptions::ids).
        prompt: usize,
        /// The fault of the prompt.
        source: Box<Error>,
    },

    /// The number of image placeholders in a prompt is not the number of its images.
    #[error(
        "{placeholders} image placeholders in the text but {images} images given; if the text only speaks of the placeholder, the model \
         cannot tell: leave it out"
    )]
    ImageCount {
        /// The number of placeholders in the rendered text.
        placeholders: usize,
        /// The number of images.
        images: usize,
    },

    /// The inputs of a forward pass contradict each other or the model.
    #[error("model inputs: {reason}")]
    Inputs {
        /// The reason.
        reason: String,
    },

    /// A tap refused an output.
    #[error("tap at {site}: {reason}")]
    Tap {
        /// The site.
        site: sgm_core::Site,
        /// The reason that the tap gives.
        reason: String,
    },

    /// A defence around a model failed.
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

impl Error {
    /// The id of the prompt that the error is about, if it is about one.
    pub fn prompt(&self) -> Option<usize> {
        match self {
            Self::Prompt { prompt, .. } | Self::NotFinite { prompt, .. } => Some(*prompt),
            _ => None,
        }
    }

    /// The error of one prompt.
    pub(crate) fn of_prompt(self, prompt: usize) -> Self {
        Self::Prompt { prompt, source: Box::new(self) }
    }

    /// The same error, about the prompt of another id.
    pub(crate) fn renumbered(self, id: impl FnOnce(usize) -> usize) -> Self {
        match self {
            Self::Prompt { prompt, source } => Self::Prompt { prompt: id(prompt), source },
            other => other,
        }
    }
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

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;
