use sgm_capture::ActivationStore;
use sgm_core::{Expertise, Metadata, SiteExpertise};

use crate::{Result, ScoreOptions, Scores, score};

/// The expertise of every neuron of a store: AUROC and DeLong's standard error.
///
/// One site is in memory at a time. The metadata says which model, pooling and samples were scored. There are no
/// standard errors when a class has a single sample.
///
/// # Errors
///
/// [`Error::SingleClass`](crate::Error::SingleClass) when the samples are all toxic or all non-toxic,
/// [`Error::NotANumber`](crate::Error::NotANumber) naming site, neuron and sample, and what the store reports.
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
        let responses = store.read(*site)?;
        let scores = score(&responses.view(), store.labels(), &ScoreOptions::default()).map_err(|e| e.at(&site.to_string()))?;
        expertise.insert(*site, scores.to_expertise())?;
        tracing::debug!(%site, "scored");
    }
    Ok(expertise)
}

impl Scores {
    /// The scores in f32, as they are kept in expertise files and as the reference implementation has them.
    ///
    /// Standard errors are left out unless all are known.
    #[allow(clippy::cast_possible_truncation, reason = "expertise is kept in f32")]
    pub fn to_expertise(&self) -> SiteExpertise {
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
        let known = self.auroc_se.iter().all(|se| se.is_finite());
        SiteExpertise { auroc: single(&self.auroc), auroc_se: known.then(|| single(&self.auroc_se)) }
    }
}
