//! The selection of expert neurons.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sgm_core::{Expertise, Projection, Site, SiteExpertise};

use crate::{Correction, Error, Result, normal_upper, q_values};

/// The selection of experts: the neurons of the eligible sites that pass every test.
///
/// ```
/// use sgm_score::Selection;
///
/// let best = Selection { depth: 0.5, ..Selection::top_k(50) };
/// assert_eq!((best.threshold, best.top_k, best.depth), (0.0, Some(50), 0.5));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// The AUROC that an expert must exceed.
    pub threshold: f32,
    /// Only neurons above the `k`-th value, counted from 0, of the descending AUROCs of all eligible neurons (AurA's `num_experts`).
    /// Ties at that value select fewer than `k`.
    pub top_k: Option<usize>,
    /// The same within each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k_per_layer: Option<usize>,
    /// Only neurons whose false-discovery rate is low enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub false_discovery: Option<FalseDiscovery>,
    /// The eligible layers: the first ones, as a share of all in 0..=1, rounded to whole layers.
    pub depth: f32,
    /// The eligible layers, by index; all if none are given.
    pub layers: Option<BTreeSet<usize>>,
    /// The eligible projections; all if none are given.
    pub projections: Option<BTreeSet<Projection>>,
    /// Whether neurons that respond *less* to toxic input are experts too: a neuron with AUROC a below 0.5 then counts like one with 1 - a.
    ///
    /// Off in every preset: such a neuron detects non-toxic input, and the effect of its suppression on toxicity is an open question.
    #[serde(default)]
    pub negative: bool,
}

/// A limit on the share of false experts.
///
/// A neuron's q-value is computed from the one-sided p-value of (AUROC - 0.5) / SE.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FalseDiscovery {
    /// The largest q-value of an expert.
    pub level: f64,
    /// The correction that turns p-values into q-values.
    pub correction: Correction,
}

impl Default for Selection {
    /// Every neuron better than chance.
    fn default() -> Self {
        Self {
            threshold: 0.5,
            top_k: None,
            top_k_per_layer: None,
            false_discovery: None,
            depth: 1.0,
            layers: None,
            projections: None,
            negative: false,
        }
    }
}

/// The experts of a model: indices of neurons by site.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Experts(BTreeMap<Site, BTreeSet<usize>>);

impl Experts {
    /// The experts of each site that has any.
    pub fn sites(&self) -> &BTreeMap<Site, BTreeSet<usize>> {
        &self.0
    }

    /// The number of experts.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a neuron is an expert.
    pub fn contains(&self, site: Site, neuron: usize) -> bool {
        self.0.get(&site).is_some_and(|neurons| neurons.contains(&neuron))
    }

    /// The number of experts of each layer that has any.
    pub fn per_layer(&self) -> BTreeMap<usize, usize> {
        let mut layers = BTreeMap::new();
        for (site, neurons) in &self.0 {
            *layers.entry(site.layer).or_insert(0) += neurons.len();
        }
        layers
    }

    /// The Jaccard index with another set: the number of common experts over that of all experts of both; 1 if both are empty.
    pub fn jaccard(&self, other: &Self) -> f64 {
        let common: usize = self.0.iter().filter_map(|(site, n)| Some(n.intersection(other.0.get(site)?).count())).sum();
        let all = self.len() + other.len() - common;
        if all == 0 { 1.0 } else { common as f64 / all as f64 }
    }
}

/// The one-sided p-value of an AUROC above 0.5, by the normal approximation of (auroc - 0.5) / se.
///
/// With a standard error of 0 it is 0 above chance (perfect separation), 1 below, and 0.5 at chance (a constant neuron).
pub fn auroc_p_value(auroc: f64, se: f64) -> f64 {
    let difference = auroc - 0.5;
    normal_upper(if difference == 0.0 { 0.0 } else { difference / se })
}

impl Selection {
    /// Neurons whose AUROC exceeds a threshold.
    pub fn threshold(threshold: f32) -> Self {
        Self { threshold, ..Self::default() }
    }

    /// The best `k` neurons of all layers, without a threshold.
    pub fn top_k(k: usize) -> Self {
        Self { top_k: Some(k), ..Self::threshold(0.0) }
    }

    /// The best `k` neurons of each layer, without a threshold.
    pub fn top_k_per_layer(k: usize) -> Self {
        Self { top_k_per_layer: Some(k), ..Self::threshold(0.0) }
    }

    /// Neurons with a q-value of at most `level`, without a threshold.
    pub fn false_discovery(level: f64, correction: Correction) -> Self {
        Self { false_discovery: Some(FalseDiscovery { level, correction }), ..Self::threshold(0.0) }
    }

