use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use sgm_core::{Intervention, Site};

use crate::{Error, Result};

/// A source of weights that scales the rows of every site as they load: weight and bias alike.
///
/// Tensors are matched by [`Site::all_in_checkpoint_tensor`], so all Hugging Face layouts work, and gate and up in one matrix. Products are
/// computed in f32 and rounded to the dtype that is asked for.
pub struct ScaledBackend {
    inner: VarBuilder<'static>,
    scales: BTreeMap<Site, Vec<f32>>,
    used: Arc<Mutex<BTreeSet<Site>>>,
}

/// What a [`ScaledBackend`] has done so far.
#[derive(Debug, Clone)]
pub struct Folded {
    sites: BTreeSet<Site>,
    used: Arc<Mutex<BTreeSet<Site>>>,
}

impl Folded {
    /// Checks, after the model has loaded, that every site of the intervention was met.
    ///
    /// # Errors
    ///
    /// [`Error::Unused`] naming the first site that was not.
    pub fn check_complete(&self) -> Result<()> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match self.sites.difference(&used).next() {
            None => Ok(()),
            Some(site) => Err(Error::Unused { site: site.to_string() }),
        }
    }
}

impl ScaledBackend {
    /// Wraps the root of a `VarBuilder`; load the model from the one returned.
    ///
    /// # Errors
    ///
    /// [`Error::Shift`] when the intervention shifts a site.
    pub fn fold(inner: VarBuilder<'static>, intervention: &Intervention) -> Result<(VarBuilder<'static>, Folded)> {
        if let Some((site, _)) = intervention.sites().iter().find(|(_, s)| s.shift.iter().flatten().any(|v| *v != 0.0)) {
            return Err(Error::Shift { site: site.to_string() });
        }
        let scales: BTreeMap<_, _> = intervention.sites().iter().map(|(site, s)| (*site, s.scale.clone())).collect();
        let used = Arc::default();
        let folded = Folded { sites: scales.keys().copied().collect(), used: Arc::clone(&used) };
        let (dtype, device) = (inner.dtype(), inner.device().clone());
        let backend = Self { inner, scales, used };
        Ok((VarBuilder::from_backend(Box::new(backend), dtype, device), folded))
    }

    fn scale(&self, name: &str, tensor: Tensor) -> CandleResult<Tensor> {
        let sites = Site::all_in_checkpoint_tensor(name);
        if !sites.iter().any(|site| self.scales.contains_key(site)) {
            return Ok(tensor);
        }
        let rows = tensor.dim(0)? / sites.len();
        let mut factors = Vec::with_capacity(tensor.dim(0)?);
        for site in &sites {
            match self.scales.get(site) {
                Some(scale) if scale.len() == rows => factors.extend_from_slice(scale),
                Some(scale) => {
                    candle_core::bail!("{name}: {:?} has not one row for each of the {} neurons of {site}", tensor.shape(), scale.len())
                }
                None => factors.extend(std::iter::repeat_n(1.0, rows)),
            }
        }
        let factors = Tensor::new(factors, tensor.device())?;
        let factors = if tensor.rank() == 2 { factors.unsqueeze(1)? } else { factors };
        let scaled = tensor.to_dtype(DType::F32)?.broadcast_mul(&factors)?.to_dtype(tensor.dtype())?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(sites);
        Ok(scaled)
    }
}

impl SimpleBackend for ScaledBackend {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.scale(name, self.inner.get_with_hints_dtype(shape, name, init, dtype)?.to_device(device)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> CandleResult<Tensor> {
        self.scale(name, self.inner.get_unchecked_dtype(name, dtype)?.to_device(device)?)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.inner.contains_tensor(name)
    }
}
