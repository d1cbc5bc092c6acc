//! Metadata of expertise and intervention files: the origin of their contents.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The origin of an expertise or an intervention.
///
/// Each entry is one safetensors metadata string: plain text, or JSON. Unknown entries are kept in [`other`](Self::other) and written back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    /// The model the neurons belong to, by id or directory name.
    pub base_model: Option<String>,
    /// The model's revision, such as a commit hash.
    pub base_model_revision: Option<String>,
    /// SHA-256 of the model's `config.json`, in hex.
    pub config_sha256: Option<String>,
    /// The score of the expertise, for example `auroc`.
    pub scorer: Option<String>,
    /// The method that produced the intervention, with its parameters, as JSON; `operator` in the file.
    pub method: Option<serde_json::Value>,
    /// The pooling of responses over tokens, for example `max/all`.
    pub pooling: Option<String>,
    /// The calibration data.
    pub calibration: Option<Calibration>,
    /// The software that wrote the file.
    pub created_by: Option<String>,
    /// The licence of the file.
    pub licence: Option<String>,
    /// All other entries by key.
    pub other: BTreeMap<String, String>,
}

/// The samples on which expertise was measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Calibration {
    /// The data set's name.
    pub dataset: String,
    /// SHA-256 of the samples, in hex.
    pub sha256: String,
    /// The number of toxic samples (label 1).
    pub n_toxic: usize,
    /// The number of non-toxic samples (label 0).
    pub n_non_toxic: usize,
    /// The source of the labels: a data set's field, a judge's id.
    pub label_source: String,
    /// How well parts that should tell nothing of the label predict it, each alone, as AUROCs: the prompt, the image, lengths.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shortcuts: BTreeMap<String, f64>,
}

/// The AUROC above which a shortcut is warned of.
pub const SHORTCUT_AUROC: f64 = 0.7;

/// The warning about the [shortcuts](Calibration::shortcuts) above [`SHORTCUT_AUROC`]; `None` if there are none.
///
/// ```
/// # use std::collections::BTreeMap;
/// let shortcuts = BTreeMap::from([("prompt".to_owned(), 0.98), ("image".to_owned(), 0.6)]);
/// assert!(sgm_core::shortcut_warning(&shortcuts).unwrap().contains("prompt (AUROC 0.980)"));
/// ```
pub fn shortcut_warning(shortcuts: &BTreeMap<String, f64>) -> Option<String> {
    let above = shortcuts.iter().filter(|(_, auroc)| **auroc > SHORTCUT_AUROC);
    let named: Vec<String> = above.map(|(name, auroc)| format!("{name} (AUROC {auroc:.3})")).collect();
    (!named.is_empty()).then(|| {
        let by = named.join(", ");
        format!(
            "Warning: the label of the calibration samples can be told by this alone: {by}. Neurons that respond to it look like experts."
        )
    })
}

const FORMAT: &str = "format";
const FORMAT_VERSION: &str = "format_version";
/// The key of [`Metadata::method`].
const METHOD: &str = "operator";
/// The version of both file formats that this build writes, and the newest that it reads.
const VERSION: u32 = 1;

impl Metadata {
    /// The metadata strings of a file of kind `format`; equal metadata give equal strings.
    pub(crate) fn to_strings(&self, format: &str) -> BTreeMap<String, String> {
        let mut strings = self.other.clone();
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                strings.insert(key.to_owned(), value);
            }
        };
        put("base_model", self.base_model.clone());
        put("base_model_revision", self.base_model_revision.clone());
        put("config_sha256", self.config_sha256.clone());
        put("scorer", self.scorer.clone());
        let sorted = |method: &serde_json::Value| {
            // Does nothing unless a dependency enables serde_json's `preserve_order`.
            let mut method = method.clone();
            method.sort_all_objects();
            method.to_string()
        };
        put(METHOD, self.method.as_ref().map(sorted));
        put("pooling", self.pooling.clone());
        put("calibration", self.calibration.as_ref().map(|c| serde_json::json!(c).to_string()));
        put("created_by", self.created_by.clone());
        put("licence", self.licence.clone());
        put(FORMAT, Some(format.to_owned()));
        put(FORMAT_VERSION, Some(VERSION.to_string()));
        strings
    }

    /// Parses the metadata strings of a file, which must be of kind `format`.
    pub(crate) fn from_strings(path: &Path, format: &'static str, strings: Option<&HashMap<String, String>>) -> Result<Self> {
        let mut strings = strings.cloned().unwrap_or_default();
        match strings.remove(FORMAT) {
            Some(got) if got == format => {}
            got => {
                let got = got.map_or_else(|| "missing".to_owned(), |g| format!("`{g}`"));
                return Err(Error::WrongFormat { path: path.to_owned(), expected: format, got });
            }
        }
        let unreadable = |key: &str, reason: String| Error::Metadata { path: path.to_owned(), key: key.to_owned(), reason };
        let version = strings.remove(FORMAT_VERSION).ok_or_else(|| unreadable(FORMAT_VERSION, "it is missing".to_owned()))?;
        let version: u32 = version.parse().map_err(|_| unreadable(FORMAT_VERSION, format!("`{version}` is not a whole number")))?;
        if version > VERSION {
            return Err(Error::NewerFormat { path: path.to_owned(), got: version, supported: VERSION });
        }
        let mut text = |key: &str| strings.remove(key);
        let mut metadata = Self {
            base_model: text("base_model"),
            base_model_revision: text("base_model_revision"),
            config_sha256: text("config_sha256"),
            scorer: text("scorer"),
            pooling: text("pooling"),
            created_by: text("created_by"),
            licence: text("licence"),
            ..Self::default()
        };
        if let Some(json) = text(METHOD) {
            metadata.method = Some(serde_json::from_str(&json).map_err(|e| unreadable(METHOD, e.to_string()))?);
        }
        if let Some(json) = text("calibration") {
            metadata.calibration = Some(serde_json::from_str(&json).map_err(|e| unreadable("calibration", e.to_string()))?);
        }
        metadata.other = strings.into_iter().collect();
        Ok(metadata)
    }
}
