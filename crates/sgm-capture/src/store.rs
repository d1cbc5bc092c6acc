use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use ndarray::Array2;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sgm_core::{Site, nearest, write_atomically};

use crate::manifest::FORMAT_VERSION;
use crate::{Error, Manifest, Result};

const MANIFEST: &str = "manifest.json";
/// Samples in one shard.
const SHARD_SAMPLES: usize = 512;

/// Ids and labels of a shard's samples: the `.json` beside it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Sidecar {
    ids: Vec<String>,
    /// 1 toxic, 0 not.
    labels: Vec<u8>,
}

fn shard_path(directory: &Path, index: usize, extension: &str) -> PathBuf {
    directory.join(format!("shard-{index:05}.{extension}"))
}

/// Fills a new store, shard by shard. Every file is written whole or not at all, and the manifest last:
/// a directory without one is not a store.
#[derive(Debug)]
pub struct StoreWriter {
    directory: PathBuf,
    manifest: Manifest,
    sites: BTreeMap<Site, usize>,
    responses: BTreeMap<Site, Vec<f32>>,
    sidecar: Sidecar,
    shards: usize,
}

impl StoreWriter {
    /// Begins a store in a new or empty directory.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when the directory has a store already, [`Error::Io`] when it cannot be made.
    pub fn create(directory: impl AsRef<Path>, manifest: Manifest) -> Result<Self> {
        let directory = directory.as_ref().to_owned();
        if directory.join(MANIFEST).exists() {
            return Err(Error::Exists { path: directory });
        }
        std::fs::create_dir_all(&directory).map_err(|source| Error::Io { path: directory.clone(), action: "create", source })?;
        let sites = manifest.sites()?;
        Ok(Self { directory, manifest, sites, responses: BTreeMap::new(), sidecar: Sidecar::default(), shards: 0 })
    }

    /// Appends one sample: its id, whether it is toxic, and the pooled responses of every site.
    ///
    /// # Errors
    ///
    /// [`Error::Sample`] when a site is missing or has another width, [`Error::NotFinite`] when a
    /// response is NaN or infinite, [`Error::Io`] when a full shard cannot be written. The store is as
    /// it was then, and another sample may follow.
    pub fn push(&mut self, id: &str, toxic: bool, responses: &BTreeMap<Site, Vec<f32>>) -> Result<()> {
        for (site, width) in &self.sites {
            let wrong = |reason: String| Error::Sample { sample: id.to_owned(), reason };
            let values = responses.get(site).ok_or_else(|| wrong(format!("no responses of {site}")))?;
            if values.len() != *width {
                return Err(wrong(format!("{} responses of {site}, expected {width}", values.len())));
            }
            if let Some((neuron, value)) = values.iter().copied().enumerate().find(|(_, v)| !v.is_finite()) {
                return Err(Error::NotFinite { sample: id.to_owned(), site: site.to_string(), neuron, value });
            }
        }
        if self.sidecar.ids.len() >= SHARD_SAMPLES {
            self.flush()?;
        }
        for site in self.sites.keys() {
            self.responses.entry(*site).or_default().extend(responses.get(site).into_iter().flatten());
        }
        self.sidecar.ids.push(id.to_owned());
        self.sidecar.labels.push(u8::from(toxic));
        Ok(())
    }

    /// Writes what is left and the manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a file cannot be written; the shards before it stay.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let manifest = serde_json::to_vec_pretty(&self.manifest).map_err(|e| self.not_a_store(e.to_string()))?;
        Ok(write_atomically(&self.directory.join(MANIFEST), &manifest)?)
    }

    fn flush(&mut self) -> Result<()> {
        let samples = self.sidecar.ids.len();
        if samples == 0 {
            return Ok(());
        }
        let failed = |reason: String| Error::NotAStore { path: self.directory.clone(), reason };
        let bytes: Vec<(String, usize, Vec<u8>)> = self
            .responses
            .iter()
            .map(|(site, values)| (site.to_string(), values.len() / samples, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, width, data)| Ok((name.as_str(), TensorView::new(Dtype::F32, vec![samples, *width], data)?)))
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| failed(e.to_string()))?;
        let shard = safetensors::serialize(views, None).map_err(|e| failed(e.to_string()))?;
        let sidecar = serde_json::to_vec(&self.sidecar).map_err(|e| failed(e.to_string()))?;
        write_atomically(&shard_path(&self.directory, self.shards, "json"), &sidecar)?;
        write_atomically(&shard_path(&self.directory, self.shards, "safetensors"), &shard)?;
        self.shards += 1;
        self.responses.clear();
        self.sidecar = Sidecar::default();
        Ok(())
    }

    fn not_a_store(&self, reason: String) -> Error {
        Error::NotAStore { path: self.directory.clone(), reason }
    }
}

