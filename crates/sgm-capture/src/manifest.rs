use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sgm_core::{Calibration, Site};

/// What the activations of a store are: `manifest.json` of its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the store's format.
    pub format_version: u32,
    /// The model's name.
    pub model: String,
    /// SHA-256 of the model's `config.json`, in hex.
    pub config_sha256: String,
    /// The pooling over tokens, for example `max/all`.
    pub pooling: String,
    /// Where the samples come from, if it is known.
    #[serde(default)]
    pub calibration: Option<Calibration>,
    /// The software that made the store.
    pub created_by: String,
    /// The number of neurons of each site, by its name.
    sites: BTreeMap<String, usize>,
}

pub(crate) const FORMAT_VERSION: u32 = 1;

impl Manifest {
    /// A manifest for a model's sites and their widths.
    pub fn new(model: &str, config_sha256: &str, pooling: &str, sites: impl IntoIterator<Item = (Site, usize)>) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            model: model.to_owned(),
            config_sha256: config_sha256.to_owned(),
            pooling: pooling.to_owned(),
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
}
