use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use sgm_core::{Expertise, Projection, Site, SiteExpertise};

use crate::{Correction, Error, Result, normal_upper, q_values};

/// Which neurons are experts: those of the eligible sites that pass the rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// What makes a neuron an expert.
    pub rule: Rule,
    /// The eligible layers; all if none are given.
    pub layers: Option<RangeInclusive<usize>>,
    /// The eligible projections; all if none are given.
    pub projections: Option<Vec<Projection>>,
}

/// What makes a neuron an expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// An AUROC above this.
    Threshold(f32),
    /// An AUROC above the `k`-th value, counted from 0, of the descending AUROCs of all eligible neurons: AurA's
    /// `num_experts`. Ties at that value select fewer than `k`.
    TopK(usize),
    /// The same within each layer.
    TopKPerLayer(usize),
    /// A q-value of at most `level`, from the one-sided p-value of (AUROC - 0.5) / SE.
    FalseDiscovery {
        /// The false-discovery rate allowed.
        level: f64,
        /// How p-values become q-values.
        correction: Correction,
    },
}

impl From<Rule> for Selection {
    /// Over all layers and projections.
    fn from(rule: Rule) -> Self {
        Self { rule, layers: None, projections: None }
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a neuron is one.
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

    /// The Jaccard index with another set: common experts over all experts of either; 1 when both are empty.
    pub fn jaccard(&self, other: &Self) -> f64 {
        let common: usize = self.0.iter().filter_map(|(site, n)| Some(n.intersection(other.0.get(site)?).count())).sum();
        let all = self.len() + other.len() - common;
        if all == 0 { 1.0 } else { common as f64 / all as f64 }
    }

    /// All neurons that pass a test, given each site's expertise.
    fn passing<'a>(sites: impl IntoIterator<Item = (&'a Site, &'a SiteExpertise)>, mut passes: impl FnMut(Site, f32) -> bool) -> Self {
        let mut experts = BTreeMap::new();
        for (site, expertise) in sites {
            let chosen: BTreeSet<usize> = expertise.auroc.iter().enumerate().filter(|(_, a)| passes(*site, **a)).map(|(i, _)| i).collect();
            if !chosen.is_empty() {
                experts.insert(*site, chosen);
            }
        }
        Self(experts)
    }
}

/// The one-sided p-value of an AUROC above 0.5, normal approximation: of (auroc - 0.5) / se.
///
/// A standard error of 0 decides: 0 above chance (perfect separation), 1 below, 0.5 at chance (a constant neuron).
pub fn auroc_p_value(auroc: f64, se: f64) -> f64 {
    let difference = auroc - 0.5;
    normal_upper(if difference == 0.0 { 0.0 } else { difference / se })
}

impl Selection {
    /// The experts.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a rule asks for as many neurons as there are or more, or a rate is not in 0..=1;
    /// [`Error::NoStandardErrors`] when false-discovery selection finds none.
    pub fn experts(&self, expertise: &Expertise) -> Result<Experts> {
        let eligible = |site: &Site| {
            self.layers.as_ref().is_none_or(|layers| layers.contains(&site.layer))
                && self.projections.as_ref().is_none_or(|projections| projections.contains(&site.projection))
        };
        let sites: Vec<(&Site, &SiteExpertise)> = expertise.sites().iter().filter(|(site, _)| eligible(site)).collect();
        match self.rule {
            Rule::Threshold(threshold) => Ok(Experts::passing(sites, |_, auroc| auroc > threshold)),
            Rule::TopK(k) => {
                let threshold = kth(sites.iter().flat_map(|(_, e)| &e.auroc), k, "all eligible sites")?;
                Ok(Experts::passing(sites, |_, auroc| auroc > threshold))
            }
            Rule::TopKPerLayer(k) => {
                let mut layers: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
                for (site, e) in &sites {
                    layers.entry(site.layer).or_default().extend(&e.auroc);
                }
                let thresholds = layers
                    .iter()
                    .map(|(layer, auroc)| Ok((*layer, kth(auroc, k, &format!("layer {layer}"))?)))
                    .collect::<Result<BTreeMap<_, _>>>()?;
                Ok(Experts::passing(sites, |site, auroc| thresholds.get(&site.layer).is_some_and(|t| auroc > *t)))
            }
            Rule::FalseDiscovery { level, correction } => {
                if !(0.0..=1.0).contains(&level) {
                    let expected = "a rate from 0 to 1".to_owned();
                    return Err(Error::Parameter { parameter: "level", value: level.to_string(), expected });
                }
                let mut p = Vec::new();
                for (site, e) in &sites {
                    let purpose = "selection by false-discovery rate";
                    let se = e.auroc_se.as_ref().ok_or_else(|| Error::NoStandardErrors { site: site.to_string(), purpose })?;
                    p.extend(e.auroc.iter().zip(se).map(|(a, se)| auroc_p_value(f64::from(*a), f64::from(*se))));
                }
                let q = q_values(&p, correction)?;
                let mut q = q.iter();
                Ok(Experts::passing(sites, |_, _| q.next().is_some_and(|q| *q <= level)))
            }
        }
    }
}

