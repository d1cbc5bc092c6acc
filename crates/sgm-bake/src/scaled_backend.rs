//! Weights that are scaled while candle loads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use sgm_core::{Amplify, Intervention, Site, SiteIntervention};

use crate::fold;
use crate::site_tensor::Part;
use crate::{Error, Result};

/// A source of weights that scales the rows of every site as they load, weights and biases alike, and adds shifts to biases.
///
/// Tensors are matched by [`Site::all_in_checkpoint_tensor`], so that all Hugging Face layouts are supported, and gate and up in one
/// matrix. Products are computed in f32 and rounded to the requested dtype.
pub struct ScaledBackend {
    inner: VarBuilder<'static>,
    sites: BTreeMap<Site, SiteIntervention>,
    loaded: Loaded,
}

/// The parts of sites that have been loaded.
type Loaded = Arc<Mutex<BTreeSet<(Site, Part)>>>;

/// The state of a [`ScaledBackend`]: the parts of sites that have been loaded.
#[derive(Debug, Clone)]
pub struct Folded {
    needed: BTreeSet<(Site, Part)>,
    loaded: Loaded,
}

impl Folded {
    /// Checks, after the model has loaded, that the whole intervention is folded into it.
    ///
    /// # Errors
    ///
    /// [`Error::Unused`] naming the first site whose weight was not loaded, [`Error::NoBias`] one that is shifted and whose bias was not.
    pub fn check_complete(&self) -> Result<()> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match self.needed.difference(&loaded).next() {
            None => Ok(()),
            Some((site, Part::Weight)) => Err(Error::Unused { site: site.to_string() }),
            Some((site, Part::Bias)) => Err(Error::NoBias { site: site.to_string() }),
        }
    }
}

impl ScaledBackend {
    /// Wraps the root of a `VarBuilder`. The model must be loaded from the returned one, and [`Folded::check_complete`] called then.
    ///
    /// # Errors
    ///
    /// The errors of [`bake`](crate::bake()) for the intervention alone, [`Error::Amplifies`] and [`Error::Tokens`]; and
    /// [`Error::AddsNeurons`], because a model requests weights by their original shapes.
    pub fn fold(inner: VarBuilder<'static>, intervention: &Intervention, amplify: Amplify) -> Result<(VarBuilder<'static>, Folded)> {
        fold::check(intervention, amplify)?;
        if let Some(layer) = intervention.patches().keys().next() {
            return Err(Error::AddsNeurons { layer: *layer });
        }
        let sites = intervention.sites().clone();
        let weights = sites.keys().map(|site| (*site, Part::Weight));
        let biases = sites.iter().filter(|(_, s)| fold::shifts(s)).map(|(site, _)| (*site, Part::Bias));
        let loaded = Loaded::default();
        let folded = Folded { needed: weights.chain(biases).collect(), loaded: Arc::clone(&loaded) };
        let (dtype, device) = (inner.dtype(), inner.device().clone());
        let backend = Self { inner, sites, loaded };
        Ok((VarBuilder::from_backend(Box::new(backend), dtype, device), folded))
    }

    fn scale(&self, name: &str, tensor: Tensor) -> CandleResult<Tensor> {
        let sites = Site::all_in_checkpoint_tensor(name);
        let Some((_, part)) = Part::of(name).filter(|_| sites.iter().any(|site| self.sites.contains_key(site))) else {
            return Ok(tensor);
        };
        let rows = tensor.dim(0)? / sites.len();
        let (mut scales, mut shifts) = (Vec::with_capacity(tensor.dim(0)?), Vec::new());
        for site in &sites {
            match self.sites.get(site) {
                Some(wanted) if wanted.scale.len() == rows => {
                    scales.extend_from_slice(&wanted.scale);
                    shifts.extend(wanted.shift.clone().unwrap_or_else(|| vec![0.0; rows]));
                }
                Some(wanted) => {
                    let neurons = wanted.scale.len();
                    candle_core::bail!("{name}: {:?} has not one row for each of the {neurons} neurons of {site}", tensor.shape())
                }
                None => {
                    scales.extend(std::iter::repeat_n(1.0, rows));
                    shifts.extend(std::iter::repeat_n(0.0, rows));
                }
            }
        }
        let scales = Tensor::new(scales, tensor.device())?;
        let exact = tensor.to_dtype(DType::F32)?;
        let changed = match part {
            Part::Weight => exact.broadcast_mul(&scales.unsqueeze(1)?)?,
            Part::Bias => ((exact * scales)? + Tensor::new(shifts, tensor.device())?)?,
        };
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).extend(sites.into_iter().map(|site| (site, part)));
        changed.to_dtype(tensor.dtype())
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
