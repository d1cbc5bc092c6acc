//! The entry points: baking into a copy of a model, or from one stream to another.

use std::io::{Read, Write};
use std::path::Path;

use sgm_core::{Amplify, Intervention};

use crate::directory::bake_directory;
use crate::fold::{self, Options};
use crate::gguf_file::bake_gguf;
use crate::record::{Record, TensorRecord};
use crate::rewrite::rewrite;
use crate::site_tensors::SiteTensors;
use crate::{Error, Result};

/// Bakes an intervention into a copy of a model: a directory in the Hugging Face layout or with one GGUF model, or a GGUF file.
///
/// The copy and its record are written to `out`, which must not exist. Of a model split over N GGUF files `model` is any part, all parts
/// are baked, and they are named `<out>-00001-of-0000N.gguf` and so on, without a `.gguf` of `out`. Hidden directories of the model (`.git`, `.cache`) are not copied;
/// links to files are followed. A condition cannot be baked: the intervention always acts in the baked model, which is logged as a warning.
///
/// # Errors
///
/// Any error of this crate but [`Error::Unused`]; `out` does not exist then, and the model is unchanged. Errors of the intervention come
/// first: [`Error::Amplifies`], [`Error::Tokens`], and [`Error::Core`] when the checkpoint lacks a site or has another width.
pub fn bake(model: &Path, intervention: &Intervention, amplify: Amplify, out: &Path) -> Result<Record> {
    bake_with(model, intervention, Options { amplify, ..Options::default() }, out)
}

/// Bakes an intervention into a copy of a model, as [`bake`] does, with options.
///
/// # Errors
///
/// As [`bake`].
pub fn bake_with(model: &Path, intervention: &Intervention, options: Options, out: &Path) -> Result<Record> {
    if intervention.condition.is_some() {
        tracing::warn!(model = %model.display(), "a condition cannot be baked: the intervention will always act in the baked model");
    }
    let kind = std::fs::metadata(model).map_err(|source| Error::Io { path: model.to_owned(), action: "find", source })?;
    if kind.is_dir() {
        bake_directory(model, intervention, options, out)
    } else if kind.is_file() {
        bake_gguf(model, intervention, options, out)
    } else {
        Err(Error::NotAFile { path: model.to_owned() })
    }
}

impl SiteTensors {
    /// Bakes an intervention into this one file, from one stream to another.
    ///
    /// `source` is the file from its first byte. The result has the same length and differs only in scaled rows, unless the intervention
    /// adds neurons; the configuration beside a safetensors file must then be changed as [`bake`] does.
    ///
    /// # Errors
    ///
    /// As [`bake`]; the sink may have been written in part then.
    pub fn bake(&self, intervention: &Intervention, amplify: Amplify, source: impl Read, sink: impl Write) -> Result<Vec<TensorRecord>> {
        fold::check(intervention, amplify)?;
        let plan = fold::plan(std::slice::from_ref(self), intervention, Options::default().alignment)?;
        let edits = plan.edits.first().map_or(&[][..], Vec::as_slice);
        let rewritten = rewrite((&self.path, source, self.length), (&self.path, sink), edits)?;
        Ok(TensorRecord::all(&self.path.display().to_string(), edits, &rewritten))
    }
}
