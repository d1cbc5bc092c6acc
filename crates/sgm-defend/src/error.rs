//! Errors of this crate.

use std::path::PathBuf;

/// An error of a check, a reward model or a similarity.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Errors of building a defence and of its answers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model reports an error.
    #[error(transparent)]
    Model(#[from] sgm_models::Error),

    /// The model cannot wear the glasses.
    #[error(transparent)]
    Suppress(#[from] sgm_suppress::Error),

    /// A local scorer cannot be fitted.
    #[error(transparent)]
    Regression(#[from] sgm_score::Error),

    /// A prompt is not a conversation, so that its question cannot be found.
    #[error("prompt {prompt} has no question that a defence could rephrase: {reason}; make it with `Prompt::user`")]
    NoQuestion {
        /// The prompt's index in the call.
        prompt: usize,
        /// Why it has no question.
        reason: &'static str,
    },

    /// A generator gave another number of answers than there were prompts.
    #[error("the {pass} pass was asked {prompts} prompts and gave {answers} answers")]
    AnswerCount {
        /// The pass.
        pass: crate::PassName,
        /// The number of prompts.
        prompts: usize,
        /// The number of answers.
        answers: usize,
    },

    /// A check, a reward model or a similarity failed.
    #[error("{scorer}: {source}")]
    Scorer {
        /// The scorer or check that failed.
        scorer: &'static str,
        /// Its error.
        source: BoxError,
    },

    /// A reward model or a similarity gave values that are not scores.
    #[error("{scorer}: {reason}")]
    Score {
        /// The scorer.
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
        /// The allowed range.
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

    /// A text is not a defence prompt.
    #[error("{}{reason}", .path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default())]
    DefencePrompt {
        /// The file, if it came from one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// There is no defence of this name.
    #[error("unknown defence `{name}`; known are {}, alone or joined by +", crate::defence::NAMES.join(", "))]
    UnknownDefence {
        /// The name as given.
        name: String,
    },

    /// Defences cannot be stacked like this.
    #[error("`{stack}`: {reason}")]
    Stack {
        /// The stack as given.
        stack: String,
        /// What is wrong.
        reason: &'static str,
    },

    /// A defence needs a resource that is missing.
    #[error("`{defence}` needs {resource}")]
    MissingResource {
        /// The defence.
        defence: &'static str,
        /// The missing resource.
        resource: &'static str,
    },

    /// A local scorer cannot be fitted.
    #[error("{scorer} cannot be fitted: {reason}")]
    Fit {
        /// The scorer.
        scorer: &'static str,
        /// The reason.
        reason: String,
    },
}

impl Error {
    /// This error as an error of a [`Generator`](sgm_models::Generator); an error of the model stays as it is.
    pub(crate) fn of(self, defence: &str) -> sgm_models::Error {
        match self {
            Self::Model(error) => error,
            other => sgm_models::Error::Defence { defence: defence.to_owned(), source: Box::new(other) },
        }
    }
}
