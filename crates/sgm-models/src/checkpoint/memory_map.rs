//! Memory-mapped files, and pages returned to the system.

use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// Maps a file, which must not change while it is mapped.
#[allow(unsafe_code, reason = "memory-mapping avoids holding the weights twice")]
pub(crate) fn map_file(path: &Path) -> Result<Mmap> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    // SAFETY: the map is read-only, and `Checkpoint::tensors` documents that the files must not change while they are
    // mapped.
    unsafe { Mmap::map(&file) }.map_err(io)
}

/// Tells the system that the pages of a range will not be needed soon. A later access reads them from the file again.
#[cfg(unix)]
#[allow(unsafe_code, reason = "the advice frees pages")]
pub(crate) fn release_pages(map: &Mmap, range: Range<usize>) {
    // SAFETY: the map is read-only and backed by a file, so released pages come back with the same bytes.
    let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
    if let Err(error) = advised {
        tracing::debug!(%error, "the system keeps the pages of loaded weights");
    }
}

#[cfg(not(unix))]
pub(crate) fn release_pages(_: &Mmap, _: Range<usize>) {}
