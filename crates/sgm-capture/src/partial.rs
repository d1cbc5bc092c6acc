use std::io;
use std::path::{Path, PathBuf};

use sgm_core::{TEMPORARY_PREFIX, create_atomically};

use crate::rows::ShardRows;
use crate::shard::{self, Shard};
use crate::{Error, Manifest, Result};

/// The manifest of a finished store.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The manifest of a store in the making.
pub(crate) const UNFINISHED: &str = "unfinished.json";

/// A store in the making, of samples whose number is known: any number of processes may write its shards, on any machines
/// that share the directory, without knowing of each other.
///
/// Its manifest is called `unfinished.json` until every shard is there, and then `manifest.json`. Shards are there or
/// not: a process that is killed leaves nothing that looks like one.
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
    /// Begins a store in a new or empty directory or, with `resume`, goes on with one that is there.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] without `resume` when there is a store already; [`Error::Differs`] with it, naming what differs, when the
    /// store there has another manifest; [`Error::NotAStore`] when the directory has shards but no manifest;
    /// [`Error::Core`] when the directory cannot be written.
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
                // Another worker was faster.
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

    /// Opens a store whether it is finished or not.
    ///
    /// # Errors
    ///
    /// [`Error::NotAStore`] when there is none.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref().to_owned();
        let (_, manifest) =
            find(&directory)?.ok_or_else(|| Error::NotAStore { path: directory.clone(), reason: "it has no manifest".to_owned() })?;
        Ok(Self { identity: manifest.identity()?, directory, manifest })
    }

    /// What the store will be.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The shards that are not there yet, by their numbers.
    ///
    /// # Errors
    ///
    /// [`Error::Shard`] when one is there but damaged, so far as can be told without reading its tensors.
    pub fn missing(&self) -> Result<Vec<usize>> {
        let mut missing = Vec::new();
        for index in 0..self.manifest.shards() {
            if self.shard(index)?.is_none() {
                missing.push(index);
            }
        }
        Ok(missing)
    }

    /// A shard, if it is there.
    pub(crate) fn shard(&self, index: usize) -> Result<Option<Shard>> {
        Shard::open(&self.directory, index, &self.manifest, &self.identity)
    }

    /// An empty shard to fill with the samples of [`Manifest::samples_of`], in order.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when the manifest names a site that is none.
    pub fn rows(&self) -> Result<ShardRows> {
        ShardRows::new(&self.manifest)
    }

    /// Writes a shard, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Sample`] when it has not as many samples as it should; [`Error::Core`] when it cannot be written, as on a full
    /// disk: the shards before it stay.
    pub fn write(&self, index: usize, rows: &ShardRows) -> Result<()> {
        let expected = self.manifest.samples_of(index).len();
        if rows.len() != expected || expected == 0 {
            let sample = rows.ids.last().cloned().unwrap_or_default();
            return Err(Error::Sample { sample, reason: format!("ends shard {index} of {} samples, expected {expected}", rows.len()) });
        }
        shard::write(&self.directory, index, &self.manifest, rows)
    }

    /// Makes the store a finished one if every shard is there; whether it is.
    ///
    /// Every worker may call it; the last one to come finishes the store.
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
            // Another worker was faster, or it was finished before.
            Err(e) if e.kind() == io::ErrorKind::NotFound && to.exists() => {}
            Err(source) => return Err(Error::Io { path: from, action: "rename to manifest.json", source }),
        }
        // What killed processes left; nobody writes to a finished store.
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
/// The unfinished one is looked for first: it is renamed while others look.
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
