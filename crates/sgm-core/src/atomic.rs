//! Atomic writes: a file appears complete or not at all.

#[cfg(unix)]
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::{Error, Result};

/// Writes a file atomically.
///
/// The bytes go to a temporary file in the same directory, which is flushed to disk and renamed to `path`; the directory entry is flushed
/// too. Missing parent directories are created. After a crash `path` is the old file or the new one; a process that is killed may leave a
/// temporary file, whose name begins with [`TEMPORARY_PREFIX`].
///
/// # Errors
///
/// [`Error::Io`] when the directory or the file cannot be written; no temporary file is left then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes))
}

/// Writes a file atomically, with the bytes that `write` produces.
///
/// # Errors
///
/// As [`write_atomically`], and the errors of `write`.
pub fn write_atomically_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let file = temporary(path, write)?;
    file.persist(path).map_err(|e| io_error(path, "rename the finished file", e.error))?;
    flush_directory(path)
}

/// Creates a file atomically unless one of that name exists; returns whether it was created.
///
/// # Errors
///
/// As [`write_atomically`].
pub fn create_atomically(path: &Path, bytes: &[u8]) -> Result<bool> {
    match temporary(path, |file| file.write_all(bytes))?.persist_noclobber(path) {
        Ok(_) => flush_directory(path).map(|()| true),
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(io_error(path, "rename the finished file", e.error)),
    }
}

/// The prefix of the names of temporary files.
pub const TEMPORARY_PREFIX: &str = ".sgm-";

/// A temporary file beside `path`, written and flushed to disk.
fn temporary(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<tempfile::NamedTempFile> {
    let failed = |action| move |source| io_error(path, action, source);
    let directory = directory(path);
    std::fs::create_dir_all(directory).map_err(failed("create its directory"))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    {
        // Like other new files; the default of temporary files is access by the owner only.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(directory).map_err(failed("create a temporary file beside it"))?;
    let mut buffered = BufWriter::new(file.as_file_mut());
    write(&mut buffered).and_then(|()| buffered.flush()).map_err(failed("write"))?;
    drop(buffered);
    file.as_file().sync_all().map_err(failed("flush to disk"))?;
    Ok(file)
}

fn flush_directory(path: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(directory(path)).and_then(|d| d.sync_all()).map_err(|e| io_error(path, "flush its directory", e))?;
    Ok(())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), action, source }
}
