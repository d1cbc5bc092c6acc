//! Directional ablation of the outputs of MLPs.
//!
//! The direction is the difference of the mean outputs at the end of risky and of harmless prompts, as in Arditi et al. (arXiv 2406.11717),
//! who ablate one direction of the residual stream from all that is written to it. Here every MLP has a direction of its own, and attention
//! stays as it is.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::{D, Device, Tensor};
use ndarray::ArrayView2;
use sgm::capture::{ActivationStore, Capture, Example, Examples};
use sgm::core::{Projection, Site};
use sgm::models::{Mllm, Tap, TokenSpans};
use sgm::suppress::Calibrator;

/// Takes a share of the component in a direction from the output of each MLP.
#[derive(Clone)]
pub struct DirectionalAblation {
    directions: BTreeMap<Site, Tensor>,
    share: f64,
}

impl DirectionalAblation {
    /// The whole ablation, of the differences of the mean outputs at the end of prompts of toxic and of other samples.
    ///
    /// # Errors
    ///
    /// If the mean outputs of both do not differ anywhere, or one class has no samples; those of the model and of the store of its outputs.
    pub fn fit<M: Mllm>(model: &M, samples: &[Example], batch_size: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("activations");
        let capture = Capture { batch_size, ..Capture::new(vec![Calibrator::PROMPT_END]) };
        capture.run(model, &Examples::from_slice(samples), &path)?;
        let store = ActivationStore::open(&path)?;
        let mut directions = BTreeMap::new();
        for site in store.sites().keys().filter(|site| site.projection == Projection::Down) {
            let outputs = store.read(*site)?;
            if let Some(unit) = direction(outputs.view(), store.labels()) {
                directions.insert(*site, Tensor::from_vec(unit, outputs.ncols(), &Device::Cpu)?);
            }
        }
        ensure!(!directions.is_empty(), "toxic and other samples have no different mean outputs; add samples of both");
        Ok(Self { directions, share: 1.0 })
    }

    /// The unit directions, f32 `[hidden]`, by `down_proj`.
    pub const fn directions(&self) -> &BTreeMap<Site, Tensor> {
        &self.directions
    }

    /// The same directions, and another share, of 0 (the model as it is) to 1.
    pub fn with_share(&self, share: f32) -> Self {
        Self { share: share.into(), ..self.clone() }
    }
}

impl Tap for DirectionalAblation {
    fn apply(&self, site: Site, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
        let Some(direction) = self.directions.get(&site) else { return Ok(output) };
        let direction = direction.to_device(output.device())?.to_dtype(output.dtype())?;
        let component = output.broadcast_mul(&direction)?.sum_keepdim(D::Minus1)?;
        Ok((&output - (component.broadcast_mul(&direction)? * self.share)?)?)
    }
}

/// The difference of the means of toxic and of other rows, divided by its length; none if it is 0, or there are no rows of one class.
fn direction(outputs: ArrayView2<'_, f32>, labels: &[bool]) -> Option<Vec<f32>> {
    let mean = |toxic: bool| {
        let rows = outputs.rows().into_iter().zip(labels).filter(|(_, label)| **label == toxic);
        let (sum, count) = rows.fold((vec![0.0_f64; outputs.ncols()], 0.0), |(mut sum, count), (row, _)| {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            (sum, count + 1.0)
        });
        sum.into_iter().map(move |sum| sum / count)
    };
    let difference: Vec<f64> = mean(true).zip(mean(false)).map(|(toxic, other)| toxic - other).collect();
    let length = difference.iter().map(|value| value * value).sum::<f64>().sqrt();
    #[allow(clippy::cast_possible_truncation, reason = "directions are kept in f32")]
    let unit = difference.iter().map(|value| (value / length) as f32).collect();
    (length > 0.0).then_some(unit)
}
