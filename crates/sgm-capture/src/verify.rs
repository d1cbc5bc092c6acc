//! The verification of stores, and their merge.

use std::path::{Path, PathBuf};

use sgm_core::write_atomically;

use crate::manifest::NonFinite;
use crate::partial::{MANIFEST, PartialStore, UNFINISHED};
use crate::shard::shard_path;
use crate::{Error, Result};

/// The result of [`verify`].
#[derive(Debug)]
pub struct Verification {
    /// The number of complete shards that belong to the store.
    pub sound: usize,
    /// The indices of missing shards.
    pub missing: Vec<usize>,
    /// The errors of shards that are damaged or belong to another store.
    pub damaged: Vec<Error>,
    /// The number of stored responses that are not finite.
    pub non_finite: usize,
    /// Files that do not belong to the store.
    pub strays: Vec<PathBuf>,
}

impl Verification {
    /// Whether the store is complete and undamaged.
    pub fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.damaged.is_empty()
    }
}

/// Reads every byte of a store, finished or not, and checks headers, numbers of samples, hashes, and that responses are finite if the store
/// refuses others.
///
/// # Errors
///
/// [`Error::NotAStore`] without a readable manifest; the errors of shards are in the result.
pub fn verify(directory: impl AsRef<Path>) -> Result<Verification> {
    let store = PartialStore::open(directory)?;
    let manifest = store.manifest();
    let mut found = Verification { sound: 0, missing: Vec::new(), damaged: Vec::new(), non_finite: 0, strays: Vec::new() };
    let mut known = vec![store.directory().join(MANIFEST), store.directory().join(UNFINISHED)];
    for index in 0..manifest.shards() {
        match check(&store, index) {
            Ok(None) => found.missing.push(index),
            Ok(Some(non_finite)) => {
                found.sound += 1;
                found.non_finite += non_finite;
            }
            Err(error) => found.damaged.push(error),
        }
        known.extend(["json", "safetensors"].map(|extension| shard_path(store.directory(), index, extension)));
    }
    let entries = std::fs::read_dir(store.directory()).into_iter().flatten().flatten();
    found.strays = entries.map(|entry| entry.path()).filter(|path| !known.contains(path)).collect();
    found.strays.sort();
    Ok(found)
}

/// The number of responses of an undamaged shard that are not finite; none if the shard is missing.
fn check(store: &PartialStore, index: usize) -> Result<Option<usize>> {
    let Some(shard) = store.shard(index)? else { return Ok(None) };
    shard.check_tensors()?;
    let manifest = store.manifest();
    let mut values = Vec::new();
    let mut non_finite = 0;
    for site in manifest.sites()?.keys() {
        for pooling in &manifest.poolings {
            values.clear();
            manifest.dtype.decode(shard.tensor(&manifest.tensor_name(*site, pooling))?, &mut values);
            non_finite += values.iter().filter(|v| !v.is_finite()).count();
        }
    }
    if non_finite > 0 && manifest.non_finite == NonFinite::Refuse {
        return Err(Error::Shard { path: shard.path, reason: format!("{non_finite} of its responses are no finite numbers") });
    }
    Ok(Some(non_finite))
}

/// Copies the shards of several stores, from workers without a common directory, into one new or existing store, and finishes it if every
/// shard is present; returns whether it is finished.
///
/// # Errors
///
/// [`Error::Differs`] when the stores are not parts of one capture, [`Error::Shard`] when a shard is damaged: every byte is checked. Shards
/// that were copied before are kept.
pub fn merge<P: AsRef<Path>>(from: &[P], into: impl AsRef<Path>) -> Result<bool> {
    let parts = from.iter().map(PartialStore::open).collect::<Result<Vec<_>>>()?;
    let Some(first) = parts.first() else {
        return Err(Error::NotAStore { path: into.as_ref().to_owned(), reason: "there is nothing to merge".to_owned() });
    };
    let merged = PartialStore::begin(into, first.manifest().clone(), true)?;
    for part in &parts {
        part.manifest().expect(part.directory(), merged.manifest())?;
        for index in merged.missing()? {
            let Some(shard) = part.shard(index)? else { continue };
            shard.check_tensors()?;
            let sidecar = shard_path(part.directory(), index, "json");
            let json = std::fs::read(&sidecar).map_err(|source| Error::Io { path: sidecar, action: "read", source })?;
            write_atomically(&shard_path(merged.directory(), index, "safetensors"), shard.bytes())?;
            write_atomically(&shard_path(merged.directory(), index, "json"), &json)?;
        }
    }
    merged.finish()
}
