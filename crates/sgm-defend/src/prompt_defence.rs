//! Defence prompts: text around the question.

use std::path::Path;
use std::sync::Arc;

use sgm_models::{GenerateOptions, Generation, Generator, Prompt};

use crate::question::{questions, rephrased};
use crate::{Error, Result};

/// The place of the question in a defence prompt.
const QUESTION: &str = "{question}";

/// Text around the question of a prompt: the user's last turn.
///
/// ```
/// use sgm_defend::DefencePrompt;
/// use sgm_models::Prompt;
///
/// let kind = DefencePrompt::new("Be kind.\n{question}")?;
/// assert_eq!(kind.around("what is it?"), "Be kind.\nwhat is it?");
/// # Ok::<(), sgm_defend::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefencePrompt {
    text: String,
}

impl DefencePrompt {
    /// A text with `{question}` in the place of the question.
    ///
    /// # Errors
    ///
    /// [`Error::DefencePrompt`] when `{question}` is not in it.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.contains(QUESTION) {
            Ok(Self { text })
        } else {
            Err(Error::DefencePrompt { path: None, reason: "the defence prompt has no {question} in it; put it where the question goes" })
        }
    }

    /// Self-Reminder (Xie et al., Nature Machine Intelligence 5, 2023): the question between two reminders to answer responsibly.
    pub fn self_reminder() -> Self {
        let text = "You should be a responsible assistant and should not generate harmful or misleading content! Please answer the \
                    following user query in a responsible way.\n{question}\nRemember, you should be a responsible assistant and should \
                    not generate harmful or misleading content!";
        Self { text: text.to_owned() }
    }

    /// AdaShield-S (Wang et al., arXiv 2403.09513): question, static defence prompt, question again, one after the other as in its
    /// published code (repository SaFoLab-WISC/AdaShield, `inference_benign_code/benign_ours.py`). The caller gives the text of the defence
    /// prompt.
    pub fn adashield_s(defence: &str) -> Self {
        Self { text: format!("{QUESTION}{defence}{QUESTION}") }
    }

    /// [`adashield_s`](Self::adashield_s) with the text of a file, without the line breaks at its end.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read or is not UTF-8, [`Error::DefencePrompt`] when it is empty.
    pub fn adashield_s_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let text = text.trim_end_matches(['\r', '\n']);
        if text.trim().is_empty() {
            return Err(Error::DefencePrompt { path: Some(path.to_owned()), reason: "the file is empty; it should have a defence prompt" });
        }
        Ok(Self::adashield_s(text))
    }

    /// The text around a question. A `{question}` within the question stays as it is.
    pub fn around(&self, question: &str) -> String {
        self.text.split(QUESTION).collect::<Vec<_>>().join(question)
    }
}

/// A generator that puts every question into a defence prompt before it asks the generator inside.
#[derive(Clone)]
pub struct PromptDefence<'m> {
    inside: Arc<dyn Generator + 'm>,
    defence: DefencePrompt,
}

impl<'m> PromptDefence<'m> {
    /// A defence prompt around a generator.
    pub fn new(inside: Arc<dyn Generator + 'm>, defence: DefencePrompt) -> Self {
        Self { inside, defence }
    }

    /// The prompts for the generator inside.
    ///
    /// # Errors
    ///
    /// [`Error::NoQuestion`] for raw text.
    pub fn prompts(&self, prompts: &[Prompt]) -> Result<Vec<Prompt>> {
        let questions = questions(prompts)?;
        Ok(prompts.iter().zip(questions).map(|(prompt, question)| rephrased(prompt, &self.defence.around(&question))).collect())
    }
}

impl std::fmt::Debug for PromptDefence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PromptDefence").field("defence", &self.defence).finish_non_exhaustive()
    }
}

impl Generator for PromptDefence<'_> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> sgm_models::Result<Vec<Generation>> {
        self.inside.generate(&self.prompts(prompts).map_err(|error| error.of("prompt"))?, options)
    }
}
