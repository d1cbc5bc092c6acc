//! The record of a baked model.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use sgm_core::sha256::Sha256Hex;
use sgm_core::{Amplify, Intervention, PatchNeuron, Projection, Site};

use crate::block::Tally;
use crate::edit::{Edit, TensorEdit};
use crate::insertion::Insertion;
use crate::replacement::Growth;
use crate::rewrite::Rewritten;
use crate::widening::Widening;
use crate::{Error, Result};

/// The record of a baked model: the content of `sgm_bake.json`.
///
/// The hashes identify the original files, which cannot be restored from the result: weights scaled to 0 are lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// The version of this format, 1.
    pub schema: u32,
    /// The software that baked.
    pub software: String,
    /// The intervention.
    pub intervention: InterventionRecord,
    /// Every file of the result but the record.
    pub files: Vec<FileRecord>,
    /// Every tensor with changed or added rows.
    pub tensors: Vec<TensorRecord>,
    /// The widening of the MLPs, if neurons were added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widened: Option<WideningRecord>,
    /// Files of the result that may hold weights too and were copied unchanged: a program that prefers them runs the model without the
    /// intervention.
    pub unbaked_weights: Vec<String>,
}

/// The intervention of a [`Record`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct InterventionRecord {
    /// [`content_sha256`] of the intervention.
    pub content_sha256: String,
    /// Whether scales above 1 or below 0 were allowed.
    pub amplification_allowed: bool,
    /// The number of neurons of all sites.
    pub neurons: usize,
    /// The number of neurons that are changed.
    pub changed_neurons: usize,
    /// The number of patch neurons.
    pub added_neurons: usize,
    /// The metadata.
    pub metadata: serde_json::Value,
}

/// The neurons added to the MLPs of a [`Record`]'s model.
///
/// Of a layer's n patch neurons, the i-th is neuron `width + i * (added / n)`, where `width` is the original width; all other added neurons
/// are zeros, which have no effect.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WideningRecord {
    /// The number of neurons added to every layer.
    pub added: u64,
    /// The number of patch neurons among them, by layer.
    pub patch_neurons: BTreeMap<usize, usize>,
}

/// A file of a [`Record`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FileRecord {
    /// The name, relative to the model's directory.
    pub file: String,
    /// SHA-256 of the original.
    pub sha256_original: String,
    /// SHA-256 of the result, which is the same for copied files.
    pub sha256_baked: String,
}

/// A tensor of a [`Record`], with the rounding errors of scaled and added weights.
///
/// Numbers are the stored values that scale a row: every weight of a plain float tensor, the scales of each block of a quantised tensor.
/// Errors are relative differences of the stored numbers from the exact products.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorRecord {
    /// The file.
    pub file: String,
    /// The tensor.
    pub tensor: String,
    /// The tensor's type.
    pub dtype: String,
    /// The sites whose neurons change or are added to.
    pub sites: Vec<String>,
    /// The number of rows; for a bias, of values; of columns where they are the neurons (Qwen3-VL's stacked experts).
    pub rows: u64,
    /// The number of rows that changed.
    pub changed_rows: u64,
    /// The number of added rows; for a bias, of values.
    pub added_rows: u64,
    /// The number of added columns.
    pub added_columns: u64,
    /// The error of added weights as stored: its root mean square relative to that of the weights.
    pub added_relative_error: f64,
    /// The number of numbers that were multiplied.
    pub numbers: u64,
    /// The largest relative error of a number.
    pub max_relative_error: f64,
    /// The root mean square of the relative errors.
    pub rms_relative_error: f64,
    /// The number of numbers that are now below the normal range of their type, where errors are larger.
    pub subnormal: u64,
    /// The number of numbers that became 0 because they were too small for their type, not because their scale is 0.
    pub zeroed: u64,
}

/// The name of a record in a model directory.
pub(crate) const RECORD: &str = "sgm_bake.json";

/// The SHA-256, in hex, of an intervention without its metadata.
///
/// The hashed bytes are, for each site in order, its name, a newline, and scales and shifts (0 without shifts) as little-endian f32; then,
/// for each layer with patch neurons and each of its sites, the site's name, `/patch`, a newline, and the neurons' weights there, neuron
/// after neuron.
pub fn content_sha256(intervention: &Intervention) -> String {
    let mut hash = Sha256Hex::default();
    for (site, s) in intervention.sites() {
        hash.update(format!("{site}\n"));
        s.scale.iter().for_each(|scale| hash.update(scale.to_le_bytes()));
        let zeros = || std::iter::repeat_n(0f32, s.scale.len());
        match &s.shift {
            Some(shift) => shift.iter().for_each(|shift| hash.update(shift.to_le_bytes())),
            None => zeros().for_each(|shift| hash.update(shift.to_le_bytes())),
        }
    }
    for (layer, neurons) in intervention.patches() {
        for projection in Projection::ALL {
            hash.update(format!("{}/patch\n", Site::new(*layer, projection)));
            let weights = neurons.iter().flat_map(PatchNeuron::weights).filter(|(p, _)| *p == projection).flat_map(|(_, weights)| weights);
            weights.for_each(|weight| hash.update(weight.to_le_bytes()));
        }
    }
    hash.finish()
}

