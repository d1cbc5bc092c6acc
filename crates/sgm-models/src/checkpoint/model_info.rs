//! The description of a model: its name, architecture, sites and fingerprint.

use std::collections::BTreeMap;

use sgm_core::Site;

/// A site of a model and its number of neurons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteInfo {
    /// The site.
    pub site: Site,
    /// The number of its output channels.
    pub width: usize,
}

/// The description of a model, without its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name of the model's directory, or the name under which it was embedded.
    pub name: String,
    /// The class name of `architectures` in `config.json`.
    pub architecture: String,
    /// SHA-256 of `config.json`, in hex.
    pub config_sha256: String,
    /// The fingerprint of the weight files, a sampled SHA-256 in hex: each file's length and bytes; of a file above 8
    /// MiB, the first MiB and 1,024 blocks of 4 KiB spread evenly. `None` if the files cannot be read.
    ///
    /// Models that were trained or quantised differently have different fingerprints. A change of a few rows may go
    /// unnoticed, and scales folded in on loading are not covered.
    pub weights: Option<String>,
    /// The dtype in which the model computes, such as `f32`.
    pub dtype: String,
    /// The token ids that end a response.
    pub eos: Vec<u32>,
    /// The sites, ordered by layer and projection. Of a mixture of experts, that is the output of the whole mixture.
    pub sites: Vec<SiteInfo>,
    /// The sites of single experts, ordered by layer, expert and projection. They are captured only on request.
    pub expert_sites: Vec<SiteInfo>,
}

impl ModelInfo {
    /// The width of each site, without those of single experts.
    pub fn widths(&self) -> BTreeMap<Site, usize> {
        self.sites.iter().map(|s| (s.site, s.width)).collect()
    }

    /// The width of each site, also of single experts, in the form that
    /// [`Intervention::check_against`](sgm_core::Intervention::check_against) takes.
    pub fn all_widths(&self) -> BTreeMap<Site, usize> {
        self.sites.iter().chain(&self.expert_sites).map(|s| (s.site, s.width)).collect()
    }

    /// The total number of neurons, without those of single experts.
    pub fn neurons(&self) -> usize {
        self.sites.iter().map(|s| s.width).sum()
    }
}
