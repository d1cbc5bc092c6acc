//! The manifest of a store: the model, samples and settings that determine its contents.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sgm_core::sha256::hex_digest;
use sgm_core::{Calibration, Site, SkippedSample};

use crate::{Error, Result, StoreDtype};

/// The description of a store: `manifest.json` of its directory.
///
/// It determines the contents of the shards. A process that adds to a store must have an equal manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the store's format.
    pub format_version: u32,
    /// The model's name.
    pub model: String,
    /// SHA-256 of the model's `config.json`, in hex.
    pub config_sha256: String,
    /// The fingerprint of the model's weights, see `ModelInfo::weights` of `sgm-models`.
    #[serde(default)]
    pub weights: Option<String>,
    /// The poolings over tokens, for example `max/all`, in order; at least one.
    pub poolings: Vec<String>,
    /// The dtype of stored responses.
    #[serde(default)]
    pub dtype: StoreDtype,
    /// The treatment of samples with responses that are not finite.
    #[serde(default)]
    pub non_finite: NonFinite,
    /// The number of samples of every shard but the last.
    pub shard_samples: usize,
    /// The number of samples of all shards.
    pub samples: usize,
    /// SHA-256 of the samples in order, in hex, if they were known beforehand.
    #[serde(default)]
    pub samples_sha256: Option<String>,
    /// Other settings that affect the responses, such as the batch size: batches of other shapes round differently.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// The origin of the samples, if it is known.
    #[serde(default)]
    pub calibration: Option<Calibration>,
    /// The samples that were left out, with the reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedSample>,
    /// The software that wrote the store.
    pub created_by: String,
    /// The number of neurons of each site, by its name.
    sites: BTreeMap<String, usize>,
}

/// The treatment of a sample with responses that are NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// The sample is an error.
    #[default]
    Refuse,
    /// The sample is kept unchanged, and its shard counts such responses by site.
    Keep,
}

pub(crate) const FORMAT_VERSION: u32 = 2;
/// The usual number of samples of a shard.
const SHARD_SAMPLES: usize = 512;
/// The largest number of shards: their indices have five digits.
const MAX_SHARDS: usize = 100_000;
/// The largest number of bytes of a shard's responses, which are in memory until it is written.
const SHARD_BYTES: usize = 256 << 20;

impl Manifest {
    /// A manifest for a model's sites and their widths, one pooling and dtype f32; the public fields may be changed before use.
    pub fn new(model: &str, config_sha256: &str, pooling: &str, sites: impl IntoIterator<Item = (Site, usize)>) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            model: model.to_owned(),
            config_sha256: config_sha256.to_owned(),
            weights: None,
            poolings: vec![pooling.to_owned()],
            dtype: StoreDtype::F32,
            non_finite: NonFinite::Refuse,
            shard_samples: SHARD_SAMPLES,
            samples: 0,
            samples_sha256: None,
            settings: BTreeMap::new(),
            calibration: None,
            skipped: Vec::new(),
            created_by: concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned(),
            sites: sites.into_iter().map(|(site, width)| (site.to_string(), width)).collect(),
        }
    }

    /// The sites and their widths, by layer and projection.
    ///
    /// # Errors
    ///
    /// [`sgm_core::Error::UnknownSite`] when a name in the file is not a site's.
    pub fn sites(&self) -> sgm_core::Result<BTreeMap<Site, usize>> {
        self.sites.iter().map(|(name, width)| Ok((name.parse()?, *width))).collect()
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.samples.div_ceil(self.shard_samples.max(1))
    }

    /// The indices of a shard's samples.
    pub fn samples_of(&self, shard: usize) -> std::ops::Range<usize> {
        let start = shard.saturating_mul(self.shard_samples).min(self.samples);
        start..start.saturating_add(self.shard_samples).min(self.samples)
    }

    /// The number of bytes of one sample's responses.
    pub fn sample_bytes(&self) -> usize {
        let widths = self.sites.values().fold(0usize, |sum, width| sum.saturating_add(*width));
        widths.saturating_mul(self.poolings.len()).saturating_mul(self.dtype.bytes())
    }

    /// The recommended number of samples of a shard: up to 512, fewer if they exceed 256 MiB, a multiple of the batch size.
    pub fn usual_shard_samples(&self, batch_size: usize) -> usize {
        let samples = (SHARD_BYTES / self.sample_bytes().max(1)).clamp(1, SHARD_SAMPLES);
        (samples / batch_size * batch_size).max(batch_size)
    }

    /// The name of the tensor of a site's responses: in a store of one pooling the site alone.
    pub(crate) fn tensor_name(&self, site: Site, pooling: &str) -> String {
        if self.poolings.len() == 1 { site.to_string() } else { format!("{site}/{pooling}") }
    }

    /// SHA-256 over all but the number of samples, which an unfinished store may not know; every shard records it.
    pub(crate) fn identity(&self) -> Result<String> {
        let bytes = Self { samples: 0, ..self.clone() }.to_json()?;
        Ok(hex_digest(bytes))
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|e| Error::Sample { sample: String::new(), reason: format!("its manifest: {e}") })
    }

    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let wrong = |reason: String| Error::NotAStore { path: path.to_owned(), reason };
        let version = |v: &serde_json::Value| v.get("format_version").and_then(serde_json::Value::as_u64);
        let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        match version(&json) {
            Some(v) if v > u64::from(FORMAT_VERSION) => {
                return Err(wrong(format!("format version {v} is newer than {FORMAT_VERSION}; update this build")));
            }
            Some(v) if v < u64::from(FORMAT_VERSION) => {
                return Err(wrong(format!("format version {v} is no longer read; capture again")));
            }
            _ => {}
        }
        let manifest: Self = serde_json::from_value(json).map_err(|e| wrong(e.to_string()))?;
        manifest.check(path)?;
        Ok(manifest)
    }

    /// Checks the requirements of every store.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let wrong = |reason: &str| Err(Error::NotAStore { path: path.to_owned(), reason: reason.to_owned() });
        if self.shard_samples == 0 {
            return wrong("shard_samples is 0");
        }
        if self.shards() > MAX_SHARDS {
            return wrong("it has over 100,000 shards; make them larger");
        }
        if self.poolings.is_empty() || self.poolings.iter().enumerate().any(|(i, p)| self.poolings.iter().take(i).any(|q| q == p)) {
            return wrong("its poolings are none, or one of them twice");
        }
        self.sites()?;
        Ok(())
    }

    /// Checks that `self`, the manifest at `path`, equals `other`.
    ///
    /// # Errors
    ///
    /// [`Error::Differs`] naming all entries that differ.
    pub(crate) fn expect(&self, path: &Path, other: &Self) -> Result<()> {
        let json = |manifest: &Self| serde_json::to_value(manifest).unwrap_or_default();
        let (there, here) = (json(self), json(other));
        let empty = serde_json::Map::new();
        let differing: Vec<String> = there
            .as_object()
            .unwrap_or(&empty)
            .iter()
            .filter(|(key, value)| here.get(key.as_str()) != Some(*value))
            .map(|(key, value)| match key.as_str() {
                // The sites are too many to list.
                "sites" => "sites".to_owned(),
                _ => format!("{key} ({value} there, {} here)", here.get(key).unwrap_or(&serde_json::Value::Null)),
            })
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        Err(Error::Differs { path: path.to_owned(), what: differing.join(", ") })
    }
}
