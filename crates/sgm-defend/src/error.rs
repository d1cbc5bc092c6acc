use std::path::PathBuf;

/// Any error, as what plugs into a defence reports it: a check, a reward model, a similarity.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong when a defence is put together or answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model reports an error.
    #[error(transparent)]
    Model(#[from] sgm_models::Error),

    /// The model cannot wear the glasses, or a local scorer cannot be fitted.
    #[error(transparent)]
    Suppress(#[from] sgm_suppress::Error),

    /// A prompt is no conversation, so that its question cannot be found.
    #[error("prompt {prompt} has no question that a defence could put in other words: {reason}; make it with `Prompt::user`")]
    NoQuestion {
        /// The prompt's index in the call.
        prompt: usize,
        /// What it lacks.
        reason: &'static str,
    },

    /// A generator gave another number of answers than it was asked for.
    #[error("the {pass} pass was asked {prompts} prompts and gave {answers} answers")]
    AnswerCount {
        /// The pass.
        pass: crate::PassName,
        /// The prompts.
        prompts: usize,
        /// The answers.
        answers: usize,
    },

    /// A check, a reward model or a similarity failed.
    #[error("{scorer}: {source}")]
    Scorer {
        /// What failed.
        scorer: &'static str,
        /// Its error.
        source: BoxError,
    },

    /// A reward model or a similarity gave what no score can be.
    #[error("{scorer}: {reason}")]
    Score {
        /// What gave it.
        scorer: &'static str,
        /// What is wrong.
        reason: String,
    },

    /// A setting is out of range.
    #[error("{setting} is {value}, expected {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// The allowed range in words.
        expected: &'static str,
    },

    /// A defence prompt cannot be read.
    #[error("{path}: cannot read the defence prompt: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },

    /// A defence prompt is of no use.
    #[error("{}{reason}", .path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default())]
    DefencePrompt {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// There is no defence of this name.
    #[error("unknown defence `{name}`; known are {}, alone or joined by +", crate::Recipe::NAMES.join(", "))]
    UnknownDefence {
        /// The name as given.
        name: String,
    },

    /// A recipe puts defences together in a way that makes no sense.
    #[error("`{recipe}`: {reason}")]
    Recipe {
        /// The recipe as given.
        recipe: String,
        /// What is wrong.
        reason: &'static str,
    },

    /// A recipe lacks what one of its defences needs.
    #[error("`{defence}` needs {ingredient}")]
    Ingredient {
        /// The defence.
        defence: &'static str,
        /// What is not there.
        ingredient: &'static str,
    },

    /// A local scorer cannot be fitted.
    #[error("{scorer} cannot be fitted: {reason}")]
    Fit {
        /// The scorer.
        scorer: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// This error as that of a [`Generator`](sgm_models::Generator); what the model reported stays what it was.
    pub(crate) fn of(self, defence: &str) -> sgm_models::Error {
        match self {
            Self::Model(error) => error,
            other => sgm_models::Error::Defence { defence: defence.to_owned(), source: Box::new(other) },
        }
    }
}
