//! The writer of stores whose number of samples is not known beforehand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sgm_core::{Site, write_atomically};

use crate::partial::{MANIFEST, UNFINISHED};
use crate::rows::ShardRows;
use crate::shard;
use crate::{Error, Manifest, Result};

/// A writer that fills a new store with samples in order; their number need not be known beforehand. Every file is written atomically, the
/// manifest last: a directory without one is not a store.
///
/// For a known number of samples a [`PartialStore`](crate::PartialStore) can be resumed and shared.
#[derive(Debug)]
pub struct StoreWriter {
    directory: PathBuf,
    manifest: Manifest,
    rows: ShardRows,
    shards: usize,
}

impl StoreWriter {
    /// Starts a store in a new or empty directory.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when the directory already has a store or shards, [`Error::Io`] when it cannot be created.
    pub fn create(directory: impl AsRef<Path>, mut manifest: Manifest) -> Result<Self> {
        let directory = directory.as_ref().to_owned();
        manifest.check(&directory)?;
        if [MANIFEST, UNFINISHED].iter().any(|name| directory.join(name).exists()) || shard::shard_path(&directory, 0, "json").exists() {
            return Err(Error::Exists { path: directory });
        }
        std::fs::create_dir_all(&directory).map_err(|source| Error::Io { path: directory.clone(), action: "create", source })?;
        manifest.samples = 0;
        Ok(Self { rows: ShardRows::new(&manifest)?, directory, manifest, shards: 0 })
    }

    /// Appends one sample to a store of one pooling: its id, whether it is toxic, and the pooled responses of every site.
    ///
    /// # Errors
    ///
    /// As [`push_all`](Self::push_all).
    pub fn push(&mut self, id: &str, toxic: bool, responses: &BTreeMap<Site, Vec<f32>>) -> Result<()> {
        self.push_all(id, toxic, std::slice::from_ref(responses))
    }

    /// Appends one sample: its id, whether it is toxic, and for each pooling the responses of every site.
    ///
    /// # Errors
    ///
    /// As [`ShardRows::push`], and [`Error::Core`] when a full shard cannot be written. The store is unchanged then, and another sample may
    /// follow.
    pub fn push_all(&mut self, id: &str, toxic: bool, responses: &[BTreeMap<Site, Vec<f32>>]) -> Result<()> {
        if self.rows.len() >= self.manifest.shard_samples {
            self.flush()?;
        }
        self.rows.push(id, toxic, responses)
    }

    /// Writes the last shard and the manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when a file cannot be written; earlier shards are kept.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        Ok(write_atomically(&self.directory.join(MANIFEST), &self.manifest.to_json()?)?)
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        shard::write(&self.directory, self.shards, &self.manifest, &self.rows)?;
        self.shards += 1;
        self.manifest.samples += self.rows.len();
        self.rows = ShardRows::new(&self.manifest)?;
        Ok(())
    }
}
