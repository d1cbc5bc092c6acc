//! Weights that are scaled while candle loads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use sgm_core::{Amplify, Intervention, Projection, Site, SiteIntervention, TensorNeurons};

use crate::fold;
use crate::site_tensor::Part;
use crate::stacked_experts::{neurons_are_columns, sibling};
use crate::{Error, Result};

/// A source of weights that scales the rows of every site as they load, weights and biases alike, and adds shifts to biases.
///
/// Tensors are matched by [`TensorNeurons::of`], so that all Hugging Face layouts are supported, gate and up in one matrix, and mixtures
/// of experts. Products are computed in f32 and rounded to the requested dtype.
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
        let Some(neurons) = TensorNeurons::of(name) else { return Ok(tensor) };
        let part = Part::of(name).map_or(Part::Weight, |(_, part)| part);
        let stacked = matches!(neurons, TensorNeurons::Stacked { .. });
        let groups = neurons.groups(if stacked { tensor.dim(0)? } else { 1 });
        if !groups.iter().flatten().any(|site| self.sites.contains_key(site)) {
            return Ok(tensor);
        }
        // The shape along which the scales lie.
        let shape =
            match (&neurons, tensor.dims(), part) {
                (TensorNeurons::Stacked { projections, .. }, &[experts, a, b], _) => {
                    if self.neurons_are_columns(name, projections, [a, b])? { vec![experts, 1, b] } else { vec![experts, a, 1] }
                }
                (TensorNeurons::Rows(_), &[rows, _], Part::Weight) => vec![rows, 1],
                (TensorNeurons::Rows(_), &[rows], Part::Bias) => vec![rows],
                _ => candle_core::bail!("{name}: {:?} is not the shape of a weight or a bias", tensor.shape()),
            };
        let width = shape.iter().product::<usize>() / groups.len().max(1);
        let (mut scales, mut shifts) = (Vec::new(), Vec::new());
        for group in &groups {
            let (mut scale, mut shift) = (vec![1.0f32; width], vec![0.0f32; width]);
            for (site, wanted) in group.iter().filter_map(|site| Some((site, self.sites.get(site)?))) {
                if wanted.scale.len() != width {
                    let neurons = wanted.scale.len();
                    candle_core::bail!("{name}: {:?} has not one row for each of the {neurons} neurons of {site}", tensor.shape())
                }
                scale.iter_mut().zip(&wanted.scale).for_each(|(scale, by)| *scale *= by);
                shift.iter_mut().zip(&wanted.scale).for_each(|(shift, by)| *shift *= by);
                shift.iter_mut().zip(wanted.shift.iter().flatten()).for_each(|(shift, by)| *shift += by);
            }
            scales.extend(scale);
            shifts.extend(shift);
        }
        let scales = Tensor::from_vec(scales, shape, tensor.device())?;
        let exact = tensor.to_dtype(DType::F32)?;
        let changed = match part {
            Part::Weight => exact.broadcast_mul(&scales)?,
            Part::Bias => ((exact * scales)? + Tensor::new(shifts, tensor.device())?)?,
        };
        let loaded = groups.into_iter().flatten().map(|site| (site, part));
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).extend(loaded);
        changed.to_dtype(tensor.dtype())
    }

    /// The orientation of stacked experts, by the number of hidden channels of their router.
    fn neurons_are_columns(&self, name: &str, projections: &[Projection], [a, b]: [usize; 2]) -> CandleResult<bool> {
        let dims =
            |name: Option<String>| name.and_then(|name| Some(self.inner.get_unchecked_dtype(&name, DType::F32).ok()?.dims().to_vec()));
        let columns = match dims(TensorNeurons::router(name)).as_deref() {
            Some(&[_, hidden]) => {
                neurons_are_columns(projections, [a as u64, b as u64], hidden as u64, || match dims(sibling(name)).as_deref() {
                    Some(&[_, a, b]) => Some([a as u64, b as u64]),
                    _ => None,
                })
            }
            _ => None,
        };
        columns.ok_or_else(|| candle_core::Error::Msg(format!("{name}: {a} by {b} does not fit the router of its mixture of experts")))
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
