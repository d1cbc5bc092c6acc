//! The AUROCs of all neurons, compared with those under permuted labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sgm_core::{Calibration, Expertise, shortcut_warning};

use super::axis::Axis;
use super::document::{Block, Figure, Section, Table};
use super::svg::{Anchor, FONT, Svg, width};

/// The distribution of the AUROCs of a model's neurons.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AurocDistribution {
    /// The pooling and the samples, as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// How well parts of the samples that should tell nothing predict the label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shortcuts: BTreeMap<String, f64>,
    /// The number of neurons in each of equally wide bins from 0 to 1.
    pub observed: Vec<u64>,
    /// The distribution under permuted labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<NullDistribution>,
}

/// The distribution of the AUROCs of the same neurons under permuted labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NullDistribution {
    /// The number of neurons and permutations in each of equally wide bins from 0 to 1.
    pub counts: Vec<u64>,
    /// The number of permutations.
    pub permutations: usize,
    /// The AUROC that the largest of all neurons exceeds in at most 5 % of the permutations.
    pub threshold: f64,
    /// The number of neurons above it: each an expert at a family-wise error rate of 5 %.
    pub above: usize,
}

/// The number of bins of observed AUROCs.
const BINS: u8 = 100;
/// The family-wise error rate of the threshold.
const LEVEL: f64 = 0.05;

impl AurocDistribution {
    /// The distribution of the AUROCs of an expertise, and of those under permuted labels, if known: the counts of all neurons and
    /// permutations in equally wide bins from 0 to 1, and the largest AUROC of all neurons in each permutation. Fewer than 19 permutations
    /// have no threshold at a level of 5 % and are left out.
    pub fn new(expertise: &Expertise, null: Option<(Vec<u64>, &[f64])>) -> Self {
        let auroc = || expertise.sites().values().flat_map(|site| &site.auroc).map(|auroc| f64::from(*auroc));
        let mut observed = vec![0; usize::from(BINS)];
        for value in auroc() {
            let bin = (1..BINS).take_while(|bin| f64::from(*bin) / f64::from(BINS) <= value).count();
            observed.iter_mut().skip(bin).take(1).for_each(|count| *count += 1);
        }
        let null = null.and_then(|(counts, largest)| {
            let mut largest = largest.to_vec();
            largest.sort_by(|a, b| b.total_cmp(a));
            // A neuron above it has (1 + permutations that reach it) / (1 + permutations) <= level.
            let reach = LEVEL * (largest.len() + 1) as f64 - 1.0;
            let threshold = largest.iter().enumerate().find(|(above, _)| reach >= 0.0 && (above + 1) as f64 > reach)?.1;
            let above = auroc().filter(|auroc| auroc > threshold).count();
            Some(NullDistribution { counts, permutations: largest.len(), threshold: *threshold, above })
        });
        let pooling = expertise.metadata.pooling.as_ref().map(|pooling| format!("responses pooled by {pooling}"));
        let samples = expertise.metadata.calibration.as_ref().map(|c| {
            let Calibration { dataset, n_toxic, n_non_toxic, .. } = c;
            format!("{n_toxic} toxic and {n_non_toxic} non-toxic samples of {dataset}")
        });
        let about = [pooling, samples].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let shortcuts = expertise.metadata.calibration.as_ref().map(|c| c.shortcuts.clone()).unwrap_or_default();
        Self { about, shortcuts, observed, null }
    }
}

