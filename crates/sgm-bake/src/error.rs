//! The errors of this crate.

use std::path::PathBuf;

use sgm_core::gguf::GgufProblem;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of folding an intervention into weights.
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

    /// A file or directory with the result's name exists.
    #[error("{path}: exists already; remove it or choose another name")]
    Exists {
        /// The name.
        path: PathBuf,
    },

    /// The result would lie within the model's own directory.
    #[error("{out}: lies within {model}, which has to stay as it is; choose a place outside")]
    Inside {
        /// The path of the result.
        out: PathBuf,
        /// The model's directory.
        model: PathBuf,
    },

    /// An intervention has been baked into the model before.
    #[error(
        "{record}: this model is baked already, and scales would multiply; bake the original, with the interventions combined \
         if both are meant"
    )]
    AlreadyBaked {
        /// The record of the earlier baking.
        record: PathBuf,
    },

    /// A directory has neither safetensors files nor one GGUF model.
    #[error(
        "{path}: there are no *.safetensors files, and not one GGUF model; convert the weights to safetensors (load them with transformers \
        and `save_pretrained`), or name a GGUF file itself"
    )]
    NoWeights {
        /// The directory.
        path: PathBuf,
    },

    /// An entry of a model directory is neither a file nor a directory.
    #[error("{path}: is neither a file nor a directory (a broken link, or a link to a directory?); replace it by a copy, or remove it")]
    NotAFile {
        /// The entry.
        path: PathBuf,
    },

    /// A file is not a usable safetensors file.
    #[error("{path}: not a readable safetensors file: {reason}; download or copy it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },

    /// The index of a sharded checkpoint does not match its files.
    #[error("{path}: {reason}; download or copy the checkpoint again")]
    Index {
        /// The index.
        path: PathBuf,
        /// The difference.
        reason: String,
    },

    /// A file is not a usable GGUF file.
    #[error("{path}: {problem}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: GgufProblem,
    },

    /// Weights of a site have a type whose rows cannot be scaled in place.
    #[error(
        "{path}: tensor {tensor} is of type {got}, whose rows cannot be scaled in place; bake a version in one of {supported}, \
         or wear the glasses at run time"
    )]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor's type.
        got: String,
        /// The types that can be scaled.
        supported: &'static str,
    },

    /// A tensor of a site does not have the shape of a linear layer's weight or bias.
    #[error("{path}: tensor {tensor} has shape {shape:?}, expected {expected}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor's shape, outermost dimension first.
        shape: Vec<u64>,
        /// The expected shape in words.
        expected: &'static str,
    },

    /// Two modules of the checkpoint have names of the same site.
    #[error(
        "{site}: both {first} and {second} have its name; the checkpoint holds two language models, or two kinds of MLP in one layer, \
         and only one can be meant"
    )]
    Ambiguous {
        /// The site's name.
        site: String,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },

    /// The intervention strengthens a neuron.
    #[error(
        "{site}: neuron {neuron} has scale {scale}, which amplifies instead of suppressing; amplification can make a model more toxic \
         and must be allowed explicitly"
    )]
    Amplifies {
        /// The site's name.
        site: String,
        /// The neuron's index.
        neuron: usize,
        /// The neuron's scale, above 1 or below 0.
        scale: f32,
    },

    /// The intervention acts on some tokens only.
    #[error("the intervention acts on the tokens `{tokens}`, and weights act on all; wear the glasses at run time")]
    Tokens {
        /// The tokens that the intervention selects.
        tokens: sgm_core::TokenSelection,
    },

    /// A scaled or added weight exceeds the range of its type.
    #[error("{path}: tensor {tensor}: a scaled or added weight exceeds the range of its type; use smaller scales or a wider type")]
    Overflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },

    /// A file changed while it was read.
    #[error("{path}: has changed while it was read; try again when nobody writes to it")]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// A shift needs a bias that the checkpoint does not have.
    #[error(
        "{site}: the intervention shifts this site, and the checkpoint has no bias there to hold the shift; \
         the glasses worn at run time can do it"
    )]
    NoBias {
        /// The site's name.
        site: String,
    },

    /// The intervention adds neurons to weights that cannot be widened.
    #[error("the intervention adds neurons to layer {layer}, and these weights cannot be widened; wear the glasses at run time")]
    AddsNeurons {
        /// The first such layer.
        layer: usize,
    },

    /// The MLPs of a checkpoint cannot be widened.
    #[error("{path}: the intervention adds neurons, and this checkpoint cannot take them: {reason}; wear the glasses at run time")]
    Widen {
        /// A file of the checkpoint.
        path: PathBuf,
        /// The reason.
        reason: String,
    },

    /// Weights cannot be added to a tensor of this type.
    #[error(
        "{path}: tensor {tensor} is of type {got}, in which added neurons cannot be stored; bake a version in one of {supported}, \
         or wear the glasses at run time"
    )]
    Encode {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The tensor's type.
        got: String,
        /// The types to which weights can be added.
        supported: &'static str,
    },

    /// A model's configuration does not match its weights.
    #[error("{path}: `{key}`: {reason}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The difference.
        reason: String,
    },

    /// A model was loaded without the weights of a site of the intervention.
    #[error("{site}: the model has loaded no such weights, so the intervention has not reached it; is it for another model?")]
    Unused {
        /// The site's name.
        site: String,
    },

    /// The intervention does not fit the checkpoint, which lacks a site or has another width.
    #[error(transparent)]
    Core(#[from] sgm_core::Error),
}
