//! Expertise: the AUROC of each neuron as a detector of toxic input, and its file.

use std::collections::BTreeMap;
use std::path::Path;

use crate::tensor_file::Named;
use crate::{Error, Metadata, Result, Site, tensor_file, write_atomically};

/// The accuracy of each neuron of a model as a detector of toxic input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expertise {
    sites: BTreeMap<Site, SiteExpertise>,
    /// The origin of the scores.
    pub metadata: Metadata,
}

/// The expertise of one site's neurons.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SiteExpertise {
    /// The area under the ROC curve of each neuron's pooled response as a detector of toxic input, f32 `[neurons]` in 0..=1: 0.5 is chance,
    /// 1 a response that is always higher on toxic input, 0 one that is always lower.
    pub auroc: Vec<f32>,
    /// The standard error of each AUROC, f32 `[neurons]`, if it was computed.
    pub auroc_se: Option<Vec<f32>>,
}

const FORMAT: &str = "sgm-expertise";

impl Expertise {
    /// An expertise without sites.
    pub fn new(metadata: Metadata) -> Self {
        Self { sites: BTreeMap::new(), metadata }
    }

    /// Adds a site, or replaces it.
    ///
    /// # Errors
    ///
    /// [`Error::Width`] when the vectors differ in length, [`Error::Value`] when an AUROC is not in
    /// 0..=1 or a standard error is negative or not finite.
    pub fn insert(&mut self, site: Site, expertise: SiteExpertise) -> Result<()> {
        let width = expertise.auroc.len();
        check(site, "auroc", width, &expertise.auroc, "a number from 0 to 1", |v| (0.0..=1.0).contains(&v))?;
        if let Some(se) = &expertise.auroc_se {
            check(site, "auroc_se", width, se, "a finite number from 0 up", |v| v.is_finite() && v >= 0.0)?;
        }
        self.sites.insert(site, expertise);
        Ok(())
    }

    /// The sites with their expertise, by layer and projection.
    pub fn sites(&self) -> &BTreeMap<Site, SiteExpertise> {
        &self.sites
    }

    /// The number of neurons of all sites.
    pub fn neurons(&self) -> usize {
        self.sites.values().map(|s| s.auroc.len()).sum()
    }

    /// Writes the file atomically: `<site>/auroc` f32 `[neurons]`, optionally `<site>/auroc_se`, and the metadata with
    /// `format = "sgm-expertise"`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let sites = self
            .sites
            .iter()
            .map(|(site, e)| {
                let se = e.auroc_se.as_deref().map(|se| Named::vector("auroc_se", se));
                (*site, std::iter::once(Named::vector("auroc", &e.auroc)).chain(se).collect())
            })
            .collect();
        write_atomically(path.as_ref(), &tensor_file::bytes(path.as_ref(), FORMAT, &self.metadata, &sites)?)
    }

    /// Reads an expertise file.
    ///
    /// # Errors
    ///
    /// Any error of this crate, when the file is missing, damaged or of another kind.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_bytes(&path, &tensor_file::read(path.as_ref())?)
    }

    /// Parses the bytes of an expertise file; `path` names it in errors.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        let path = path.as_ref();
        let (metadata, sites) = tensor_file::parse(path, bytes, FORMAT, &["auroc", "auroc_se"])?;
        let mut expertise = Self::new(metadata);
        for (site, mut vectors) in sites {
            let mut take = |name: &str| vectors.remove(name).map(|vector| vector.values);
            let auroc = take("auroc").ok_or_else(|| missing(path, site, "auroc"))?;
            expertise.insert(site, SiteExpertise { auroc, auroc_se: take("auroc_se") })?;
        }
        Ok(expertise)
    }
}

/// Checks the length of a vector and the range of its values.
pub(crate) fn check(
    site: Site,
    what: &'static str,
    width: usize,
    values: &[f32],
    expected: &'static str,
    allowed: impl Fn(f32) -> bool,
) -> Result<()> {
    if values.len() != width {
        return Err(Error::Width { site: site.to_string(), what, expected: width, got: values.len() });
    }
    match values.iter().position(|v| !allowed(*v)) {
        None => Ok(()),
        Some(neuron) => {
            let value = values.get(neuron).copied().unwrap_or(f32::NAN);
            Err(Error::Value { site: site.to_string(), what, neuron, value, expected })
        }
    }
}

/// The error of a file without a required vector of a site.
pub(crate) fn missing(path: &Path, site: Site, what: &str) -> Error {
    Error::Tensor {
        path: path.to_owned(),
        tensor: format!("{site}/{what}"),
        reason: "the file has other vectors of this site but not this one".to_owned(),
    }
}
