//! One shard on disk: a safetensors file, and a JSON file beside it whose presence marks the shard as complete.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sgm_core::sha256::{Sha256Hex, hex_digest};
use sgm_core::{write_atomically, write_atomically_with};

use crate::rows::ShardRows;
use crate::{Error, Manifest, Result};

/// The `.json` file beside a shard. It is written last: without it the shard does not count as present.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sidecar {
    pub(crate) ids: Vec<String>,
    /// 1 toxic, 0 not.
    pub(crate) labels: Vec<u8>,
    /// The number of responses that are not finite, by site.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) non_finite: BTreeMap<String, usize>,
    /// SHA-256 of the `.safetensors` file.
    pub(crate) tensors_sha256: String,
    /// SHA-256 of the store's manifest without the number of samples.
    pub(crate) manifest_sha256: String,
    /// SHA-256 of this file with this entry empty.
    pub(crate) sha256: String,
}

impl Sidecar {
    fn digest(&self) -> String {
        let bytes = serde_json::to_vec(&Self { sha256: String::new(), ..self.clone() });
        // Strings and numbers always serialise.
        hex_digest(bytes.unwrap_or_default())
    }
}

/// The file of a shard: `shard-00000.safetensors` or `.json`.
pub(crate) fn shard_path(directory: &Path, index: usize, extension: &str) -> PathBuf {
    directory.join(format!("shard-{index:05}.{extension}"))
}

/// Writes a shard atomically.
pub(crate) fn write(directory: &Path, index: usize, manifest: &Manifest, rows: &ShardRows) -> Result<()> {
    let mut tensors: Vec<_> = rows.tensors.iter().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let dtype = manifest.dtype.safetensors();
    let mut header = serde_json::Map::new();
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + tensor.bytes.len();
        let entry = serde_json::json!({ "dtype": dtype, "shape": [rows.len(), tensor.width], "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let path = shard_path(directory, index, "safetensors");
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut tensors_sha256 = String::new();
    write_atomically_with(&path, |file| {
        let mut file = Hashing { file, hash: Sha256Hex::default() };
        file.write_all(&u64::try_from(header.len()).map_err(io::Error::other)?.to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| file.write_all(&tensor.bytes))?;
        tensors_sha256 = file.hash.finish();
        Ok(())
    })?;
    let mut sidecar = Sidecar {
        ids: rows.ids.clone(),
        labels: rows.labels.clone(),
        non_finite: rows.non_finite.iter().map(|(site, count)| (site.to_string(), *count)).collect(),
        tensors_sha256,
        manifest_sha256: manifest.identity()?,
        sha256: String::new(),
    };
    sidecar.sha256 = sidecar.digest();
    let json = serde_json::to_vec(&sidecar).map_err(|e| Error::Shard { path, reason: e.to_string() })?;
    Ok(write_atomically(&shard_path(directory, index, "json"), &json)?)
}

/// A writer that hashes the bytes it passes on.
struct Hashing<W> {
    file: W,
    hash: Sha256Hex,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A complete shard, memory-mapped.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) sidecar: Sidecar,
    map: Mmap,
    /// The byte range of each tensor in the file.
    tensors: BTreeMap<String, Range<usize>>,
}

impl Shard {
    /// Opens a shard; none if its sidecar is missing. Checks everything but the tensors' hash.
    pub(crate) fn open(directory: &Path, index: usize, manifest: &Manifest, identity: &str) -> Result<Option<Self>> {
        let (path, json) = (shard_path(directory, index, "safetensors"), shard_path(directory, index, "json"));
        let bytes = match std::fs::read(&json) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { path: json, action: "read", source }),
        };
        let damaged = |reason: String| Error::Shard { path: path.clone(), reason };
        let sidecar: Sidecar = serde_json::from_slice(&bytes).map_err(|e| damaged(format!("its ids and labels: {e}")))?;
        if sidecar.sha256 != sidecar.digest() {
            return Err(damaged("its ids and labels are not what their hash says".to_owned()));
        }
        let samples = sidecar.ids.len();
        if sidecar.labels.len() != samples || sidecar.labels.iter().any(|l| *l > 1) {
            return Err(damaged("its labels are not one 0 or 1 per id".to_owned()));
        }
        if sidecar.manifest_sha256 != identity {
            return Err(damaged("it was made for another store, or the manifest has changed".to_owned()));
        }
        let expected = manifest.samples_of(index).len();
        if samples != expected {
            return Err(damaged(format!("it has {samples} samples, expected {expected}")));
        }
        let map = map(&path).map_err(|source| Error::Io { path: path.clone(), action: "map", source })?;
        let tensors = SafeTensors::deserialize(&map).map_err(|e| damaged(e.to_string()))?;
        let mut ranges = BTreeMap::new();
        for (site, width) in manifest.sites()? {
            for pooling in &manifest.poolings {
                let name = manifest.tensor_name(site, pooling);
                let tensor = tensors.tensor(&name).map_err(|e| damaged(format!("{name}: {e}")))?;
                let dtype = manifest.dtype.safetensors();
                if tensor.dtype() != dtype || tensor.shape() != [samples, width] {
                    let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                    return Err(damaged(format!("{name} is {found}, expected {dtype:?} [{samples}, {width}]")));
                }
                let start = tensor.data().as_ptr().addr() - map.as_ptr().addr();
                ranges.insert(name, start..start + tensor.data().len());
            }
        }
        if ranges.len() != tensors.len() {
            return Err(damaged("it has tensors that the manifest does not name".to_owned()));
        }
        Ok(Some(Self { path, sidecar, map, tensors: ranges }))
    }

    /// The number of samples.
    pub(crate) fn samples(&self) -> usize {
        self.sidecar.ids.len()
    }

    /// The bytes of a tensor, row-major.
    pub(crate) fn tensor(&self, name: &str) -> Result<&[u8]> {
        let bytes = self.tensors.get(name).and_then(|range| self.map.get(range.clone()));
        bytes.ok_or_else(|| Error::Shard { path: self.path.clone(), reason: format!("it has no {name}") })
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Checks the tensors' hash, which reads all of them.
    pub(crate) fn check_tensors(&self) -> Result<()> {
        if hex_digest(&self.map) == self.sidecar.tensors_sha256 {
            return Ok(());
        }
        Err(Error::Shard { path: self.path.clone(), reason: "its tensors are not what their hash says".to_owned() })
    }
}

#[allow(unsafe_code, reason = "memory-mapping keeps stores larger than memory readable")]
fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only; `ActivationStore::open` documents that shards must not change while open.
    unsafe { Mmap::map(&file) }
}
