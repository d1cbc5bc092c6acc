//! Files of one item a line, read without trusting them.

use std::io::{BufRead, Read};
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// The largest number of bytes in a line: long answers are far below it; binary files and files without line breaks are not.
pub(crate) const MAX_LINE: usize = 16 << 20;

/// Calls `each` with every line that is not blank, and with its number from 1.
pub(crate) fn for_each_line(mut reader: impl BufRead, path: &Path, mut each: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        let n = reader.by_ref().take(limit).read_until(b'\n', &mut bytes).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        if n == 0 {
            break;
        }
        if n == MAX_LINE {
            return Err(Error::LineTooLong { path: path.to_owned(), line, limit: MAX_LINE });
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::NotUtf8 { path: path.to_owned(), line })?;
        // Editors on Windows write a byte order mark before the first line.
        let text = text.trim_start_matches('\u{feff}').trim();
        if !text.is_empty() {
            each(line, text)?;
        }
    }
    Ok(())
}

/// Opens a file for [`for_each_line`].
pub(crate) fn open(path: &Path) -> Result<std::io::BufReader<std::fs::File>> {
    std::fs::File::open(path).map(std::io::BufReader::new).map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// One line as JSON.
pub(crate) fn json<T: DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        let reason = e.to_string();
        // The parser counts lines within its input, which is one line.
        let reason = reason.split(" at line ").next().unwrap_or_default();
        Error::Syntax { path: path.to_owned(), line, reason: format!("{reason} at column {}", e.column()) }
    })
}