pub(super) fn section(distribution: &AurocDistribution) -> Option<Section> {
    let neurons: u64 = distribution.observed.iter().sum();
    if neurons == 0 {
        return None;
    }
    let mut legend = vec![("c1", format!("{neurons} neurons"))];
    let about = if distribution.about.is_empty() { String::new() } else { format!(" ({})", distribution.about) };
    let mut blocks = Vec::new();
    if let Some(null) = &distribution.null {
        legend.push(("c2", format!("the same with permuted labels ({} permutations)", null.permutations)));
        blocks.push(Block::Finding {
            text: format!(
                "{} neurons ({:.1} %) have an AUROC above {:.3}, which the best of all neurons exceeds in at most 5 % of {} permutations \
                 of the labels.",
                null.above,
                100.0 * null.above as f64 / neurons as f64,
                null.threshold,
                null.permutations
            ),
        });
    }
    blocks.push(Block::Figure(Figure {
        drawings: vec![drawing(distribution)],
        legend,
        caption: format!("The density over neurons of the AUROC with which a single neuron separates toxic from non-toxic samples{about}."),
        numbers: numbers(distribution),
    }));
    if !distribution.shortcuts.is_empty() {
        let text = "The AUROC with which parts of the calibration samples that should tell nothing predict the label, each alone:";
        blocks.push(Block::Text { text: text.to_owned() });
        let rows = distribution.shortcuts.iter().map(|(name, auroc)| [name.clone(), format!("{auroc:.3}")]);
        blocks.push(Block::Table(Table::new(["predictor", "AUROC"], rows.collect())));
        blocks.extend(shortcut_warning(&distribution.shortcuts).map(|text| Block::Finding { text }));
    }
    Some(Section { id: "auroc", title: "AUROC of the neurons", blocks })
}

/// Both distributions in tenths of the range, in per cent of neurons.
fn numbers(distribution: &AurocDistribution) -> Table {
    let null = distribution.null.as_ref().map(|null| tenths(&null.counts));
    let cell = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.2}"));
    let rows = tenths(&distribution.observed).into_iter().enumerate().map(|(n, share)| {
        let range = format!("{:.1} to {:.1}", n as f64 / 10.0, (n + 1) as f64 / 10.0);
        [range, cell(Some(share)), cell(null.as_ref().and_then(|null| null.get(n).copied()))]
    });
    Table::new(["AUROC", "% of neurons", "% with permuted labels"], rows.collect())
}

fn tenths(counts: &[u64]) -> Vec<f64> {
    let all = counts.iter().sum::<u64>().max(1) as f64;
    let bins = counts.len().max(1);
    let share = |tenth: usize| {
        let inside = counts.iter().enumerate().filter(|(bin, _)| bin * 10 / bins == tenth);
        100.0 * inside.map(|(_, count)| *count).sum::<u64>() as f64 / all
    };
    (0..10).map(share).collect()
}

/// The outline of a histogram as (AUROC, density), over the bins that are not empty.
fn outline(counts: &[u64]) -> Vec<[f64; 2]> {
    let bins = counts.len() as f64;
    let all = counts.iter().sum::<u64>().max(1) as f64;
    let ends = |(bin, count): (usize, &u64)| {
        let density = *count as f64 / all * bins;
        [[bin as f64 / bins, density], [(bin + 1) as f64 / bins, density]]
    };
    let first = counts.iter().position(|count| *count > 0).unwrap_or_default();
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or_default();
    let steps: Vec<[f64; 2]> = counts.iter().enumerate().skip(first).take(last + 1 - first).flat_map(ends).collect();
    let ground = |end: Option<&[f64; 2]>| end.map(|[auroc, _]| [*auroc, 0.0]);
    ground(steps.first()).into_iter().chain(steps.iter().copied()).chain(ground(steps.last())).collect()
}

const SIZE: [f64; 2] = [760.0, 280.0];

