//! The AUROC within strata of samples.

use crate::blocks::{columns_within, each_block, refuse_nan};
use crate::classes::Classes;
use crate::order::Ordered as _;
use crate::tally::Tally;
use crate::{Error, Responses, Result};

/// The weight of each stratum in a stratified AUROC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StratumWeight {
    /// The number of pairs of a toxic and a non-toxic sample: every pair counts equally.
    Pairs,
    /// The number of toxic samples: the covariate-adjusted AUROC of Janes and Pepe, Biometrika 96 (2009).
    Toxic,
}

/// The AUROC of every neuron over pairs of samples of the same stratum; f64 `[neurons]`.
///
/// `strata` are the strata of the samples, such as their question, image or source. Differences between strata, such as the style of a
/// source, have no effect on the result. With
/// c_s = #(toxic response higher) + #(tied) / 2 over the n1_s n0_s pairs of stratum s,
///
/// * [`StratumWeight::Pairs`]: sum of c_s / sum of n1_s n0_s;
/// * [`StratumWeight::Toxic`]: sum of n1_s (c_s / n1_s n0_s) / sum of n1_s.
///
/// Strata with one class only have no pairs and are left out; their samples are not read. If each stratum is a matched pair (one toxic and
/// one non-toxic sample with the same image or prompt), both weights give the *matched-pair AUROC*: the share of pairs in which the toxic
/// response is higher.
///
/// # Errors
///
/// [`Error::Labels`] unless there are as many labels and strata as samples, [`Error::NoPairs`] when no stratum
/// has both classes, [`Error::NotANumber`] and [`Error::Memory`] as [`score`](crate::score).
pub fn stratified_auroc<R: Responses>(
    responses: &R,
    labels: &[bool],
    strata: &[u32],
    weight: StratumWeight,
    memory: usize,
) -> Result<Vec<f64>> {
    let samples = responses.samples();
    for given in [labels.len(), strata.len()] {
        if given != samples {
            return Err(Error::Labels { labels: given, samples });
        }
    }
    let mut rows: Vec<(u32, usize, bool)> = strata.iter().zip(labels).enumerate().map(|(row, (s, l))| (*s, row, *l)).collect();
    rows.sort_unstable();
    let (mut order, mut classes) = (Vec::new(), Vec::new());
    for stratum in rows.chunk_by(|a, b| a.0 == b.0) {
        let labels: Vec<bool> = stratum.iter().map(|(_, _, label)| *label).collect();
        match Classes::of(&labels, stratum.len()) {
            Ok(both) => {
                classes.push(both);
                order.extend(stratum.iter().map(|(_, row, _)| *row));
            }
            Err(Error::SingleClass { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    let pairs: u64 = classes.iter().map(|c| c.toxic * c.non_toxic).sum();
    let toxic: u64 = classes.iter().map(|c| c.toxic).sum();
    if pairs == 0 {
        return Err(Error::NoPairs);
    }
    let width = columns_within(responses, memory, 8)?;
    each_block(responses, &order, width, |block, _| {
        let mut keys = Vec::new();
        let mut one = |(neuron, column): (usize, &[R::Value])| {
            refuse_nan(neuron, column, &order)?;
            let (mut rest, mut rows, mut doubled, mut weighted) = (column, order.as_slice(), 0u64, 0.0);
            for stratum in &classes {
                let size = usize::try_from(stratum.samples()).unwrap_or(usize::MAX);
                let (these, after) = rest.split_at(size.min(rest.len()));
                let (these_rows, rows_after) = rows.split_at(size.min(rows.len()));
                (rest, rows) = (after, rows_after);
                keys.clear();
                let label = |row: &usize| u64::from(labels.get(*row).copied().unwrap_or_default());
                keys.extend(these.iter().zip(these_rows).map(|(r, row)| u64::from(r.key()) << 1 | label(row)));
                keys.sort_unstable();
                let mut tally = Tally::new(*stratum, false);
                tally.sorted(&keys);
                doubled += tally.doubled_area();
                weighted += stratum.toxic as f64 * tally.auroc();
            }
            Ok(match weight {
                StratumWeight::Pairs => doubled as f64 / (2 * pairs) as f64,
                StratumWeight::Toxic => weighted / toxic as f64,
            })
        };
        block.columns().map(&mut one).collect()
    })
}
