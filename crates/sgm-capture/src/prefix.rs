//! The tokens that all prompts of a capture begin with, such as a system prompt, run once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use sgm_core::{Site, TokenKind};
use sgm_models::{Mllm, ModelInputs, SharedPrefix, Tap, TappedModel, TokenSpans};

use crate::examples::batch;
use crate::{Examples, PooledTap, Result};

/// Samples whose common beginning is the prefix.
const SAMPLES: usize = 8;
/// Shorter prefixes, in tokens, are not worth copying their outputs for every sample.
const LEAST: usize = 8;
/// The least share of the samples' tokens, one in so many.
const SHARE: usize = 16;

/// A prefix with the outputs of its tokens at all sites.
pub(crate) struct Prefix {
    pub(crate) shared: SharedPrefix,
    outputs: Arc<BTreeMap<Site, Tensor>>,
}

impl Prefix {
    /// The prefix of a capture's first samples. `None` if it is too short to gain anything, or if the model cannot share it.
    pub(crate) fn find<M: Mllm + ?Sized>(model: &M, examples: &Examples<'_>) -> Result<Option<Self>> {
        let numbers: Vec<usize> = (0..examples.len().min(SAMPLES)).collect();
        if numbers.len() < 2 || !model.taps().is_empty() {
            return Ok(None);
        }
        // A bad sample is reported when its turn comes.
        let Ok((inputs, _)) = batch(model, examples, &numbers) else { return Ok(None) };
        let tokens = common(&inputs)?;
        let all = inputs.kinds.iter().flatten().filter(|kind| **kind != TokenKind::Padding).count();
        if tokens.len() < LEAST || tokens.len() * numbers.len() * SHARE < all {
            return Ok(None);
        }
        let (view, outputs) = (TappedModel::new(model), Arc::new(Outputs::default()));
        let attached = view.taps().attach(outputs.clone());
        let shared = view.share_prefix(&tokens, view.new_cache())?;
        drop(attached);
        let outputs = std::mem::take(&mut *outputs.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(shared.map(|shared| {
            tracing::info!(tokens = shared.tokens(), "all samples begin alike; these tokens are run once");
            Self { shared, outputs: Arc::new(outputs) }
        }))
    }

    /// A tap that pools prompts after this prefix, whose tokens the pass does not have, as if it had them.
    pub(crate) fn tap(&self, pooled: Arc<PooledTap>) -> impl Tap + use<> {
        AfterPrefix { pooled, outputs: self.outputs.clone(), tokens: self.shared.tokens() }
    }
}

/// The tokens of prompt text that all rows begin with, leaving at least one token of each.
fn common(inputs: &ModelInputs) -> Result<Vec<u32>> {
    let ids = inputs.input_ids.to_vec2::<u32>().map_err(sgm_models::Error::from)?;
    let mut common = ids.first().cloned().unwrap_or_default();
    for (ids, kinds) in ids.iter().zip(&inputs.kinds) {
        let length = kinds.iter().filter(|kind| **kind != TokenKind::Padding).count();
        let text = kinds.iter().take_while(|kind| **kind == TokenKind::PromptText).count().min(length.saturating_sub(1));
        let alike = common.iter().zip(ids).take(text).take_while(|(a, b)| a == b).count();
        common.truncate(alike);
    }
    Ok(common)
}

/// Keeps the outputs of all sites.
#[derive(Default)]
struct Outputs(Mutex<BTreeMap<Site, Tensor>>);

impl Tap for Outputs {
    fn apply(&self, site: Site, output: Tensor, _: &TokenSpans) -> sgm_models::Result<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(site, output.copy()?);
        Ok(output)
    }
}

struct AfterPrefix {
    pooled: Arc<PooledTap>,
    outputs: Arc<BTreeMap<Site, Tensor>>,
    tokens: usize,
}

impl Tap for AfterPrefix {
    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let Some(before) = self.outputs.get(&site) else {
            return Err(sgm_models::Error::Tap { site, reason: "the shared prefix has no output of this site".to_owned() });
        };
        let whole = Tensor::cat(&[&before.repeat((output.dim(0)?, 1, 1))?, &output], 1)?;
        self.pooled.apply(site, whole, &spans.after_prefix(self.tokens))?;
        Ok(output)
    }
}
