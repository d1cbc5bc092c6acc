use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};
use sgm_core::{Intervention, Site};
use sgm_models::{Mllm, Tap, TapGuard, TokenSpans};

use crate::kernel::{scale_rows, shift_rows};
use crate::{Amplify, Error, Result};

/// An intervention that a running model wears; dropping it restores the model.
///
/// Several may be worn at once: their scales multiply.
#[derive(Debug)]
#[must_use = "the model wears the glasses until this is dropped"]
pub struct Glasses {
    _attached: TapGuard,
}

impl Glasses {
    /// Puts an intervention on a model: at every forward pass, cached or not, the output of each site is
    /// scaled, and shifted where there is a shift, at all token positions.
    ///
    /// Sites whose scales are all 1 are passed by.
    ///
    /// # Errors
    ///
    /// [`Error::Core`] when a site is not the model's or has another width, [`Error::Amplifies`] when a
    /// scale is above 1 or below 0 and that was not allowed.
    pub fn wear<M: Mllm + ?Sized>(model: &M, intervention: &Intervention, amplify: Amplify) -> Result<Self> {
        intervention.check_against(&model.info().widths())?;
        if let (Amplify::Refuse, Some(a)) = (amplify, intervention.amplification()) {
            return Err(Error::Amplifies { site: a.site.to_string(), neuron: a.neuron, scale: a.scale });
        }
        let sites = intervention
            .sites()
            .iter()
            .filter(|(_, s)| s.scale.iter().any(|v| *v != 1.0) || s.shift.iter().flatten().any(|v| *v != 0.0))
            .map(|(site, s)| (*site, Affine { scale: s.scale.clone(), shift: s.shift.clone() }))
            .collect();
        Ok(Self { _attached: model.taps().attach(Arc::new(Suppression { sites })) })
    }
}

/// The tap behind the glasses.
struct Suppression {
    sites: BTreeMap<Site, Affine>,
}

impl Tap for Suppression {
    fn apply(&self, site: Site, output: Tensor, _spans: &TokenSpans) -> sgm_models::Result<Tensor> {
        let Some(affine) = self.sites.get(&site) else { return Ok(output) };
        if output.device().is_cpu() && output.dtype() == candle_core::DType::F32 && output.is_contiguous() {
            output.inplace_op1(affine)?;
            return Ok(output);
        }
        let vector = |values: &[f32]| Tensor::new(values, output.device())?.to_dtype(output.dtype());
        let mut scaled = output.broadcast_mul(&vector(&affine.scale)?)?;
        if let Some(shift) = &affine.shift {
            scaled = scaled.broadcast_add(&vector(shift)?)?;
        }
        Ok(scaled)
    }
}

/// One site's scale and shift.
struct Affine {
    scale: Vec<f32>,
    shift: Option<Vec<f32>>,
}

impl InplaceOp1 for Affine {
    fn name(&self) -> &'static str {
        "sgm-affine"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let dtype = storage.dtype();
        let CpuStorage::F32(values) = storage else { candle_core::bail!("sgm-affine: {dtype:?} is not f32") };
        let range = layout.contiguous_offsets().and_then(|(start, end)| values.get_mut(start..end));
        let Some(values) = range else { candle_core::bail!("sgm-affine: {layout:?} is not contiguous") };
        scale_rows(values, &self.scale);
        if let Some(shift) = &self.shift {
            shift_rows(values, shift);
        }
        Ok(())
    }
}
