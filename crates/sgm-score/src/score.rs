use sgm_capture::ActivationStore;
use sgm_core::{Expertise, Metadata, SiteExpertise};

use crate::{Error, Result, auroc_columns};

/// The expertise of every neuron of a store.
///
/// One site is in memory at a time. The metadata says which model, pooling and samples were scored.
///
/// # Errors
///
/// [`Error::SingleClass`] when the samples are all toxic or all non-toxic, [`Error::NotANumber`] naming
/// site, neuron and sample, and what the store reports.
pub fn score_store(store: &ActivationStore) -> Result<Expertise> {
    let manifest = store.manifest();
    let metadata = Metadata {
        base_model: Some(manifest.model.clone()),
        config_sha256: Some(manifest.config_sha256.clone()),
        scorer: Some("auroc".to_owned()),
        pooling: Some(store.pooling().to_owned()),
        calibration: manifest.calibration.clone(),
        created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()),
        ..Metadata::default()
    };
    let mut expertise = Expertise::new(metadata);
    for site in store.sites().keys() {
        let scores = auroc_columns(store.read(*site)?.view(), store.labels()).map_err(|error| match error {
            Error::NotANumber { neuron, sample, .. } => Error::NotANumber { site: Some(site.to_string()), neuron, sample },
            other => other,
        })?;
        #[allow(clippy::cast_possible_truncation, reason = "expertise is kept in f32, as the reference does")]
        let auroc = scores.into_iter().map(|a| a as f32).collect();
        expertise.insert(*site, SiteExpertise { auroc, auroc_se: None })?;
        tracing::debug!(%site, "scored");
    }
    Ok(expertise)
}
