//! The errors of this crate.

use std::path::PathBuf;

use crate::TokenSelection;

/// The image files that this build reads.
const FORMATS: &str = if cfg!(feature = "image-formats") {
    "PNG, JPEG, WebP, GIF, BMP and TIFF are supported"
} else {
    "PNG and JPEG are supported, with feature `image-formats` also WebP, GIF, BMP and TIFF"
};

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of sites, expertise, interventions or their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The failed action.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A name is not that of a site.
    #[error(
        "unknown site `{name}`{}; sites are named lm.layers.{{i}}.mlp.{{gate_proj|up_proj|down_proj}}",
        .nearest.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
    )]
    UnknownSite {
        /// The name as given.
        name: String,
        /// The closest known site, if one is close.
        nearest: Option<String>,
    },

    /// A vector has another length than the site has neurons.
    #[error("{site}: `{what}` has {got} values where the site has {expected} neurons; was it made for another model?")]
    Width {
        /// The site's name.
        site: String,
        /// The vector.
        what: &'static str,
        /// The number of neurons.
        expected: usize,
        /// The length found.
        got: usize,
    },

    /// Interventions with different conditions cannot be composed.
    #[error("the interventions act under different conditions, or only some under one; wear them one by one instead")]
    Conditions,

    /// A probe's bias is not finite.
    #[error("the bias of the probe is {bias}, expected a finite number")]
    Probe {
        /// The bias.
        bias: f32,
    },

    /// The threshold of a condition is out of range.
    #[error("the threshold of the condition is {threshold}, expected a score from 0 to 1")]
    Threshold {
        /// The threshold.
        threshold: f32,
    },

    /// No token selection has this name.
    #[error("unknown token selection `{name}`; expected one of {}", TokenSelection::ALL.map(TokenSelection::name).join(", "))]
    UnknownTokens {
        /// The name as given.
        name: String,
    },

    /// A value is outside its allowed range.
    #[error("{site}: `{what}` of neuron {neuron} is {value}, expected {expected}")]
    Value {
        /// The site's name.
        site: String,
        /// The vector.
        what: &'static str,
        /// The index of the neuron.
        neuron: usize,
        /// The value found.
        value: f32,
        /// The allowed range in words.
        expected: &'static str,
    },

    /// A strength or a schedule of strengths is malformed or out of range.
    #[error("strength `{strength}`: expected {expected}")]
    Strength {
        /// The strength as given.
        strength: String,
        /// The allowed values in words.
        expected: &'static str,
    },

    /// Interventions that act on different tokens cannot be composed.
    #[error("one intervention acts on the tokens `{first}`, another on `{second}`; wear them one by one at run time")]
    Tokens {
        /// The selection of the first.
        first: TokenSelection,
        /// The other selection.
        second: TokenSelection,
    },

    /// Interventions for different models cannot be composed.
    #[error("one intervention is for the model with config.json of SHA-256 {first}, another for that of {second}")]
    OtherModel {
        /// The hash in the first intervention.
        first: String,
        /// The other hash.
        second: String,
    },

    /// A file is not a safetensors file.
    #[error("{path}: not a readable safetensors file: {reason}; re-create it or copy it again")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },

    /// A safetensors file is not of the expected kind.
    #[error("{path}: metadata `format` is {got}, expected `{expected}`; is it another kind of file?")]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// The expected kind.
        expected: &'static str,
        /// The kind in the file, or `missing`.
        got: String,
    },

    /// A file was written by a newer version of the format.
    #[error("{path}: format version {got} is newer than {supported}, the newest this build reads; update it")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version found.
        got: u32,
        /// The newest supported version.
        supported: u32,
    },

    /// A metadata entry cannot be parsed.
    #[error("{path}: metadata `{key}` cannot be read: {reason}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// The reason.
        reason: String,
    },

    /// A tensor of a file has a wrong name, type or shape.
    #[error("{path}: tensor `{tensor}`: {reason}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The defect.
        reason: String,
    },

    /// A file or buffer is not an image.
    #[error("{name}: not a readable image: {reason}; {}", FORMATS)]
    Image {
        /// The file, or the source of the bytes.
        name: String,
        /// The defect.
        reason: String,
    },

    /// A file is not one that `torch.save` writes.
    #[error("{path}: not a readable torch file: {reason}")]
    NotTorch {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// The weights of a checkpoint are quantised in a format that is not read.
    #[error(
        "the weights are quantised {how}; this format is not read: dequantise the checkpoint (in transformers, `model.dequantize()` \
         and `save_pretrained`), or take the checkpoint in 16 bits or a GGUF file"
    )]
    Quantised {
        /// The method, or the tensor that shows it, in words.
        how: String,
    },

    /// No MLP projection has this name.
    #[error("unknown projection `{name}`; expected gate_proj, up_proj or down_proj")]
    UnknownProjection {
        /// The name as given.
        name: String,
    },
}
