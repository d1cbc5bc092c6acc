use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, DType, Storage, Tensor};
use sgm_core::Site;
use sgm_models::{Tap, TokenMask, TokenSpans};

/// How a neuron's responses to the tokens of a sample become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pool {
    /// The arithmetic mean.
    Mean,
    /// The maximum.
    Max,
}

/// A pool over the tokens of a mask; displays as, and parses from, `max/all` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pooling {
    /// How responses are combined.
    pub pool: Pool,
    /// Which tokens are.
    pub mask: TokenMask,
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = match self.pool {
            Pool::Mean => "mean",
            Pool::Max => "max",
        };
        write!(f, "{pool}/{}", self.mask.name())
    }
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = TokenMask::ALL.into_iter().flat_map(|mask| [Pool::Mean, Pool::Max].map(|pool| Self { pool, mask }));
        let expected = || "expected mean or max, a slash, and all, text, image, prompt or response".to_owned();
        all.into_iter().find(|p| p.to_string() == text).ok_or_else(expected)
    }
}

/// The pooled responses of one sample, by site, for each of a tap's poolings.
pub(crate) type Pooled = Vec<BTreeMap<Site, Vec<f32>>>;

/// A tap that pools what passes and changes nothing.
///
/// Responses are pooled where they lie, in one pass over the site's output and before any later tap
/// scales it; sums are f64. A neuron over no token has NaN.
#[derive(Debug)]
pub struct PooledTap {
    poolings: Vec<Pooling>,
    samples: Mutex<BTreeMap<usize, Pooled>>,
}

impl PooledTap {
    /// A tap that makes all of `poolings` at once.
    pub fn new(poolings: Vec<Pooling>) -> Self {
        Self { poolings, samples: Mutex::default() }
    }

    /// Takes what was pooled since the last call: for each row number, and each pooling in order, the
    /// responses `[neurons]` of every site.
    pub fn take(&self) -> BTreeMap<usize, Vec<BTreeMap<Site, Vec<f32>>>> {
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tap for PooledTap {
    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let (_, tokens, neurons) = output.dims3()?;
        let pooled: Vec<Vec<Vec<f32>>> = with_values(&output, |values| {
            let rows = values.chunks_exact((tokens * neurons).max(1)).enumerate();
            rows.map(|(row, values)| self.poolings.iter().map(|p| pool(*p, values, neurons, spans, row)).collect()).collect()
        })?;
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, pooled) in spans.rows().iter().zip(pooled) {
            let sample = samples.entry(*row).or_insert_with(|| vec![BTreeMap::new(); self.poolings.len()]);
            for (sites, values) in sample.iter_mut().zip(pooled) {
                sites.insert(site, values);
            }
        }
        Ok(output)
    }
}

/// Pools the responses `[tokens, neurons]` of one batch row.
fn pool(pooling: Pooling, values: &[f32], neurons: usize, spans: &TokenSpans, row: usize) -> Vec<f32> {
    let chosen = values.chunks_exact(neurons.max(1)).zip(spans.row(row)).filter(|(_, kind)| pooling.mask.includes(**kind));
    match pooling.pool {
        Pool::Max => {
            let mut max = vec![f32::NEG_INFINITY; neurons];
            let mut any = false;
            for (token, _) in chosen {
                any = true;
                for (max, value) in max.iter_mut().zip(token) {
                    // Unlike f32::max, keeps a NaN, which must not hide.
                    if *value > *max || value.is_nan() {
                        *max = *value;
                    }
                }
            }
            if any { max } else { vec![f32::NAN; neurons] }
        }
        Pool::Mean => {
            let mut sum = vec![0f64; neurons];
            let mut count = 0f64;
            for (token, _) in chosen {
                count += 1.0;
                for (sum, value) in sum.iter_mut().zip(token) {
                    *sum += f64::from(*value);
                }
            }
            #[allow(clippy::cast_possible_truncation, reason = "pooled responses are stored in f32")]
            sum.into_iter().map(|s| (s / count) as f32).collect()
        }
    }
}

/// Gives access to a tensor's values in row-major order, without a copy where they lie so in memory as f32.
fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> sgm_models::Result<T> {
    let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) = (&*storage, layout.contiguous_offsets())
        && let Some(values) = values.get(start..end)
    {
        return Ok(read(values));
    }
    drop(storage);
    Ok(read(&tensor.flatten_all()?.to_vec1::<f32>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for mask in TokenMask::ALL {
            for pool in [Pool::Mean, Pool::Max] {
                let pooling = Pooling { pool, mask };
                assert_eq!(pooling.to_string().parse(), Ok(pooling));
            }
        }
        assert!("median/all".parse::<Pooling>().is_err());
    }
}
