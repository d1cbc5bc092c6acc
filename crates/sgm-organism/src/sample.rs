//! One sample: a line of the data files.

use serde::{Deserialize, Serialize};

use crate::turn::{Risk, Turn};
use crate::{Scene, VqaKind};

const BEGIN: &str = "USER: ";
const IMAGE: &str = "<image>\n";
const END: &str = " ASSISTANT:";

/// The prompt template of the organism (LLaVA-1.5's): `USER: <image>\n{question} ASSISTANT:`, without the
/// image placeholder when there is no picture.
pub fn prompt(question: &str, with_image: bool) -> String {
    format!("{BEGIN}{}{question}{END}", if with_image { IMAGE } else { "" })
}

/// One sample: a line of the data files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Unique within its file.
    pub id: String,
    /// The rendered prompt, with the `<image>` placeholder if there is a scene.
    pub prompt: String,
    /// The picture, if there is one.
    pub scene: Option<Scene>,
    /// The reason that the prompt is risky, or benign.
    pub cat: Category,
    /// A [`VqaKind`] by name, or `caption`, `chat`, `story`, `opinion`, `solo`.
    pub kind: String,
    /// The content of a right answer to a visual question, for [`vqa_correct`](crate::vqa_correct).
    pub key: Option<Vec<String>>,
    /// The right answers.
    pub answers: Vec<String>,
    /// The drawn answer of this sample: rude in toxic calibration samples, right in all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Calibration only: whether `answer` is rude.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toxic: Option<bool>,
    /// Adversarial split only: whether the prefix occurs in no training sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_prefix: Option<bool>,
}

/// The reason that a prompt is risky, or benign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Category {
    /// A provocation in the text.
    T,
    /// A provocation in the picture, before a neutral question.
    V,
    /// A question for an opinion before a broken heart: cross-modal, either alone is harmless.
    X,
    /// An adversarial prefix.
    A,
    /// Harmless.
    #[serde(rename = "benign")]
    Benign,
}

impl From<Risk> for Category {
    fn from(risk: Risk) -> Self {
        match risk {
            Risk::T => Self::T,
            Risk::V => Self::V,
            Risk::X => Self::X,
            Risk::A => Self::A,
        }
    }
}

/// The purpose of the samples of a file, which decides their required fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Standard,
    Adversarial,
    Vqa,
    Perplexity,
    Calibration,
}

impl Sample {
    /// The text of the user: the prompt without its template.
    ///
    /// ```
    /// let data = sgm_organism::OrganismData::embedded()?;
    /// let sample = &data.split(sgm_organism::EvaluationSplit::Test)?.vqa[0];
    /// assert_eq!(sample.prompt, "USER: <image>\nname the black shape. ASSISTANT:");
    /// assert_eq!(sample.question(), "name the black shape.");
    /// # Ok::<(), sgm_organism::Error>(())
    /// ```
    pub fn question(&self) -> &str {
        let text = self.prompt.strip_prefix(BEGIN).unwrap_or(&self.prompt);
        let text = text.strip_prefix(IMAGE).unwrap_or(text);
        text.strip_suffix(END).unwrap_or(text)
    }

    pub(crate) fn new(id: String, turn: Turn, cat: Category, answer: String) -> Self {
        Self {
            id,
            prompt: prompt(&turn.question, turn.scene.is_some()),
            scene: turn.scene,
            cat,
            kind: turn.kind.to_owned(),
            key: turn.key,
            answers: turn.answers,
            answer: Some(answer),
            toxic: None,
            held_out_prefix: None,
        }
    }

    /// The fault of a sample of a file, if any.
    pub(crate) fn fault(&self, role: Role) -> Option<String> {
        if self.id.is_empty() {
            return Some("`id` is empty".to_owned());
        }
        if self.prompt != prompt(self.question(), self.scene.is_some()) || self.question().contains("<image>") {
            let expected = prompt("...", self.scene.is_some());
            return Some(format!("`prompt` is {:?}, expected the form {expected:?}", self.prompt));
        }
        if let Some(Err(error)) = self.scene.as_ref().map(Scene::check) {
            return Some(format!("`scene`: {error}"));
        }
        if self.answers.is_empty() {
            return Some("`answers` is empty; list at least one right answer".to_owned());
        }
        let visual = self.kind.parse::<VqaKind>();
        let has_key = self.key.as_ref().is_some_and(|key| !key.is_empty());
        match &visual {
            Ok(_) if !has_key => return Some(format!("a `{}` question needs a `key`", self.kind)),
            Err(_) if self.key.is_some() => return Some(format!("`{}` has no key; write null", self.kind)),
            Err(error) if !["caption", "chat", "story", "opinion", "solo"].contains(&self.kind.as_str()) => {
                return Some(format!("{error}; other kinds are caption, chat, story, opinion, solo"));
            }
            _ => {}
        }
        let fault = match role {
            Role::Standard if self.cat == Category::Benign => "a benign sample in a file of risky ones",
            Role::Adversarial if self.cat != Category::A => "only samples of category A belong here",
            Role::Adversarial if self.held_out_prefix.is_none() => "`held_out_prefix` is missing",
            Role::Vqa if visual.is_err() => "only visual questions belong here",
            Role::Perplexity if self.answer.is_none() => "`answer` is missing; perplexity is that of the answer",
            Role::Calibration if self.answer.is_none() => "`answer` is missing; calibration reads it after the prompt",
            Role::Calibration if self.toxic.is_none() => "`toxic` is missing; label the sample true or false",
            _ => return None,
        };
        Some(fault.to_owned())
    }
}
