//! Transport: maps of each neuron's toxic responses onto its non-toxic ones (AcT, arXiv 2410.23054).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sgm_capture::ActivationStore;
use sgm_core::{Intervention, Metadata, Schedule, Site, SiteIntervention};
use sgm_score::{Selection, score_store};

use crate::{Error, Result};

/// A map of a neuron's response x: `scale * x + shift`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// The factor.
    pub scale: f64,
    /// The summand, in units of the response.
    pub shift: f64,
}

/// The kind of map from toxic to non-toxic responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransportMap {
    /// [`mean_act`].
    MeanAct,
    /// [`linear_act`].
    LinearAct,
}

impl TransportMap {
    /// Both maps.
    pub const ALL: [Self; 2] = [Self::MeanAct, Self::LinearAct];

    /// The name: `mean-act` or `linear-act`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MeanAct => "mean-act",
            Self::LinearAct => "linear-act",
        }
    }
}

/// A rule that maps each neuron's responses from their distribution on toxic input to that on non-toxic input.
///
/// The maps are affine on all inputs, so that weights can hold them. The paper's restriction of maps to the range of the toxic responses is
/// not affine and not offered. Maps are fitted to *pooled* responses and applied to every token; mean pooling suits this, because a maximum
/// over tokens is larger than the response at most tokens.
///
/// A linear map's scale is clamped to 0..=1 by default, with the shift that gives the same mean. [`unclamped`](Self::unclamped) maps are
/// those of the paper, may have scales above 1 or below 0, and count as amplification.
///
/// ```
/// use sgm_suppress::{Affine, Transport};
///
/// let (toxic, non_toxic) = ([4.0, 2.0, 6.0], [1.0, 0.0, 2.0]);
/// assert_eq!(Transport::linear_act().fit(&toxic, &non_toxic)?, Affine { scale: 0.5, shift: -1.0 });
/// assert_eq!(Transport::mean_act().fit(&toxic, &non_toxic)?, Affine { scale: 1.0, shift: -3.0 });
/// // In the opposite direction the unclamped map doubles the neuron's responses.
/// assert_eq!(Transport::linear_act().fit(&non_toxic, &toxic)?, Affine { scale: 1.0, shift: 3.0 });
/// assert_eq!(Transport::linear_act().unclamped().fit(&non_toxic, &toxic)?, Affine { scale: 2.0, shift: 2.0 });
/// # Ok::<(), sgm_suppress::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transport {
    /// The kind of map.
    #[serde(rename = "name")]
    pub map: TransportMap,
    /// Whether scales may be above 1 or below 0.
    pub unclamped: bool,
    /// The strength of the maps in each layer; 1 without a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

/// The map of scale 1 that moves the mean of toxic responses to that of non-toxic ones (Mean-AcT).
///
/// # Errors
///
/// [`Error::Transport`] when a class has no responses, or one is not finite.
pub fn mean_act(toxic: &[f32], non_toxic: &[f32]) -> Result<Affine> {
    let (toxic, non_toxic) = (sorted(toxic, "toxic")?, sorted(non_toxic, "non-toxic")?);
    Ok(Affine { scale: 1.0, shift: mean(&non_toxic) - mean(&toxic) })
}

/// The affine map nearest to the optimal transport of toxic responses to non-toxic ones (Linear-AcT): the least-squares fit
/// `w x + b = y` over the pairs (x, y) of equal rank.
///
/// For pools of different sizes the pairs are evenly spaced quantiles from 0 to 1, as many as the smaller pool has responses, interpolated
/// linearly between order statistics; a single pair is the two medians. If all toxic responses are equal, the scale is 1, as in
/// [`mean_act`].
///
/// # Errors
///
/// As [`mean_act`].
pub fn linear_act(toxic: &[f32], non_toxic: &[f32]) -> Result<Affine> {
    let fit = Fit::new(toxic, non_toxic)?;
    Ok(fit.with_scale(fit.scale))
}

/// A least-squares fit through pairs of quantiles.
struct Fit {
    scale: f64,
    mean_toxic: f64,
    mean_non_toxic: f64,
}

