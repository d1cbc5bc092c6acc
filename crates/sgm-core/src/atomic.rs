use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// Writes a file whole or not at all.
///
/// The bytes go to a temporary file in the same directory, which is flushed to disk and renamed over
/// `path`; the directory entry is flushed too. Missing parent directories are made. A crash leaves
/// either the old file or the new one under `path`.
///
/// # Errors
///
/// [`Error::Io`] when the directory or the file cannot be written; nothing is left behind then.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |action| move |source| Error::Io { path: path.to_owned(), action, source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(directory).map_err(io("create its directory"))?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sgm-");
    #[cfg(unix)]
    {
        // Readable like any other file; the temporary file's default is for its owner only.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(directory).map_err(io("create a temporary file beside it"))?;
    file.write_all(bytes).map_err(io("write"))?;
    file.as_file().sync_all().map_err(io("flush to disk"))?;
    file.persist(path).map_err(|e| io("rename the finished file")(e.error))?;
    #[cfg(unix)]
    File::open(directory).and_then(|d| d.sync_all()).map_err(io("flush its directory"))?;
    Ok(())
}
