use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sgm_core::{Calibration, Site};
use sha2::{Digest, Sha256};

use crate::{Error, Result, StoreDtype};

/// What the activations of a store are: `manifest.json` of its directory.
///
/// It has everything that decides what the shards hold. Whoever adds to a store must bring an equal one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the store's format.
    pub format_version: u32,
    /// The model's name.
    pub model: String,
    /// SHA-256 of the model's `config.json`, in hex.
    pub config_sha256: String,
    /// What tells the model's weights from others, see `ModelInfo::weights` of `sgm-models`.
    #[serde(default)]
    pub weights: Option<String>,
    /// The poolings over tokens, for example `max/all`, in order; never none.
    pub poolings: Vec<String>,
    /// How responses are kept.
    #[serde(default)]
    pub dtype: StoreDtype,
    /// What happened to samples with responses that are no finite numbers.
    #[serde(default)]
    pub non_finite: NonFinite,
    /// The samples of every shard but the last.
    pub shard_samples: usize,
    /// The samples of all shards.
    pub samples: usize,
    /// SHA-256 of the samples in their order, in hex, if they were known beforehand.
    #[serde(default)]
    pub samples_sha256: Option<String>,
    /// What else the responses depend on, such as the batch size: batches of other shapes round differently.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Where the samples come from, if it is known.
    #[serde(default)]
    pub calibration: Option<Calibration>,
    /// The software that made the store.
    pub created_by: String,
    /// The number of neurons of each site, by its name.
    sites: BTreeMap<String, usize>,
}

/// What is done about a sample with responses that are NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFinite {
    /// It is an error.
    #[default]
    Refuse,
    /// It is kept as it is, and its shard counts them by site.
    Keep,
}

pub(crate) const FORMAT_VERSION: u32 = 2;
/// Samples in a shard, unless they are large.
const SHARD_SAMPLES: usize = 512;
/// What five digits count.
const MAX_SHARDS: usize = 100_000;
/// What a shard's responses may take, which is in memory while it is made.
const SHARD_BYTES: usize = 256 << 20;

impl Manifest {
    /// A manifest for a model's sites and their widths, for one pooling in f32; the public fields may be changed before it is used.
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

    /// The samples of a shard, by their numbers.
    pub fn samples_of(&self, shard: usize) -> std::ops::Range<usize> {
        let start = shard.saturating_mul(self.shard_samples).min(self.samples);
        start..start.saturating_add(self.shard_samples).min(self.samples)
    }

    /// The bytes that the responses of one sample take.
    pub fn sample_bytes(&self) -> usize {
        let widths = self.sites.values().fold(0usize, |sum, width| sum.saturating_add(*width));
        widths.saturating_mul(self.poolings.len()).saturating_mul(self.dtype.bytes())
    }

    /// The samples a shard should have: up to 512, fewer where they would take over 256 MiB, and whole batches.
    pub fn usual_shard_samples(&self, batch_size: usize) -> usize {
        let samples = (SHARD_BYTES / self.sample_bytes().max(1)).clamp(1, SHARD_SAMPLES);
        (samples / batch_size * batch_size).max(batch_size)
    }

    /// The tensor of a site's responses. A store of one pooling calls it by the site alone.
    pub(crate) fn tensor_name(&self, site: Site, pooling: &str) -> String {
        if self.poolings.len() == 1 { site.to_string() } else { format!("{site}/{pooling}") }
    }

    /// SHA-256 over all but the number of samples, which a store in the making may not know; every shard carries it.
    pub(crate) fn identity(&self) -> Result<String> {
        let bytes = Self { samples: 0, ..self.clone() }.to_json()?;
        Ok(sha256(&bytes))
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

    /// Checks what no store can be without.
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

    /// Checks that `self`, found at `path`, is `other`.
    ///
    /// # Errors
    ///
    /// [`Error::Differs`] naming everything that differs.
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
                // Too long to show.
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

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
