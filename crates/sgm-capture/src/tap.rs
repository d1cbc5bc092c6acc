//! A tap that pools responses.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor};
use sgm_core::Site;
use sgm_models::{Tap, TokenSpans, with_values};

use crate::Pooling;
use crate::reduce::{NonFinites, Reduction};
use crate::reduce_tensors::Tokens;
use crate::rows::Responses;

/// A tap that pools the outputs of sites and changes nothing.
///
/// Responses are pooled before later taps change them. Of a model in f32 on the CPU they are pooled in one pass for any number of poolings,
/// with sums in f64; of others by tensor operations on the device, with sums in f32, and only the pooled rows are copied. Without a selected
/// token the result is NaN, at the sites of experts 0: an expert that no selected token is routed to adds nothing. Padding is never
/// read.
#[derive(Debug)]
pub struct PooledTap {
    reduction: Reduction,
    /// Whether the sites of single experts are pooled too.
    experts: bool,
    samples: Mutex<BTreeMap<usize, Pooled>>,
}

/// The pooled responses of one sample.
#[derive(Debug, Default)]
pub(crate) struct Pooled {
    pub(crate) responses: Responses,
    /// The sites with token responses that are not finite.
    pub(crate) non_finite: BTreeMap<Site, NonFinites>,
}

impl PooledTap {
    /// A tap for several poolings at once.
    pub fn new(poolings: Vec<Pooling>) -> Self {
        Self { reduction: Reduction::new(poolings), experts: false, samples: Mutex::default() }
    }

    /// Pools the sites of single experts too, over the tokens that are routed to each.
    #[must_use]
    pub fn with_experts(self) -> Self {
        Self { experts: true, ..self }
    }

    /// Takes the responses pooled since the last call: for each id and each pooling in order, `[neurons]` of every site.
    pub fn take(&self) -> BTreeMap<usize, Responses> {
        self.take_pooled().into_iter().map(|(row, pooled)| (row, pooled.responses)).collect()
    }

    pub(crate) fn take_pooled(&self) -> BTreeMap<usize, Pooled> {
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tap for PooledTap {
    fn expert_sites(&self) -> bool {
        self.experts
    }

    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let (_, tokens, neurons) = output.dims3()?;
        let tokens_of: Vec<Tokens<'_>> = (0..spans.batch()).map(|row| (spans.row(row), spans.routed(row))).collect();
        let in_place = output.device().is_cpu() && output.dtype() == DType::F32;
        let batch = if in_place { None } else { self.reduction.batch(&output.detach(), &tokens_of)? };
        let pooled: Vec<_> = match batch {
            Some(rows) => rows.into_iter().map(|row| (row, None)).collect(),
            None => with_values(&output, |values| {
                let rows = values.chunks_exact((tokens * neurons).max(1)).zip(&tokens_of);
                rows.map(|(values, (kinds, routed))| self.reduction.row(values, neurons, kinds, *routed)).collect()
            })?,
        };
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, (responses, non_finite)) in spans.ids().iter().zip(pooled) {
            let sample = samples.entry(*id).or_default();
            sample.responses.resize_with(self.reduction.len(), BTreeMap::new);
            for (sites, values) in sample.responses.iter_mut().zip(responses) {
                sites.insert(site, values);
            }
            sample.non_finite.extend(non_finite.map(|n| (site, n)));
        }
        Ok(output)
    }
}