fn drawing(distribution: &AurocDistribution) -> String {
    let [full, height] = SIZE;
    let (left, right, top, bottom) = (34.0, full - 12.0, 1.8 * FONT, height - 3.2 * FONT);
    let observed = outline(&distribution.observed);
    let null = distribution.null.as_ref().map(|null| outline(&null.counts)).unwrap_or_default();
    let both = || observed.iter().chain(&null);
    let x = Axis::over(both().map(|p| p[0]), [left, right], 8);
    let y = Axis::over(both().map(|p| p[1]), [bottom, top], 4);
    let mut svg = Svg::new(SIZE, "Density of AUROC over neurons");
    svg.text("label", Anchor::Start, [0.0, FONT], "density");
    svg.text("label", Anchor::End, [right, height - 4.0], "AUROC of a neuron");
    for (at, label) in x.ticks() {
        svg.line("grid", [at, top], [at, bottom]);
        svg.text("tick", Anchor::Middle, [at, bottom + 1.3 * FONT], &label);
    }
    for (at, label) in y.ticks() {
        svg.line("grid", [left, at], [right, at]);
        svg.text("tick", Anchor::End, [left - 6.0, at + 4.0], &label);
    }
    let place = |points: &[[f64; 2]]| points.iter().map(|[auroc, density]| [x.at(*auroc), y.at(*density)]).collect::<Vec<_>>();
    svg.path("area c1", &place(&observed));
    svg.path("outline c2", &place(&null));
    if let Some(null) = &distribution.null {
        let at = x.at(null.threshold);
        svg.line("reference", [at, top], [at, bottom]);
        let label = "largest by chance (5 %)";
        let (anchor, beside) = if at + 6.0 + width(label) < right { (Anchor::Start, at + 6.0) } else { (Anchor::End, at - 6.0) };
        svg.text("strong halo", anchor, [beside, top + FONT], label);
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sgm_core::{Metadata, Projection, Site, SiteExpertise};

    fn expertise(auroc: &[f32]) -> Expertise {
        let mut expertise = Expertise::new(Metadata::default());
        expertise.insert(Site::new(0, Projection::Up), SiteExpertise { auroc: auroc.to_vec(), auroc_se: None }).unwrap();
        expertise
    }

    #[test]
    fn every_auroc_is_in_one_bin() {
        let distribution = AurocDistribution::new(&expertise(&[0.0, 0.005, 0.5, 0.745, 1.0]), None);
        let filled: Vec<(usize, u64)> = distribution.observed.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(0, 2), (50, 1), (74, 1), (99, 1)]);
    }

    #[test]
    fn the_threshold_keeps_its_level() {
        // 99 permutations: 1 + the permutations that reach a neuron's AUROC may be 5 of 100.
        let largest: Vec<f64> = (1..=99).map(|n| 0.5 + f64::from(n) / 1000.0).collect();
        let distribution = AurocDistribution::new(&expertise(&[0.5945, 0.5955, 0.7]), Some((vec![0; 100], &largest)));
        let null = distribution.null.unwrap();
        assert_eq!((null.threshold, null.above, null.permutations), (0.595, 2, 99));
        let p = |auroc: f64| (1 + largest.iter().filter(|l| **l >= auroc).count()) as f64 / 100.0;
        assert!(p(0.5955) <= LEVEL && p(0.5945) > LEVEL);
        assert_eq!(AurocDistribution::new(&expertise(&[0.9]), Some((vec![], &[]))).null, None);
        assert_eq!(AurocDistribution::new(&expertise(&[0.9]), Some((vec![], &[0.6; 18]))).null, None);
        assert_eq!(AurocDistribution::new(&expertise(&[0.9]), Some((vec![], &[0.6; 19]))).null.unwrap().above, 1);
    }

    #[test]
    fn an_outline_has_the_area_one() {
        let outline = outline(&[0, 3, 0, 1, 0]);
        let area: f64 = outline.windows(2).map(|pair| (pair[1][0] - pair[0][0]) * pair[0][1]).sum();
        assert!((area - 1.0).abs() < 1e-12, "{outline:?}");
        assert_eq!((outline.first(), outline.last()), (Some(&[0.2, 0.0]), Some(&[0.8, 0.0])));
        assert_eq!(super::outline(&[]), [[0.0; 2]; 0]);
        assert_eq!(tenths(&[1, 1, 2, 0]).iter().sum::<f64>(), 100.0);
    }
}