/// The `k`-th largest AUROC, counted from 0.
fn kth<'a>(auroc: impl IntoIterator<Item = &'a f32>, k: usize, of: &str) -> Result<f32> {
    let mut values: Vec<f32> = auroc.into_iter().copied().collect();
    if k >= values.len() {
        let expected = format!("fewer than the {} neurons of {of}", values.len());
        return Err(Error::Parameter { parameter: "k", value: k.to_string(), expected });
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

    fn select(rule: Rule) -> Vec<(usize, usize)> {
        let experts = Selection::from(rule).experts(&expertise()).unwrap();
        experts.sites().iter().flat_map(|(site, n)| n.iter().map(|n| (site.layer, *n))).collect()
    }

    #[test]
    fn rules_select_strictly_above() {
        assert_eq!(select(Rule::Threshold(0.8)), [(0, 0)]);
        assert_eq!(select(Rule::TopK(1)), [(0, 0)]);
        // The second to fourth are tied: all of them are left out until the threshold is below them.
        assert_eq!(select(Rule::TopK(3)), [(0, 0)]);
        assert_eq!(select(Rule::TopK(4)), [(0, 0), (0, 2), (0, 3), (1, 1)]);
        assert_eq!(select(Rule::TopKPerLayer(1)), [(0, 0), (1, 1)]);
        assert!(Selection::from(Rule::TopK(7)).experts(&expertise()).is_err());
        assert!(Selection::from(Rule::TopKPerLayer(3)).experts(&expertise()).is_err());
    }

    #[test]
    fn false_discovery_selection_needs_and_uses_standard_errors() {
        let rule = Rule::FalseDiscovery { level: 0.01, correction: Correction::BenjaminiHochberg };
        assert_eq!(select(rule), [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1)]);
        let mut bare = Expertise::default();
        bare.insert(Site::new(0, Projection::Up), SiteExpertise { auroc: vec![0.9], auroc_se: None }).unwrap();
        assert!(matches!(Selection::from(rule).experts(&bare), Err(Error::NoStandardErrors { .. })));
        assert_eq!((auroc_p_value(1.0, 0.0), auroc_p_value(0.5, 0.0), auroc_p_value(0.0, 0.0)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn layers_and_projections_limit_what_is_eligible() {
        let selection = Selection { layers: Some(1..=5), ..Rule::Threshold(0.5).into() };
        assert_eq!(selection.experts(&expertise()).unwrap().per_layer(), [(1, 2)].into());
        let selection = Selection { projections: Some(vec![Projection::Gate]), ..Rule::Threshold(0.5).into() };
        assert!(selection.experts(&expertise()).unwrap().is_empty());
    }

    #[test]
    fn jaccard_is_common_over_all() {
        let [few, many] = [0.85, 0.75].map(|t| Selection::from(Rule::Threshold(t)).experts(&expertise()).unwrap());
        assert_eq!((few.jaccard(&many), few.jaccard(&few), Experts::default().jaccard(&Experts::default())), (0.25, 1.0, 1.0));
    }
}