    /// The experts.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a number is out of range, or `k` is not below the number of eligible neurons;
    /// [`Error::NoStandardErrors`] when selection by false-discovery rate needs them.
    pub fn experts(&self, expertise: &Expertise) -> Result<Experts> {
        self.experts_among(expertise, |_, _| true)
    }

    /// The experts among the neurons of a set; the best `k` and the q-values are those of the set.
    ///
    /// # Errors
    ///
    /// As [`experts`](Self::experts).
    pub fn experts_among(&self, expertise: &Expertise, set: impl Fn(Site, usize) -> bool) -> Result<Experts> {
        self.check()?;
        let layers = expertise.sites().keys().map(|site| site.layer + 1).max().unwrap_or(0);
        let mut neurons = Vec::new();
        for (site, e) in expertise.sites().iter().filter(|(site, _)| self.eligible(**site, layers)) {
            let of_site = e.auroc.iter().enumerate().filter(|(neuron, _)| set(*site, *neuron));
            neurons.extend(of_site.map(|(neuron, auroc)| Candidate {
                site: *site,
                neuron,
                detection: self.detection(*auroc),
                expertise: e,
            }));
        }
        let mut threshold = self.threshold;
        if let Some(k) = self.top_k {
            threshold = threshold.max(kth(neurons.iter().map(|n| n.detection), ("top_k", k), "all eligible sites")?);
        }
        let mut by_layer = BTreeMap::new();
        if let Some(k) = self.top_k_per_layer {
            let mut layers: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
            neurons.iter().for_each(|n| layers.entry(n.site.layer).or_default().push(n.detection));
            for (layer, detections) in layers {
                by_layer.insert(layer, kth(detections, ("top_k_per_layer", k), &format!("layer {layer}"))?);
            }
        }
        let level = self.false_discovery.map_or(1.0, |f| f.level);
        let q = self.false_discovery.map(|f| q_values(&neurons.iter().map(Candidate::p_value).collect::<Result<Vec<_>>>()?, f.correction));
        let mut q = q.transpose()?.unwrap_or_default().into_iter();
        let mut experts = Experts::default();
        for n in neurons {
            let discovered = q.next().is_none_or(|q| q <= level);
            if discovered && n.detection > threshold && by_layer.get(&n.site.layer).is_none_or(|threshold| n.detection > *threshold) {
                experts.0.entry(n.site).or_default().insert(n.neuron);
            }
        }
        Ok(experts)
    }

    /// The AUROC by which a neuron is selected: 1 - a for a below 0.5 if negative experts are selected too.
    pub fn detection(&self, auroc: f32) -> f32 {
        if self.negative { auroc.max(1.0 - auroc) } else { auroc }
    }

    /// Whether neurons of a site are eligible, in a model with this number of layers.
    fn eligible(&self, site: Site, layers: usize) -> bool {
        (site.layer as f32) < (self.depth * layers as f32).round()
            && self.layers.as_ref().is_none_or(|layers| layers.contains(&site.layer))
            && self.projections.as_ref().is_none_or(|projections| projections.contains(&site.projection))
    }

    fn check(&self) -> Result<()> {
        if self.negative && self.false_discovery.is_some() {
            let expected = "false with a false-discovery rate, whose p-values are one-sided".to_owned();
            return Err(Error::Parameter { parameter: "negative", value: "true".to_owned(), expected });
        }
        let level = self.false_discovery.map_or(0.0, |f| f.level);
        let numbers = [("threshold", f64::from(self.threshold)), ("depth", f64::from(self.depth)), ("level", level)];
        match numbers.into_iter().find(|(_, number)| !(0.0..=1.0).contains(number)) {
            None => Ok(()),
            Some((parameter, number)) => {
                let expected = "a number from 0 to 1".to_owned();
                Err(Error::Parameter { parameter, value: number.to_string(), expected })
            }
        }
    }
}

/// An eligible neuron.
struct Candidate<'a> {
    site: Site,
    neuron: usize,
    detection: f32,
    expertise: &'a SiteExpertise,
}

impl Candidate<'_> {
    fn p_value(&self) -> Result<f64> {
        let se = self.expertise.auroc_se.as_ref().and_then(|se| se.get(self.neuron));
        let purpose = "selection by false-discovery rate";
        let se = se.ok_or_else(|| Error::NoStandardErrors { site: self.site.to_string(), purpose })?;
        Ok(auroc_p_value(f64::from(self.detection), f64::from(*se)))
    }
}

