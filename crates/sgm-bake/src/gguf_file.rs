//! Baking into a GGUF file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use sgm_core::Intervention;
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
    refuse_existing(out)?;
    let record_path = record_beside(out);
    refuse_existing(&record_path)?;
    let earlier = record_beside(model);
    if fs::symlink_metadata(&earlier).is_ok() {
        return Err(Error::AlreadyBaked { record: earlier });
    }
    let mut source = BufReader::new(File::open(model).map_err(io(model, "read"))?);
    let length = source.get_ref().metadata().map_err(io(model, "read"))?.len();
    let tensors = SiteTensors::read_gguf(model, &mut source, length)?;
    let mut plan = fold::plan(&[tensors], intervention, options.alignment)?;
    let edits = plan.edits.pop().unwrap_or_default();

    let parent = make_parent(out)?;
    let (mut file, mut record_file) = (temporary_file(&parent, out)?, temporary_file(&parent, &record_path)?);
    source.rewind().map_err(io(model, "read"))?;
    let rewritten = rewrite((model, source, length), (out, file.as_file_mut()), &edits)?;
    let mut record = Record::new(intervention, options.amplify, plan.widening.as_ref());
    record.add(&name(out), &edits, rewritten);
    record_file.write_all(&record.to_json(&record_path)?).map_err(io(&record_path, "write"))?;
    for (file, path) in [(&file, out), (&record_file, &record_path)] {
        file.as_file().sync_all().map_err(io(path, "flush to disk"))?;
    }
    // The record is renamed first, so that a baked model always has its record.
    record_file.persist_noclobber(&record_path).map_err(|e| io(&record_path, "give the finished record its name")(e.error))?;
    if let Err(e) = file.persist_noclobber(out) {
        // The record without its model is removed; if that fails, the next attempt reports it.
        let _ = fs::remove_file(&record_path);
        return Err(io(out, "give the finished file its name")(e.error));
    }
    sync_directory(&parent)?;
    Ok(record)
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