impl Fit {
    fn new(toxic: &[f32], non_toxic: &[f32]) -> Result<Self> {
        let (toxic, non_toxic) = (sorted(toxic, "toxic")?, sorted(non_toxic, "non-toxic")?);
        let pairs = toxic.len().min(non_toxic.len());
        let (x, y) = (quantiles(&toxic, pairs), quantiles(&non_toxic, pairs));
        let (mean_toxic, mean_non_toxic) = (mean(&x), mean(&y));
        let (mut covariance, mut variance) = (0.0, 0.0);
        for (x, y) in x.iter().zip(&y) {
            covariance += (x - mean_toxic) * (y - mean_non_toxic);
            variance += (x - mean_toxic) * (x - mean_toxic);
        }
        // Tested by the values, because the mean of equal numbers may differ from them in the last bit.
        let constant = x.first() == x.last();
        Ok(Self { scale: if constant || variance == 0.0 { 1.0 } else { covariance / variance }, mean_toxic, mean_non_toxic })
    }

    /// The map with a given scale that moves one mean to the other; with the fitted scale it is the least-squares fit.
    fn with_scale(&self, scale: f64) -> Affine {
        Affine { scale, shift: self.mean_non_toxic - scale * self.mean_toxic }
    }
}

/// The responses in ascending order.
fn sorted(pool: &[f32], name: &str) -> Result<Vec<f64>> {
    let refuse = |reason: String| Err(Error::Transport { neuron: None, reason });
    if pool.is_empty() {
        return refuse(format!("there are no {name} responses"));
    }
    if let Some(at) = pool.iter().position(|v| !v.is_finite()) {
        return refuse(format!("{name} response {at} is no finite number; leave its sample out"));
    }
    let mut sorted: Vec<f64> = pool.iter().map(|v| f64::from(*v)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(sorted)
}

/// `count` evenly spaced quantiles of ascending values.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the position lies between 0 and the last index")]
fn quantiles(sorted: &[f64], count: usize) -> Vec<f64> {
    if sorted.len() == count {
        return sorted.to_vec();
    }
    let last = sorted.len().saturating_sub(1) as f64;
    let at = |level: f64| {
        let position = level * last;
        let below = position.floor();
        let value = |index: usize| sorted.get(index.min(sorted.len() - 1)).copied().unwrap_or_default();
        let (low, high) = (value(below as usize), value(below as usize + 1));
        low + (position - below) * (high - low)
    };
    match count {
        1 => vec![at(0.5)],
        _ => (0..count).map(|i| at(i as f64 / (count - 1) as f64)).collect(),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The number of neurons whose responses are in memory together.
const COLUMNS: usize = 64;

impl Transport {
    /// Transport of means: scale 1 and a shift for every neuron.
    pub fn mean_act() -> Self {
        Self { map: TransportMap::MeanAct, unclamped: false, schedule: None }
    }

    /// Transport of distributions, with scales clamped to 0..=1.
    pub fn linear_act() -> Self {
        Self { map: TransportMap::LinearAct, unclamped: false, schedule: None }
    }

    /// The transport without the clamping of scales.
    #[must_use]
    pub fn unclamped(mut self) -> Self {
        self.unclamped = true;
        self
    }

    /// The map of one neuron.
    ///
    /// # Errors
    ///
    /// As [`mean_act`].
    pub fn fit(&self, toxic: &[f32], non_toxic: &[f32]) -> Result<Affine> {
        match self.map {
            TransportMap::MeanAct => mean_act(toxic, non_toxic),
            TransportMap::LinearAct => {
                let fit = Fit::new(toxic, non_toxic)?;
                Ok(fit.with_scale(if self.unclamped { fit.scale } else { fit.scale.clamp(0.0, 1.0) }))
            }
        }
    }

    /// The intervention on every neuron of a store, by the store's current pooling.
    ///
    /// Memory does not grow with the number of neurons. The metadata's method is the transport itself, such as
    /// `{"name": "linear-act", "unclamped": false}`.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`] naming the neuron, [`Error::Capture`] when the store cannot be read, [`Error::Core`] when a map exceeds the
    /// range of f32 or the schedule is out of range.
    pub fn intervention(&self, store: &ActivationStore) -> Result<Intervention> {
        self.build(store, &|_, _| true, serde_json::json!(self))
    }

    /// The intervention on a set of neurons only, such as selected experts; `described` names the set in the metadata, as `among` of the
    /// method.
    ///
    /// # Errors
    ///
    /// As [`intervention`](Self::intervention).
    pub fn among(&self, store: &ActivationStore, described: &str, set: impl Fn(Site, usize) -> bool) -> Result<Intervention> {
        let mut method = serde_json::json!(self);
        if let Some(entries) = method.as_object_mut() {
            entries.insert("among".to_owned(), described.into());
        }
        self.build(store, &set, method)
    }

    /// The intervention on the experts of a selection, by the AUROC of the store's responses; `among` of the method is the selection.
    ///
    /// # Errors
    ///
    /// As [`intervention`](Self::intervention), and [`Error::Score`] for a selection that is out of range.
    pub fn of_experts(&self, store: &ActivationStore, selection: &Selection) -> Result<Intervention> {
        let experts = selection.experts(&score_store(store)?)?;
        self.among(store, &serde_json::json!(selection).to_string(), |site, neuron| experts.contains(site, neuron))
    }

    fn build(&self, store: &ActivationStore, set: &dyn Fn(Site, usize) -> bool, method: serde_json::Value) -> Result<Intervention> {
        self.schedule.as_ref().map_or(Ok(()), Schedule::check)?;
        let manifest = store.manifest();
        let mut intervention = Intervention::new(Metadata {
            base_model: Some(manifest.model.clone()),
            config_sha256: Some(manifest.config_sha256.clone()),
            method: Some(method),
            pooling: Some(store.pooling().to_owned()),
            calibration: manifest.calibration.clone(),
            created_by: Some(concat!("sgm ", env!("CARGO_PKG_VERSION")).to_owned()),
            ..Metadata::default()
        });
        for (site, width) in store.sites() {
            intervention.insert(*site, self.site(store, *site, *width, set)?)?;
        }
        Ok(match &self.schedule {
            Some(schedule) => intervention.with_schedule(schedule)?,
            None => intervention,
        })
    }

    #[allow(clippy::cast_possible_truncation, reason = "interventions are kept in f32")]
    fn site(&self, store: &ActivationStore, site: Site, width: usize, set: &dyn Fn(Site, usize) -> bool) -> Result<SiteIntervention> {
        let blocks = store.blocks(site)?;
        let (mut scale, mut shift) = (vec![1.0; width], vec![0.0; width]);
        let mut rows: Vec<f32> = Vec::new();
        for first in (0..width).step_by(COLUMNS) {
            let columns = first..width.min(first + COLUMNS);
            if !columns.clone().any(|neuron| set(site, neuron)) {
                continue;
            }
            rows.clear();
            blocks.iter().for_each(|block| block.read(columns.clone(), &mut rows));
            let ends = scale.iter_mut().zip(&mut shift).enumerate().skip(first).take(columns.len());
            for (neuron, (scale, shift)) in ends.filter(|(neuron, _)| set(site, *neuron)) {
                let mut pools: BTreeMap<bool, Vec<f32>> = [(true, Vec::new()), (false, Vec::new())].into();
                for (row, toxic) in rows.chunks_exact(columns.len()).zip(store.labels()) {
                    pools.entry(*toxic).or_default().extend(row.get(neuron - first));
                }
                let pool = |toxic: bool| pools.get(&toxic).map(Vec::as_slice).unwrap_or_default();
                let affine = self.fit(pool(true), pool(false)).map_err(|e| at(e, site, neuron))?;
                (*scale, *shift) = (affine.scale as f32, affine.shift as f32);
            }
        }
        Ok(SiteIntervention { shift: Some(shift), ..SiteIntervention::from_scale(scale) })
    }
}

/// The error with the neuron's name.
fn at(error: Error, site: Site, neuron: usize) -> Error {
    match error {
        Error::Transport { reason, .. } => Error::Transport { neuron: Some(format!("{site}, neuron {neuron}")), reason },
        other => other,
    }
}
