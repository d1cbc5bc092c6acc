use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use sgm_models::Prompt;
use sgm_organism::Scene;

use crate::source::ORGANISM;
use crate::{Error, Result};

/// One sample of the benchmark: a question with or without an image, and what is known about it.
///
/// The fields are those of a [manifest](crate::manifest) line; the reader checks the rules named here.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The sample's own name, unique in its manifest.
    pub id: String,
    /// The data set it comes from.
    pub source: String,
    /// What it is for.
    pub split: Split,
    /// The kind of harm, in the source's own words; harmful rates are reported by category.
    pub category: String,
    /// Whether the prompt is dressed up as an attack.
    pub condition: Condition,
    /// The name of the attack.
    pub attack: Option<String>,
    /// The image shown before the question.
    pub image: Option<ImageRef>,
    /// The user's question as plain text; the model's own chat template wraps it.
    pub prompt: String,
    /// A given answer: what calibration and perplexity samples are scored on.
    pub response: Option<String>,
    /// Of `response`: `true` is toxic (1 in the file), `false` non-toxic (0). Calibration samples have one.
    pub label: Option<bool>,
    /// What a right answer is. VQA samples have one.
    pub reference: Option<Reference>,
    /// What a sample of [`Split::Utility`] measures; absent in every other split.
    pub task: Option<Task>,
}

/// What a sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Scored to find toxic expert neurons.
    Calibration,
    /// Risky prompts to choose settings on.
    Dev,
    /// Risky prompts to report on, once the settings are chosen.
    Test,
    /// Harmless samples that show what suppression costs.
    Utility,
}

/// Whether a prompt is dressed up as an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// The prompt as it is.
    Standard,
    /// An attack: a jailbreak prefix, a typographic image and the like.
    Adversarial,
}

/// What a utility sample measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Multimodal ability: a visual question with a known answer.
    Vqa,
    /// Fluency: the perplexity of a given harmless response.
    Perplexity,
}

/// What a right answer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The kind of question.
    ///
    /// `organism/<kind>` are questions about the synthetic world and are scored by its own rules; every
    /// other kind is scored by normalised exact match with `answers`.
    pub kind: String,
    /// The words that a right answer to a question about the synthetic world contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Vec<String>>,
    /// Right answers; matching one is enough.
    #[serde(default)]
    pub answers: Vec<String>,
}

/// Where the pixels of a sample come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageRef {
    /// A PNG or JPEG file.
    File {
        /// The manifest's folder.
        folder: PathBuf,
        /// The path as written in the manifest: relative to `folder`, with `/`, without `..`.
        path: String,
    },
    /// A scene of the synthetic world, rendered when it is needed.
    Scene(Scene),
}

impl Sample {
    /// Decodes or renders the sample's image, 8 bits a channel; `None` for a text-only sample.
    ///
    /// Files are read as [`sgm_models::load_image`] reads them, so that a model sees what it would see
    /// of any other image.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] when the file is absent, no PNG or JPEG image, broken or too large;
    /// [`Error::Organism`] when a scene is impossible.
    pub fn image(&self) -> Result<Option<RgbImage>> {
        match &self.image {
            None => Ok(None),
            Some(ImageRef::Scene(scene)) => Ok(Some(scene.render()?)),
            Some(ImageRef::File { folder, path }) => match sgm_models::load_image(folder.join(path)) {
                Ok(image) => Ok(Some(image)),
                Err(source) => Err(Error::Image { id: self.id.clone(), source: Box::new(source) }),
            },
        }
    }

    /// What provokes in a risky prompt of the synthetic world, such as `angry face` or `rude mode on.`: a finer category, found by
    /// [`sgm_organism::trigger::find`] from scene and question. `None` for harmless prompts and for those of other data sets.
    pub fn trigger(&self) -> Option<String> {
        let scene = match &self.image {
            Some(ImageRef::Scene(scene)) => Some(scene),
            _ => None,
        };
        let found = if self.source == ORGANISM { sgm_organism::trigger::find(&self.prompt, scene) } else { None };
        found.map(|(_, name)| name)
    }

    /// The sample's question as a user's turn, with its image before the text.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image).
    pub fn as_prompt(&self) -> Result<Prompt> {
        Ok(Prompt::user(self.prompt.clone(), self.image()?.map(Arc::new)))
    }
}