/// The pooled activations of labelled samples: a directory with `manifest.json`, and per shard
/// `shard-00000.safetensors` (one f32 tensor `<site>` `[samples, neurons]` per site) with
/// `shard-00000.json` (ids and labels).
#[derive(Debug)]
pub struct ActivationStore {
    manifest: Manifest,
    sites: BTreeMap<Site, usize>,
    shards: Vec<Shard>,
    ids: Vec<String>,
    labels: Vec<bool>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
    samples: usize,
}

impl ActivationStore {
    /// Opens a finished store. Its shards are memory-mapped and must not change meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::NotAStore`] when the directory has no readable manifest, [`Error::Shard`] when a shard
    /// is damaged.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let path = directory.join(MANIFEST);
        let not_a_store = |reason: String| Error::NotAStore { path: path.clone(), reason };
        let bytes = std::fs::read(&path).map_err(|e| not_a_store(format!("{e}; was the capture finished?")))?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| not_a_store(e.to_string()))?;
        if manifest.format_version > FORMAT_VERSION {
            return Err(not_a_store(format!(
                "format version {} is newer than {FORMAT_VERSION}; update this build",
                manifest.format_version
            )));
        }
        let mut store = Self { sites: manifest.sites()?, manifest, shards: Vec::new(), ids: Vec::new(), labels: Vec::new() };
        for index in 0.. {
            let path = shard_path(directory, index, "safetensors");
            if !path.exists() {
                break;
            }
            store.add_shard(path, &shard_path(directory, index, "json"))?;
        }
        Ok(store)
    }

    fn add_shard(&mut self, path: PathBuf, sidecar: &Path) -> Result<()> {
        let damaged = |reason: String| Error::Shard { path: path.clone(), reason };
        let bytes = std::fs::read(sidecar).map_err(|source| Error::Io { path: sidecar.to_owned(), action: "read", source })?;
        let sidecar: Sidecar = serde_json::from_slice(&bytes).map_err(|e| damaged(format!("ids and labels: {e}")))?;
        let samples = sidecar.ids.len();
        if sidecar.labels.len() != samples || sidecar.labels.iter().any(|l| *l > 1) {
            return Err(damaged("its labels are not one 0 or 1 per id".to_owned()));
        }
        let map = map(&path).map_err(|source| Error::Io { path: path.clone(), action: "map", source })?;
        let tensors = SafeTensors::deserialize(&map).map_err(|e| damaged(e.to_string()))?;
        for (site, width) in &self.sites {
            let tensor = tensors.tensor(&site.to_string()).map_err(|e| damaged(format!("{site}: {e}")))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != [samples, *width] {
                return Err(damaged(format!("{site} is {:?} {:?}, expected F32 [{samples}, {width}]", tensor.dtype(), tensor.shape())));
            }
        }
        self.labels.extend(sidecar.labels.iter().map(|l| *l == 1));
        self.ids.extend(sidecar.ids);
        self.shards.push(Shard { path, map, samples });
        Ok(())
    }

    /// What the activations are.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The sites and their widths, by layer and projection.
    pub fn sites(&self) -> &BTreeMap<Site, usize> {
        &self.sites
    }

    /// The ids of the samples.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether each sample is toxic.
    pub fn labels(&self) -> &[bool] {
        &self.labels
    }

    /// The responses of one site's neurons, f32 `[samples, neurons]`.
    ///
    /// # Errors
    ///
    /// [`sgm_core::Error::UnknownSite`] naming the nearest site, [`Error::Shard`] when a shard is damaged.
    pub fn read(&self, site: Site) -> Result<Array2<f32>> {
        let name = site.to_string();
        let unknown = || sgm_core::Error::UnknownSite {
            nearest: nearest(&name, self.sites.keys().copied()).map(|n| n.to_string()),
            name: name.clone(),
        };
        let width = *self.sites.get(&site).ok_or_else(unknown)?;
        let mut values = Vec::with_capacity(self.labels.len() * width);
        for shard in &self.shards {
            let damaged = |reason: String| Error::Shard { path: shard.path.clone(), reason };
            let tensors = SafeTensors::deserialize(&shard.map).map_err(|e| damaged(e.to_string()))?;
            let tensor = tensors.tensor(&name).map_err(|e| damaged(e.to_string()))?;
            let (numbers, _) = tensor.data().as_chunks::<4>();
            values.extend(numbers.iter().map(|b| f32::from_le_bytes(*b)));
        }
        let samples = self.shards.iter().map(|s| s.samples).sum();
        Array2::from_shape_vec((samples, width), values).map_err(|e| Error::Sample { sample: name.clone(), reason: e.to_string() })
    }
}

#[allow(unsafe_code, reason = "memory-mapping keeps stores larger than memory readable")]
fn map(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only; `ActivationStore::open` documents that shards must not change while open.
    unsafe { Mmap::map(&file) }
}
