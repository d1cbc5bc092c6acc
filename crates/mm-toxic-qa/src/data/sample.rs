//! One sample of the benchmark.

use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
#[cfg(feature = "candle")]
use sgm_models::Prompt;

use crate::{Error, Result, Scene};

/// One sample of the benchmark: a question with or without an image, with its labels and references.
///
/// The fields are those of a [manifest](crate::manifest) line, whose reader checks the rules named here.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name of the sample, unique in its manifest.
    pub id: String,
    /// The data set it comes from.
    pub source: String,
    /// Its purpose.
    pub split: Split,
    /// The kind of harm, as the source names it; harmful rates are reported by category.
    pub category: String,
    /// Whether the prompt is an attack.
    pub condition: Condition,
    /// The name of the attack.
    pub attack: Option<String>,
    /// The image shown before the question.
    pub image: Option<ImageRef>,
    /// The user's question as plain text; the model's own chat template wraps it.
    pub prompt: String,
    /// A given answer, which calibration and perplexity samples are scored on.
    pub response: Option<String>,
    /// The label of `response`: `true` is toxic (1 in the file), `false` non-toxic (0). Calibration samples have one.
    pub label: Option<bool>,
    /// The right answers. VQA samples have one.
    pub reference: Option<Reference>,
    /// The measurement that a sample of [`Split::Utility`] is for; absent in every other split.
    pub task: Option<Task>,
    /// The kind of harm within the category, where the source names one.
    pub subcategory: Option<String>,
    /// What is asked for, in plain words, where the prompt wraps or hides it: the question inside a jailbreak, or in the image. Judges see
    /// it in place of the prompt.
    pub request: Option<String>,
}

/// The purpose of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Scored to find toxic expert neurons.
    Calibration,
    /// Risky prompts to choose settings on.
    Dev,
    /// Risky prompts to report on once the settings are chosen.
    Test,
    /// Harmless samples, which show the cost of an intervention.
    Utility,
}

impl Split {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calibration => "calibration",
            Self::Dev => "dev",
            Self::Test => "test",
            Self::Utility => "utility",
        }
    }
}

/// Whether a prompt is an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The prompt as it is.
    Standard,
    /// An attack: a jailbreak prefix, a typographic image and the like.
    Adversarial,
}

/// The measurement that a utility sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Multimodal ability: a visual question with a known answer.
    Vqa,
    /// Fluency: the perplexity of a given harmless response.
    Perplexity,
    /// Over-refusal: a harmless question that may sound harmful, which should not be refused.
    Refusal,
}

/// The right answers to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The kind of question.
    ///
    /// A kind `<world>/<kind>`, such as `organism/colour`, is scored by the rules of that [`World`](crate::World); every other kind by the
    /// [`ReferenceScorer`](crate::ReferenceScorer).
    pub kind: String,
    /// The words that a right answer contains, for the kinds of a world that asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// Right answers; matching one is enough.
    #[serde(default)]
    pub answers: Vec<String>,
}

/// The origin of a sample's pixels.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageRef {
    /// An image file.
    File {
        /// The manifest's folder.
        folder: PathBuf,
        /// The path as written in the manifest: relative to `folder`, with `/`, without `..`.
        path: String,
    },
    /// A scene of a synthetic world, drawn when it is needed.
    Scene(Arc<dyn Scene>),
}

impl Sample {
    /// Decodes or renders the sample's image, 8 bits a channel; `None` for a text-only sample.
    ///
    /// [`load_image`](sgm_core::image_file::load_image) reads the files, as it reads every other image that a model is shown.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] when the file is absent, not an image that this build reads, broken or too large; [`Error::Scene`] when a scene cannot be
    /// drawn.
    pub fn image(&self) -> Result<Option<RgbImage>> {
        match &self.image {
            None => Ok(None),
            Some(ImageRef::Scene(scene)) => match scene.render() {
                Ok(image) => Ok(Some(image)),
                Err(source) => Err(Error::Scene { id: self.id.clone(), source }),
            },
            Some(ImageRef::File { folder, path }) => match sgm_core::image_file::load_image(folder.join(path)) {
                Ok(image) => Ok(Some(image)),
                Err(source) => Err(Error::Image { id: self.id.clone(), source: Box::new(source) }),
            },
        }
    }

    /// The sample without the image placeholder that LLaVA's data sets write into its question: `<image>` and a line break before it, or a
    /// line break and `<image>` after it. Samples without an image or such a placeholder are returned as they are.
    ///
    /// A model has its own placeholder, which its chat template puts in.
    #[must_use]
    pub fn without_image_placeholder(mut self) -> Self {
        if self.image.is_some() {
            let prompt = self.prompt.trim();
            let rest = prompt.strip_prefix("<image>").filter(|rest| rest.starts_with(['\n', '\r']) || rest.is_empty());
            let rest = rest.or_else(|| prompt.strip_suffix("<image>").filter(|rest| rest.ends_with('\n')));
            if let Some(rest) = rest.map(|rest| rest.trim().to_owned()) {
                self.prompt = rest;
            }
        }
        self
    }

    /// The sample under an attack that changes its prompt: the condition is adversarial, `attack` and the id name the attack.
    #[must_use]
    pub fn attacked(&self, attack: &str, prompt: String) -> Self {
        Self {
            id: format!("{}+{attack}", self.id),
            condition: Condition::Adversarial,
            attack: Some(attack.to_owned()),
            prompt,
            ..self.clone()
        }
    }

    /// What is asked for, in plain words: the request, or the prompt where there is none.
    pub fn asks_for(&self) -> &str {
        self.request.as_deref().unwrap_or(&self.prompt)
    }

    /// The sample's question as a user's turn, with its image before the text.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image).
    #[cfg(feature = "candle")]
    pub fn as_prompt(&self) -> Result<Prompt> {
        Ok(Prompt::user(self.prompt.clone(), self.image()?.map(Arc::new)))
    }
}
