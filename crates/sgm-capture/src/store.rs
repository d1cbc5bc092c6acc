//! The reader of finished stores.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;
use sgm_core::{Site, nearest};

use crate::partial::{MANIFEST, PartialStore, UNFINISHED};
use crate::shard::Shard;
use crate::{Error, Manifest, Result, StoreDtype};

/// The pooled activations of labelled samples: a directory with `manifest.json`, and per shard `shard-00000.safetensors` (a tensor
/// `<site>` `[samples, neurons]` per site, or one `<site>/<pooling>` each where there are several poolings) with
/// `shard-00000.json` (ids, labels, hashes).
///
/// A store of several poolings is read one pooling at a time: the first of the manifest, or another selected by
/// [`with_pooling`](Self::with_pooling), which reads nothing.
#[derive(Debug, Clone)]
pub struct ActivationStore {
    manifest: Arc<Manifest>,
    sites: BTreeMap<Site, usize>,
    shards: Arc<[Shard]>,
    ids: Arc<[String]>,
    labels: Arc<[bool]>,
    non_finite: BTreeMap<Site, usize>,
    pooling: String,
}

/// The responses of one site's neurons to the samples of one shard, in the mapped file.
#[derive(Debug, Clone)]
pub struct Block<'a> {
    /// The indices of the samples in the store.
    pub samples: Range<usize>,
    /// The number of neurons.
    pub neurons: usize,
    /// The dtype of the bytes.
    pub dtype: StoreDtype,
    /// `[samples, neurons]`, row-major, little-endian.
    pub bytes: &'a [u8],
}

impl Block<'_> {
    /// Appends the responses of some neurons, f32 `[samples, neurons]`, to `to`; neurons out of range are left out.
    pub fn read(&self, neurons: Range<usize>, to: &mut Vec<f32>) {
        let size = self.dtype.bytes();
        let wanted = neurons.start.min(self.neurons) * size..neurons.end.min(self.neurons) * size;
        for row in self.bytes.chunks_exact((self.neurons * size).max(1)) {
            self.dtype.decode(row.get(wanted.clone()).unwrap_or_default(), to);
        }
    }
}

impl ActivationStore {
    /// Opens a finished store. Its shards are memory-mapped and must not change while it is open.
    ///
    /// Everything is checked but the hashes of the tensors, which [`verify`](crate::verify) checks by reading every byte.
    ///
    /// # Errors
    ///
    /// [`Error::NotAStore`] when the directory has no readable manifest or the store is not finished, [`Error::Shard`] when a shard
    /// is missing or damaged.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let path = directory.join(MANIFEST);
        let not_a_store = |reason: String| Error::NotAStore { path: path.clone(), reason };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(_) if directory.join(UNFINISHED).exists() => {
                let partial = PartialStore::open(directory)?;
                let (missing, of) = (partial.missing()?.len(), partial.manifest().shards());
                return Err(not_a_store(format!("{missing} of {of} shards are missing; resume the capture")));
            }
            Err(e) => return Err(not_a_store(format!("{e}; was the capture finished?"))),
        };
        let manifest = Manifest::parse(&path, &bytes)?;
        let identity = manifest.identity()?;
        let (mut shards, mut ids, mut labels, mut non_finite) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        for index in 0..manifest.shards() {
            let shard = Shard::open(directory, index, &manifest, &identity)?
                .ok_or_else(|| not_a_store(format!("shard {index} of {} is missing", manifest.shards())))?;
            ids.extend(shard.sidecar.ids.iter().cloned());
            labels.extend(shard.sidecar.labels.iter().map(|l| *l == 1));
            for (site, count) in &shard.sidecar.non_finite {
                *non_finite.entry(site.parse()?).or_insert(0) += count;
            }
            shards.push(shard);
        }
        let pooling = manifest.poolings.first().cloned().unwrap_or_default();
        Ok(Self {
            sites: manifest.sites()?,
            manifest: Arc::new(manifest),
            shards: shards.into(),
            ids: ids.into(),
            labels: labels.into(),
            non_finite,
            pooling,
        })
    }

    /// The same store, read by another of its poolings, such as `mean/text`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownPooling`] naming the poolings of the store.
    pub fn with_pooling(mut self, pooling: &str) -> Result<Self> {
        if !self.manifest.poolings.iter().any(|p| p == pooling) {
            return Err(Error::UnknownPooling { name: pooling.to_owned(), known: self.manifest.poolings.clone() });
        }
        pooling.clone_into(&mut self.pooling);
        Ok(self)
    }

    /// The pooling that is read.
    pub fn pooling(&self) -> &str {
        &self.pooling
    }

    /// The manifest.
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

    /// The number of responses that were not finite, by site; empty unless such samples were kept.
    ///
    /// Counted are responses at single tokens that any of the poolings selects, and pooled responses that the dtype cannot represent.
    pub fn non_finite(&self) -> &BTreeMap<Site, usize> {
        &self.non_finite
    }

    /// The responses of one site's neurons in the mapped files, one block per shard in the order of the samples.
    ///
    /// Nothing is copied; pages are read from disk on access.
    ///
    /// # Errors
    ///
    /// [`sgm_core::Error::UnknownSite`] naming the nearest site.
    pub fn blocks(&self, site: Site) -> Result<Vec<Block<'_>>> {
        let name = site.to_string();
        let unknown = || sgm_core::Error::UnknownSite {
            nearest: nearest(&name, self.sites.keys().copied()).map(|n| n.to_string()),
            name: name.clone(),
        };
        let neurons = *self.sites.get(&site).ok_or_else(unknown)?;
        let tensor = self.manifest.tensor_name(site, &self.pooling);
        let mut first = 0;
        let block = |shard: &'_ Shard| {
            let samples = first..first + shard.samples();
            first = samples.end;
            (samples, neurons, self.manifest.dtype)
        };
        let places: Vec<_> = self.shards.iter().map(block).collect();
        let tensors = self.shards.iter().zip(places);
        tensors.map(|(shard, (samples, neurons, dtype))| Ok(Block { samples, neurons, dtype, bytes: shard.tensor(&tensor)? })).collect()
    }

    /// The responses of one site's neurons, f32 `[samples, neurons]`.
    ///
    /// # Errors
    ///
    /// As [`blocks`](Self::blocks).
    pub fn read(&self, site: Site) -> Result<Array2<f32>> {
        let blocks = self.blocks(site)?;
        let neurons = self.sites.get(&site).copied().unwrap_or(0);
        let bytes: usize = blocks.iter().map(|b| b.bytes.len()).sum();
        let mut values = Vec::with_capacity(bytes / self.manifest.dtype.bytes());
        blocks.iter().for_each(|block| block.read(0..neurons, &mut values));
        Array2::from_shape_vec((self.ids.len(), neurons), values)
            .map_err(|e| Error::Sample { sample: site.to_string(), reason: e.to_string() })
    }
}
