use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use sgm_core::{Intervention, Metadata, PatchNeuron, Projection, Site};
use sgm_suppress::Amplify;
use sha2::{Digest, Sha256};

use crate::block::Tally;
use crate::edit::{Edit, Growth, TensorEdit};
use crate::rewrite::Rewritten;
use crate::widening::{Insertion, Widening};
use crate::{Error, Result};

/// What was baked into what: the content of `sgm_bake.json`.
///
/// The hashes say which files to put back to have the original again; weights that were scaled to 0 cannot be computed
/// from the result.
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
    /// Every tensor with rows that changed.
    pub tensors: Vec<TensorRecord>,
    /// How its MLPs have become wider, if they have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub widened: Option<WideningRecord>,
    /// Files of the result that seem to hold weights too and were copied as they are: a program that prefers them runs the
    /// model without the intervention.
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
    /// The neurons of its sites.
    pub neurons: usize,
    /// Those that are changed.
    pub changed_neurons: usize,
    /// Patch neurons that it adds.
    pub added_neurons: usize,
    /// Its metadata.
    pub metadata: serde_json::Value,
}

/// The neurons that the MLPs of a [`Record`]'s model have got.
///
/// A layer's i-th patch neuron, of n, is neuron `width + i * (added / n)` of a layer that had `width` of them; the others that are added are
/// zeros, which do nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WideningRecord {
    /// How many every layer has got.
    pub added: u64,
    /// The patch neurons among them, by layer.
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
    /// SHA-256 of the result; the same for files that were only copied.
    pub sha256_baked: String,
}

/// A tensor of a [`Record`], and how closely it holds the scaled and the added weights.
///
/// Numbers are what scales a row in its stored type: every weight of a plain float tensor, the scales of each block of a
/// quantised one. Errors are those of the numbers as stored against the exact products, relative to these.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TensorRecord {
    /// The file.
    pub file: String,
    /// The tensor.
    pub tensor: String,
    /// Its type.
    pub dtype: String,
    /// The sites whose neurons change, or that get more of them.
    pub sites: Vec<String>,
    /// Its rows; for a bias, its values.
    pub rows: u64,
    /// Those that changed.
    pub changed_rows: u64,
    /// Rows that were added; for a bias, values.
    pub added_rows: u64,
    /// Columns that were added.
    pub added_columns: u64,
    /// The error of added weights as stored, root mean square relative to root mean square.
    pub added_relative_error: f64,
    /// The numbers that were multiplied.
    pub numbers: u64,
    /// The largest relative error of a number.
    pub max_relative_error: f64,
    /// The root mean square of the relative errors.
    pub rms_relative_error: f64,
    /// Numbers that are below the normal range of their type now, where errors are larger.
    pub subnormal: u64,
    /// Numbers that became 0 because they were too small for their type, not because their scale is 0.
    pub zeroed: u64,
}

/// The name of a record in a model directory.
pub(crate) const RECORD: &str = "sgm_bake.json";

/// The SHA-256, in hex, of what an intervention does, whatever its metadata.
///
/// It is over, for each site in order, its name, a newline, and scales and shifts (0 where there are none) as little-endian f32; and then,
/// for each layer that gets neurons and each of its sites, the site's name, `/patch`, a newline, and the neurons' weights there, one
/// neuron after the other.
pub fn content_sha256(intervention: &Intervention) -> String {
    let mut hash = Sha256::new();
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
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
                metadata: metadata(&intervention.metadata),
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
        let mut table =
            "| tensor | type | rows | changed | max error | rms error | subnormal | zeroed | added | its error |\n|---|---|---|---|---|---|---|---|---|---|\n"
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
            rows: edit.rows,
            changed_rows: edit.changed_rows(),
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

/// The metadata by the names they have in files.
fn metadata(m: &Metadata) -> serde_json::Value {
    let mut value = serde_json::json!({
        "base_model": m.base_model,
        "base_model_revision": m.base_model_revision,
        "config_sha256": m.config_sha256,
        "scorer": m.scorer,
        "operator": m.operator,
        "pooling": m.pooling,
        "positions": m.positions,
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
