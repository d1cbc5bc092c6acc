use std::path::PathBuf;

/// What can go wrong with sites, expertise, interventions and their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
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
        /// Which vector.
        what: &'static str,
        /// The number of neurons.
        expected: usize,
        /// The length found.
        got: usize,
    },

    /// Interventions with different probes cannot be one.
    #[error("the interventions are switched on by different probes, or only some by one; wear them one by one instead")]
    Probes,

    /// A probe's bias or gate is out of range.
    #[error("probe: bias {bias}, on {on}, off {off}; expected a finite bias and 0 <= off <= on <= 1")]
    Gate {
        /// The bias.
        bias: f32,
        /// The score that switches on.
        on: f32,
        /// The score that switches off.
        off: f32,
    },

    /// The dose of a probe is out of range.
    #[error("dose from strength {least} at log-odds {from} to full at {full}: the strength belongs in 0..=1, and the log-odds must grow")]
    Dose {
        /// The smallest strength.
        least: f32,
        /// The log-odds up to which it holds.
        from: f32,
        /// The log-odds of full strength.
        full: f32,
    },

    /// A value is outside its allowed range.
    #[error("{site}: `{what}` of neuron {neuron} is {value}, expected {expected}")]
    Value {
        /// The site's name.
        site: String,
        /// Which vector.
        what: &'static str,
        /// The index of the neuron.
        neuron: usize,
        /// The value found.
        value: f32,
        /// The allowed range in words.
        expected: &'static str,
    },

    /// A strength, or a schedule of strengths, is not one.
    #[error("strength `{strength}`: expected {expected}")]
    Strength {
        /// The strength as given.
        strength: String,
        /// What is allowed, in words.
        expected: &'static str,
    },

    /// Interventions that act on different token positions cannot be one.
    #[error("one intervention acts on `{first}` token positions, another on `{second}`; wear them one by one at run time")]
    Positions {
        /// The positions of the first.
        first: String,
        /// The other positions.
        second: String,
    },

    /// Interventions for different models cannot be one.
    #[error("one intervention is for the model with config.json of SHA-256 {first}, another for that of {second}")]
    OtherModel {
        /// The hash in the first.
        first: String,
        /// The other hash.
        second: String,
    },

    /// A file is not a safetensors file.
    #[error("{path}: not a readable safetensors file: {reason}; re-create it or copy it again")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },

    /// A safetensors file is not of the expected kind.
    #[error("{path}: metadata `format` is {got}, expected `{expected}`; is it another kind of file?")]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// The kind wanted.
        expected: &'static str,
        /// The kind found, or `missing`.
        got: String,
    },

    /// A file was written by a newer version of the format.
    #[error("{path}: format version {got} is newer than {supported}, the newest this build reads; update it")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version found.
        got: u32,
        /// The newest version understood.
        supported: u32,
    },

    /// A metadata entry cannot be understood.
    #[error("{path}: metadata `{key}` cannot be read: {reason}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Why not.
        reason: String,
    },

    /// A tensor of a file has a wrong name, type or shape.
    #[error("{path}: tensor `{tensor}`: {reason}")]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
}