/// The `k`-th largest AUROC, counted from 0.
fn kth(auroc: impl IntoIterator<Item = f32>, (parameter, k): (&'static str, usize), of: &str) -> Result<f32> {
    let mut values: Vec<f32> = auroc.into_iter().collect();
    if k >= values.len() {
        let expected = format!("fewer than the {} neurons of {of}", values.len());
        return Err(Error::Parameter { parameter, value: k.to_string(), expected });
    }
    let (_, kth, _) = values.select_nth_unstable_by(k, |a, b| b.total_cmp(a));
    Ok(*kth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expertise() -> Expertise {
        let mut expertise = Expertise::default();
        let mut put = |layer, auroc: &[f32], se: f32| {
            let site = Site::new(layer, Projection::Up);
            let auroc_se = Some(vec![se; auroc.len()]);
            expertise.insert(site, SiteExpertise { auroc: auroc.to_vec(), auroc_se }).unwrap();
        };
        put(0, &[0.9, 0.5, 0.8, 0.8], 0.05);
        put(1, &[0.7, 0.8, 0.2], 0.05);
        expertise
    }

    fn select(selection: Selection) -> Vec<(usize, usize)> {
        let experts = selection.experts(&expertise()).unwrap();
        experts.sites().iter().flat_map(|(site, n)| n.iter().map(|n| (site.layer, *n))).collect()
    }

    #[test]
    fn rules_select_strictly_above() {
        assert_eq!(select(Selection::threshold(0.8)), [(0, 0)]);
        assert_eq!(select(Selection::top_k(1)), [(0, 0)]);
        // The second to fourth are tied: none of them is selected until the threshold is below them.
        assert_eq!(select(Selection::top_k(3)), [(0, 0)]);
        assert_eq!(select(Selection::top_k(4)), [(0, 0), (0, 2), (0, 3), (1, 1)]);
        assert_eq!(select(Selection::top_k_per_layer(1)), [(0, 0), (1, 1)]);
        assert!(Selection::top_k(7).experts(&expertise()).is_err());
        assert!(Selection::top_k_per_layer(3).experts(&expertise()).is_err());
    }

    #[test]
    fn false_discovery_selection_needs_and_uses_standard_errors() {
        let selection = Selection::false_discovery(0.01, Correction::BenjaminiHochberg);
        assert_eq!(select(selection.clone()), [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1)]);
        let mut bare = Expertise::default();
        bare.insert(Site::new(0, Projection::Up), SiteExpertise { auroc: vec![0.9], auroc_se: None }).unwrap();
        assert!(matches!(selection.experts(&bare), Err(Error::NoStandardErrors { .. })));
        assert_eq!((auroc_p_value(1.0, 0.0), auroc_p_value(0.5, 0.0), auroc_p_value(0.0, 0.0)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn layers_and_projections_limit_what_is_eligible() {
        let selection = Selection { layers: Some((1..=5).collect()), ..Selection::default() };
        assert_eq!(selection.experts(&expertise()).unwrap().per_layer(), [(1, 2)].into());
        let selection = Selection { projections: Some([Projection::Gate].into()), ..Selection::default() };
        assert!(selection.experts(&expertise()).unwrap().is_empty());
    }

    #[test]
    fn every_test_counts_and_sets_narrow_what_they_count() {
        // Above 0.75 and among the best two of each layer: the two tied at 0.8 are not above the third value of their layer.
        let both = Selection { threshold: 0.75, ..Selection::top_k_per_layer(2) };
        assert_eq!(select(both), [(0, 0), (1, 1)]);
        let first = Selection { depth: 0.5, ..Selection::threshold(0.6) };
        assert_eq!(first.experts(&expertise()).unwrap().per_layer(), [(0, 3)].into());
        let among = Selection::top_k(1).experts_among(&expertise(), |site, _| site.layer == 1).unwrap();
        assert_eq!(among.sites()[&Site::new(1, Projection::Up)], [1].into());
        let negative = Selection { negative: true, ..Selection::threshold(0.79) };
        assert_eq!(negative.experts(&expertise()).unwrap().per_layer(), [(0, 3), (1, 2)].into());
        let two_sided = Selection { negative: true, ..Selection::false_discovery(0.05, Correction::BenjaminiHochberg) };
        for wrong in [Selection::threshold(1.5), Selection { depth: -0.1, ..Selection::default() }, two_sided] {
            assert!(matches!(wrong.experts(&expertise()), Err(Error::Parameter { .. })));
        }
    }

    #[test]
    fn jaccard_is_common_over_all() {
        let [few, many] = [0.85, 0.75].map(|t| Selection::threshold(t).experts(&expertise()).unwrap());
        assert_eq!((few.jaccard(&many), few.jaccard(&few), Experts::default().jaccard(&Experts::default())), (0.25, 1.0, 1.0));
    }
}