impl Record {
    pub(crate) fn new(intervention: &Intervention, amplify: Amplify, widening: Option<&Widening<'_>>) -> Self {
        Self {
            schema: 1,
            software: concat!("sgm-bake ", env!("CARGO_PKG_VERSION")).to_owned(),
            intervention: InterventionRecord {
                content_sha256: content_sha256(intervention),
                amplification_allowed: amplify == Amplify::Allow,
                neurons: intervention.neurons(),
                changed_neurons: intervention.changed_neurons(),
                added_neurons: intervention.added_neurons(),
                metadata: metadata(intervention),
            },
            files: Vec::new(),
            tensors: Vec::new(),
            widened: widening.map(|widening| WideningRecord { added: widening.added, patch_neurons: widening.neurons() }),
            unbaked_weights: Vec::new(),
        }
    }

    /// Adds a file that was copied, with the edits that were made.
    pub(crate) fn add(&mut self, file: &str, edits: &[Edit<'_>], rewritten: Rewritten) {
        self.tensors.extend(TensorRecord::all(file, edits, &rewritten));
        let (sha256_original, sha256_baked) = (rewritten.original, rewritten.baked);
        self.files.push(FileRecord { file: file.to_owned(), sha256_original, sha256_baked });
    }

    /// The record as a JSON document.
    pub(crate) fn to_json(&self, path: &Path) -> Result<Vec<u8>> {
        let json = serde_json::to_vec_pretty(self);
        json.map_err(|e| Error::Io { path: path.to_owned(), action: "write", source: e.into() })
    }

    /// The tensors as a Markdown table.
    pub fn table(&self) -> String {
        let mut table = "| tensor | type | rows | changed | max error | rms error | subnormal | zeroed | added | its error |\n\
             |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
        for t in &self.tensors {
            let errors = format!("{:.1e} | {:.1e}", t.max_relative_error, t.rms_relative_error);
            let (name, dtype) = (&t.tensor, &t.dtype);
            // Writing to a string does not fail.
            let _ = write!(table, "| {name} | {dtype} | {} | {} | {errors} | {} | {} ", t.rows, t.changed_rows, t.subnormal, t.zeroed);
            let _ = match (t.added_rows, t.added_columns) {
                (0, 0) => writeln!(table, "| | |"),
                (0, columns) => writeln!(table, "| {columns} columns | {:.1e} |", t.added_relative_error),
                (rows, _) => writeln!(table, "| {rows} rows | {:.1e} |", t.added_relative_error),
            };
        }
        table
    }
}

impl TensorRecord {
    /// The tensors among the edits of a file.
    pub(crate) fn all(file: &str, edits: &[Edit<'_>], rewritten: &Rewritten) -> Vec<Self> {
        let tensors = edits.iter().filter_map(Edit::tensor);
        tensors.zip(&rewritten.tallies).map(|(tensor, tally)| Self::new(file, tensor, tally)).collect()
    }

    fn new(file: &str, edit: &TensorEdit<'_>, tally: &Tally) -> Self {
        let growth = edit.insertion.as_ref().map_or(Growth::default(), Insertion::growth);
        Self {
            file: file.to_owned(),
            tensor: edit.tensor.clone(),
            dtype: edit.format.name.to_owned(),
            sites: edit.sites.iter().map(ToString::to_string).collect(),
            rows: edit.neurons(),
            changed_rows: edit.changed_neurons(),
            added_rows: growth.rows,
            added_columns: growth.columns,
            added_relative_error: tally.added_error(),
            numbers: tally.numbers,
            max_relative_error: tally.max,
            rms_relative_error: tally.rms(),
            subnormal: tally.subnormal,
            zeroed: tally.zeroed,
        }
    }
}

/// The metadata under their names in files.
fn metadata(intervention: &Intervention) -> serde_json::Value {
    let m = &intervention.metadata;
    let mut value = serde_json::json!({
        "base_model": m.base_model,
        "base_model_revision": m.base_model_revision,
        "config_sha256": m.config_sha256,
        "scorer": m.scorer,
        "operator": m.method,
        "pooling": m.pooling,
        "positions": intervention.tokens,
        "calibration": m.calibration,
        "created_by": m.created_by,
        "licence": m.licence,
    });
    if let Some(entries) = value.as_object_mut() {
        entries.retain(|_, entry| !entry.is_null());
        entries.extend(m.other.iter().map(|(key, text)| (key.clone(), text.clone().into())));
    }
    value
}
