//! Unfinished stores, which several processes may fill.

use std::io;
use std::path::{Path, PathBuf};

use sgm_core::{TEMPORARY_PREFIX, create_atomically};

use crate::rows::ShardRows;
use crate::shard::{self, Shard};
use crate::{Error, Manifest, Result};

/// The name of a finished store's manifest.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The name of an unfinished store's manifest.
pub(crate) const UNFINISHED: &str = "unfinished.json";

/// An unfinished store of a known number of samples. Any number of processes may write its shards, on any machines that share the
/// directory, without communication.
///
/// Its manifest is named `unfinished.json` until every shard is present, and `manifest.json` then. A killed process leaves no partial
/// shard.
///
/// ```
/// use sgm_capture::{ActivationStore, Manifest, PartialStore};
/// use sgm_core::{Projection, Site};
///
/// let dir = tempfile::tempdir().unwrap();
/// let site = Site::new(0, Projection::Up);
/// let mut manifest = Manifest::new("my-model", "config-hash", "max/all", [(site, 1)]);
/// (manifest.samples, manifest.shard_samples) = (3, 2);
/// let store = PartialStore::begin(dir.path().join("store"), manifest, true)?;
/// for shard in store.missing()? {
///     let mut rows = store.rows()?;
///     for number in store.manifest().samples_of(shard) {
///         rows.push(&format!("sample-{number}"), number % 2 == 0, &[[(site, vec![1.5])].into()])?;
///     }
///     store.write(shard, &rows)?;
/// }
/// assert!(store.finish()?);
/// assert_eq!(ActivationStore::open(dir.path().join("store"))?.labels(), [true, false, true]);
/// # Ok::<(), sgm_capture::Error>(())
/// ```
#[derive(Debug)]
pub struct PartialStore {
    directory: PathBuf,
    manifest: Manifest,
    identity: String,
}

impl PartialStore {
    /// Starts a store in a new or empty directory or, with `resume`, continues an existing one.
    ///
    /// # Errors
    ///
    /// Without `resume` [`Error::Exists`] when the directory has a store; with it [`Error::Differs`], naming the differences, when that
    /// store has another manifest; [`Error::NotAStore`] when the directory has shards but no manifest; [`Error::Core`] when the directory
    /// cannot be written.
    pub fn begin(directory: impl AsRef<Path>, manifest: Manifest, resume: bool) -> Result<Self> {
        let directory = directory.as_ref().to_owned();
        manifest.check(&directory)?;
        if let Some((path, there)) = find(&directory)? {
            if !resume {
                return Err(Error::Exists { path: directory });
            }
            there.expect(&path, &manifest)?;
        } else {
            if shard::shard_path(&directory, 0, "json").exists() {
                return Err(Error::NotAStore { path: directory, reason: "it has shards but no manifest; remove it".to_owned() });
            }
            let path = directory.join(UNFINISHED);
            if !create_atomically(&path, &manifest.to_json()?)? {
                // Another worker created it first.
                if !resume {
                    return Err(Error::Exists { path: directory });
                }
                if let Some((path, there)) = find(&directory)? {
                    there.expect(&path, &manifest)?;
                }
            }
        }
        Ok(Self { identity: manifest.identity()?, directory, manifest })
    }

    /// Opens a store, finished or not.
    ///
    /// # Errors
    ///
    /// [`Error::NotAStore`] when the directory has no manifest.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref().to_owned();
        let (_, manifest) =
            find(&directory)?.ok_or_else(|| Error::NotAStore { path: directory.clone(), reason: "it has no manifest".to_owned() })?;
        Ok(Self { identity: manifest.identity()?, directory, manifest })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The indices of the missing shards.
    ///
    /// # Errors
    ///
    /// [`Error::Shard`] when a shard is damaged, except for its tensors, which are not read.
    pub fn missing(&self) -> Result<Vec<usize>> {
        let mut missing = Vec::new();
        for index in 0..self.manifest.shards() {
            if self.shard(index)?.is_none() {
                missing.push(index);
            }
        }
        Ok(missing)
    }

    /// A shard; none if it is missing.
    pub(crate) fn shard(&self, index: usize) -> Result<Option<Shard>> {
        Shard::open(&self.directory, index, &self.manifest, &self.identity)
    }

    /// An empty shard to fill with the samples of [`Manifest::samples_of`], in order.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when the manifest names an unknown site.
    pub fn rows(&self) -> Result<ShardRows> {
        ShardRows::new(&self.manifest)
    }

    /// Writes a shard atomically.
    ///
    /// # Errors
    ///
    /// [`Error::Sample`] when the number of samples is wrong; [`Error::Core`] when the shard cannot be written, as on a full disk: earlier
    /// shards are kept.
    pub fn write(&self, index: usize, rows: &ShardRows) -> Result<()> {
        let expected = self.manifest.samples_of(index).len();
        if rows.len() != expected || expected == 0 {
            let sample = rows.ids.last().cloned().unwrap_or_default();
            return Err(Error::Sample { sample, reason: format!("ends shard {index} of {} samples, expected {expected}", rows.len()) });
        }
        shard::write(&self.directory, index, &self.manifest, rows)
    }

    /// Finishes the store if every shard is present; returns whether it is finished.
    ///
    /// Every worker may call this; the last one finishes the store.
    ///
    /// # Errors
    ///
    /// [`Error::Shard`] when a shard is damaged, [`Error::Io`] when the manifest cannot be renamed.
    pub fn finish(&self) -> Result<bool> {
        if !self.missing()?.is_empty() {
            return Ok(false);
        }
        let (from, to) = (self.directory.join(UNFINISHED), self.directory.join(MANIFEST));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            // Another worker has finished it.
            Err(e) if e.kind() == io::ErrorKind::NotFound && to.exists() => {}
            Err(source) => return Err(Error::Io { path: from, action: "rename to manifest.json", source }),
        }
        // Temporary files of killed processes: no process writes to a finished store.
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for stale in entries.filter(|e| e.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX)) {
            std::fs::remove_file(stale.path()).ok();
        }
        #[cfg(unix)]
        std::fs::File::open(&self.directory).and_then(|d| d.sync_all()).map_err(|source| Error::Io {
            path: self.directory.clone(),
            action: "flush",
            source,
        })?;
        Ok(true)
    }
}

/// The manifest of a directory, finished or not, with its path.
///
/// `unfinished.json` is read first, because another process may rename it meanwhile.
fn find(directory: &Path) -> Result<Option<(PathBuf, Manifest)>> {
    for name in [UNFINISHED, MANIFEST] {
        let path = directory.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let manifest = Manifest::parse(&path, &bytes)?;
                return Ok(Some((path, manifest)));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { path, action: "read", source }),
        }
    }
    Ok(None)
}
