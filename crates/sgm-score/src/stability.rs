//! The stability of selected experts under resampling.

use std::collections::BTreeMap;

use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use sgm_core::{Expertise, Metadata, Site};

use crate::classes::toxic_first;
use crate::responses::Rows;
use crate::{Error, Experts, Responses, Result, ScoreOptions, Selection, score};

/// The dependence of the set of experts on the choice of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Stability {
    /// The experts on all samples.
    pub experts: Experts,
    /// The Jaccard index of the experts on all samples with those of each resample.
    pub with_all: Vec<f64>,
    /// The mean Jaccard index over pairs of resamples; NaN with fewer than two.
    pub between: f64,
    /// The number of resamples in which each neuron was an expert, for neurons that were at least once.
    pub frequency: BTreeMap<Site, BTreeMap<usize, usize>>,
}

/// Selects experts on bootstrap resamples, drawn with replacement within each class (ChaCha8).
///
/// Resamples are scored one after the other, so that memory does not grow with their number.
///
/// # Errors
///
/// As [`score`] and [`Selection::experts`], and [`Error::Parameter`] for no resamples.
pub fn bootstrap_stability<R: Responses>(
    sites: &BTreeMap<Site, R>,
    labels: &[bool],
    selection: &Selection,
    resamples: usize,
    seed: u64,
    memory: usize,
) -> Result<Stability> {
    if resamples == 0 {
        return Err(Error::Parameter { parameter: "resamples", value: "0".to_owned(), expected: "at least 1".to_owned() });
    }
    let order = toxic_first(labels);
    let (toxic, non_toxic) = order.split_at(labels.iter().filter(|l| **l).count());
    let experts_of = |rows: &[usize]| {
        let labels: Vec<bool> = rows.iter().map(|row| labels.get(*row).copied().unwrap_or_default()).collect();
        let mut expertise = Expertise::new(Metadata::default());
        for (site, responses) in sites {
            if responses.samples() != order.len() {
                return Err(Error::Labels { labels: order.len(), samples: responses.samples() });
            }
            let options = ScoreOptions { memory, ..ScoreOptions::default() };
            let scores = score(&Rows { responses, rows }, &labels, &options).map_err(|e| e.at(&site.to_string()))?;
            expertise.insert(*site, scores.to_expertise())?;
        }
        selection.experts(&expertise)
    };
    let experts = experts_of(&order)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sets = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        let mut rows = Vec::with_capacity(order.len());
        for class in [toxic, non_toxic] {
            for _ in class {
                let place = rng.random_range(0..class.len() as u64);
                rows.extend(usize::try_from(place).ok().and_then(|place| class.get(place)));
            }
        }
        sets.push(experts_of(&rows)?);
    }
    let mut frequency: BTreeMap<Site, BTreeMap<usize, usize>> = BTreeMap::new();
    for (site, neurons) in sets.iter().flat_map(Experts::sites) {
        let site = frequency.entry(*site).or_default();
        neurons.iter().for_each(|neuron| *site.entry(*neuron).or_insert(0) += 1);
    }
    let pairs = sets.iter().enumerate().flat_map(|(i, a)| sets.iter().take(i).map(move |b| a.jaccard(b)));
    let (sum, count) = pairs.fold((0.0, 0u32), |(sum, count), jaccard| (sum + jaccard, count + 1));
    let with_all = sets.iter().map(|set| set.jaccard(&experts)).collect();
    Ok(Stability { experts, with_all, between: sum / f64::from(count), frequency })
}
