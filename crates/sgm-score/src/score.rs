//! Scores of a store of activations.

use half::{bf16, f16};
use sgm_capture::{ActivationStore, Block, StoreDtype};
use sgm_core::{Expertise, Metadata, SiteExpertise};

use crate::{Response, Result, ScoreOptions, Scores, Shards, score};

/// The expertise of every neuron of a store: AUROC and DeLong's standard error.
///
/// Responses are read from the mapped shards in their dtype, and never copied as a whole. The metadata record the model, the pooling and
/// the samples. Standard errors are missing if a class has a single sample.
///
/// # Errors
///
/// [`Error::SingleClass`](crate::Error::SingleClass) when the samples are all toxic or all non-toxic,
/// [`Error::NotANumber`](crate::Error::NotANumber) naming site, neuron and sample, and the errors of the store.
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
        let blocks = store.blocks(*site)?;
        let scores = match store.manifest().dtype {
            StoreDtype::F32 => score_blocks::<f32>(&blocks, store.labels()),
            StoreDtype::Bf16 => score_blocks::<bf16>(&blocks, store.labels()),
            StoreDtype::F16 => score_blocks::<f16>(&blocks, store.labels()),
        }
        .map_err(|e| e.at(&site.to_string()))?;
        expertise.insert(*site, scores.to_expertise())?;
        tracing::debug!(%site, "scored");
    }
    Ok(expertise)
}

fn score_blocks<T: Response>(blocks: &[Block<'_>], labels: &[bool]) -> Result<Scores> {
    let neurons = blocks.first().map_or(0, |block| block.neurons);
    score(&Shards::<T>::new(blocks.iter().map(|block| block.bytes), neurons)?, labels, &ScoreOptions::default())
}

impl Scores {
    /// The scores in f32, as in expertise files and in the reference implementation.
    ///
    /// Standard errors are left out unless all are known.
    #[allow(clippy::cast_possible_truncation, reason = "expertise is kept in f32")]
    pub fn to_expertise(&self) -> SiteExpertise {
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<_>>();
        let known = self.auroc_se.iter().all(|se| se.is_finite());
        SiteExpertise { auroc: single(&self.auroc), auroc_se: known.then(|| single(&self.auroc_se)) }
    }
}
