//! Baking into a GGUF file, or into all parts of a split one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use sgm_core::Intervention;
use sgm_core::gguf::PartName;
use tempfile::NamedTempFile;

use crate::directory::{make_parent, refuse_existing, sync_directory};
use crate::fold::{self, Options};
use crate::record::{RECORD, Record};
use crate::rewrite::rewrite;
use crate::site_tensors::SiteTensors;
use crate::{Error, Result};

/// Bakes an intervention into a copy of a GGUF file, as [`crate::bake()`] does.
pub(crate) fn bake_gguf(model: &Path, intervention: &Intervention, options: Options, out: &Path) -> Result<Record> {
    let io = |path: &Path, action| {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    };
    fold::check(intervention, options.amplify)?;
    let parts = SiteTensors::read_gguf_model(model)?;
    let outs = outputs(out, parts.len());
    outs.iter().try_for_each(|out| refuse_existing(out))?;
    let first = outs.first().map_or(out, PathBuf::as_path);
    let record_path = record_beside(first);
    refuse_existing(&record_path)?;
    let earlier = record_beside(parts.first().map_or(model, |part| &part.path));
    if fs::symlink_metadata(&earlier).is_ok() {
        return Err(Error::AlreadyBaked { record: earlier });
    }
    let plan = fold::plan(&parts, intervention, options.alignment)?;

    let parent = make_parent(out)?;
    let mut record = Record::new(intervention, options.amplify, plan.widening.as_ref());
    let mut files = Vec::new();
    for ((part, out), edits) in parts.iter().zip(&outs).zip(&plan.edits) {
        let source = File::open(&part.path).map_err(io(&part.path, "read"))?;
        let mut file = temporary_file(&parent, out)?;
        let rewritten = rewrite((&part.path, source, part.length), (out, file.as_file_mut()), edits)?;
        record.add(&name(out), edits, rewritten);
        files.push((file, out.as_path()));
    }
    let mut record_file = temporary_file(&parent, &record_path)?;
    record_file.write_all(&record.to_json(&record_path)?).map_err(io(&record_path, "write"))?;
    // The record gets its name first, so that a baked model always has its record, and the first part last: without it the other parts
    // are no model.
    files.insert(0, (record_file, &record_path));
    if let Some(others) = files.get_mut(1..) {
        others.reverse();
    }
    for (file, path) in &files {
        file.as_file().sync_all().map_err(io(path, "flush to disk"))?;
    }
    let mut named: Vec<&Path> = Vec::new();
    for (file, path) in files {
        if let Err(e) = file.persist_noclobber(path) {
            // What has its name already is removed; if that fails, the next attempt reports it.
            for path in named {
                let _ = fs::remove_file(path);
            }
            return Err(io(path, "give the finished file its name")(e.error));
        }
        named.push(path);
    }
    sync_directory(&parent)?;
    Ok(record)
}

/// The paths of the parts of the result: `out` itself for a model in one file, and `<out>-00001-of-0000N.gguf` for one in N.
fn outputs(out: &Path, parts: usize) -> Vec<PathBuf> {
    if parts < 2 {
        return vec![out.to_owned()];
    }
    let is_gguf = out.extension().is_some_and(|extension| extension == "gguf");
    let name = if is_gguf { out.file_stem() } else { out.file_name() };
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    let prefix = PartName::of(out).map_or(name, |part| part.prefix);
    let named = PartName { prefix, number: 1, count: parts as u64 };
    (1..=named.count).map(|number| out.with_file_name(named.part(number))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The record of a GGUF file: `<file>.sgm_bake.json`.
fn record_beside(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".");
    name.push(RECORD);
    name.into()
}

fn temporary_file(parent: &Path, out: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sgm-bake-");
    #[cfg(unix)]
    {
        // Like other new files; the default of temporary files is access by the owner only.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(parent).map_err(|source| Error::Io { path: out.to_owned(), action: "create a file beside", source })
}
