use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use sgm_core::Site;
use sgm_models::{Tap, TokenSpans, with_values};

use crate::Pooling;
use crate::reduce::{NonFinites, Reduction};
use crate::rows::Responses;

/// A tap that pools what passes and changes nothing.
///
/// Responses are pooled where they lie, in one pass over the site's output whatever the number of poolings, and before any
/// later tap scales it; sums are f64. A neuron over no token has NaN. Padding is never looked at.
#[derive(Debug)]
pub struct PooledTap {
    reduction: Reduction,
    samples: Mutex<BTreeMap<usize, Pooled>>,
}

/// What was pooled of one sample.
#[derive(Debug, Default)]
pub(crate) struct Pooled {
    pub(crate) responses: Responses,
    /// Sites with token responses that are no finite numbers.
    pub(crate) non_finite: BTreeMap<Site, NonFinites>,
}

impl PooledTap {
    /// A tap that makes all of `poolings` at once.
    pub fn new(poolings: Vec<Pooling>) -> Self {
        Self { reduction: Reduction::new(poolings), samples: Mutex::default() }
    }

    /// Takes what was pooled since the last call: for each row number, and each pooling in order, the
    /// responses `[neurons]` of every site.
    pub fn take(&self) -> BTreeMap<usize, Responses> {
        self.take_pooled().into_iter().map(|(row, pooled)| (row, pooled.responses)).collect()
    }

    pub(crate) fn take_pooled(&self) -> BTreeMap<usize, Pooled> {
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tap for PooledTap {
    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let (_, tokens, neurons) = output.dims3()?;
        let pooled: Vec<_> = with_values(&output, |values| {
            let rows = values.chunks_exact((tokens * neurons).max(1)).enumerate();
            rows.map(|(row, values)| self.reduction.row(values, neurons, spans.row(row))).collect()
        })?;
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, (responses, non_finite)) in spans.rows().iter().zip(pooled) {
            let sample = samples.entry(*row).or_default();
            sample.responses.resize_with(self.reduction.poolings().len(), BTreeMap::new);
            for (sites, values) in sample.responses.iter_mut().zip(responses) {
                sites.insert(site, values);
            }
            sample.non_finite.extend(non_finite.map(|n| (site, n)));
        }
        Ok(output)
    }
}
