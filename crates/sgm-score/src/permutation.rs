//! The distribution of AUROCs under permuted labels.

use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use crate::blocks::{columns_within, each_block, refuse_nan};
use crate::classes::Classes;
use crate::order::Ordered as _;
use crate::{Error, Responses, Result};

/// The distribution of AUROCs under random labels.
#[derive(Debug, Clone, PartialEq)]
pub struct PermutationNull {
    /// For each neuron, (1 + permutations in which its AUROC is at least the observed one) / (1 + permutations).
    pub p: Vec<f64>,
    /// The same for the largest AUROC of all neurons in each permutation: p-values adjusted for multiple testing by the max-statistic of
    /// Westfall and Young (1993), which controls the family-wise error rate.
    pub p_max: Vec<f64>,
    /// The largest AUROC of all neurons in each permutation.
    pub largest: Vec<f64>,
    /// The number of AUROCs, over all neurons and permutations, in each of 100 equally wide bins from 0 to 1.
    pub histogram: Vec<u64>,
}

/// The number of bins of [`PermutationNull::histogram`].
const BINS: usize = 100;

/// Permutes the labels `permutations` times and scores every neuron each time.
///
/// Each neuron is sorted once; a permutation only sums other ranks. All neurons have the same permutations, which preserves their
/// correlation. Permutations are seeded (ChaCha8): the same bits for any number of threads and any memory limit. The tests are one-sided,
/// for responses that are higher on toxic samples. The permutations take 4 bytes per toxic sample each, in addition to `memory`.
///
/// # Errors
///
/// As [`score`](crate::score), and [`Error::Parameter`] for no permutations.
pub fn permutation_null<R: Responses>(
    responses: &R,
    labels: &[bool],
    permutations: usize,
    seed: u64,
    memory: usize,
) -> Result<PermutationNull> {
    let classes = Classes::of(labels, responses.samples())?;
    if permutations == 0 {
        return Err(Error::Parameter { parameter: "permutations", value: "0".to_owned(), expected: "at least 1".to_owned() });
    }
    let observed: Vec<u32> = (0u32..).zip(labels).filter(|(_, l)| **l).map(|(row, _)| row).collect();
    let permuted = permuted(labels.len(), observed.len(), permutations, seed);
    let order: Vec<usize> = (0..labels.len()).collect();
    // Each sample needs a rank for each column, and a key while a column is sorted.
    let width = columns_within(responses, memory, 16)?;
    let blocks = each_block(responses, &order, width, |block, _| {
        let columns = block.columns().count();
        let mut ranks = vec![0u32; order.len() * columns];
        let mut keys = Vec::with_capacity(order.len());
        for (index, (neuron, column)) in block.columns().enumerate() {
            refuse_nan(neuron, column, &order)?;
            keys.clear();
            keys.extend((0u64..).zip(column).map(|(row, response)| u64::from(response.key()) << 32 | row));
            keys.sort_unstable();
            doubled_mid_ranks(&keys, |row, rank| {
                if let Some(place) = ranks.get_mut(row * columns + index) {
                    *place = rank;
                }
            });
        }
        let mut sums = vec![0; columns];
        rank_sums(&ranks, &observed, &mut sums);
        let expected = sums.clone();
        let mut null = BlockNull {
            observed: expected,
            reached: vec![0; columns],
            largest: Vec::with_capacity(permutations),
            histogram: vec![0; BINS],
        };
        for toxic in &permuted {
            rank_sums(&ranks, toxic, &mut sums);
            for ((reached, sum), observed) in null.reached.iter_mut().zip(&sums).zip(&null.observed) {
                *reached += usize::from(sum >= observed);
            }
            for sum in &sums {
                if let Some(count) = null.histogram.get_mut(bin(classes, *sum)) {
                    *count += 1;
                }
            }
            null.largest.push(sums.iter().copied().max().unwrap_or_default());
        }
        Ok(vec![null])
    })?;
    let mut largest = vec![0u64; permutations];
    let mut histogram = vec![0; BINS];
    for block in &blocks {
        largest.iter_mut().zip(&block.largest).for_each(|(all, here)| *all = (*all).max(*here));
        histogram.iter_mut().zip(&block.histogram).for_each(|(all, here)| *all += here);
    }
    let share = |reached: usize| (1 + reached) as f64 / (1 + permutations) as f64;
    let p = blocks.iter().flat_map(|b| &b.reached).map(|reached| share(*reached)).collect();
    let mut ascending = largest.clone();
    ascending.sort_unstable();
    let reached_by_max = |sum: &u64| permutations - ascending.partition_point(|largest| largest < sum);
    let p_max = blocks.iter().flat_map(|b| &b.observed).map(|sum| share(reached_by_max(sum))).collect();
    let auroc = |sum: &u64| {
        let (above, pairs) = doubled_pairs(classes, *sum);
        above as f64 / pairs as f64
    };
    Ok(PermutationNull { p, p_max, largest: largest.iter().map(auroc).collect(), histogram })
}

/// Twice the number of pairs in which the toxic sample is higher, ties counting half, and twice the number of all pairs; from twice the
/// rank sum.
fn doubled_pairs(Classes { toxic, non_toxic }: Classes, doubled_sum: u64) -> (u64, u64) {
    (doubled_sum - toxic * (toxic + 1), 2 * toxic * non_toxic)
}

/// The bin of the AUROC of a rank sum; 1 is in the last bin. Integer arithmetic puts an AUROC on an edge into the bin above it.
fn bin(classes: Classes, doubled_sum: u64) -> usize {
    let (above, pairs) = doubled_pairs(classes, doubled_sum);
    usize::try_from(u128::from(above) * BINS as u128 / u128::from(pairs)).unwrap_or(BINS).min(BINS - 1)
}

/// The contribution of one block of neurons.
struct BlockNull {
    /// Twice the rank sums with the given labels.
    observed: Vec<u64>,
    /// The number of permutations whose rank sums are at least these.
    reached: Vec<usize>,
    /// Twice the largest rank sum of each permutation.
    largest: Vec<u64>,
    /// The histogram of AUROCs.
    histogram: Vec<u64>,
}

/// Sums the ranks `[samples, neurons]` of the given samples for each neuron.
fn rank_sums(ranks: &[u32], rows: &[u32], sums: &mut [u64]) {
    sums.fill(0);
    for row in rows {
        let start = *row as usize * sums.len();
        let ranks = ranks.get(start..start + sums.len()).unwrap_or_default();
        sums.iter_mut().zip(ranks).for_each(|(sum, rank)| *sum += u64::from(*rank));
    }
}

/// Twice each sample's rank, counted from 1, with the mean rank for ties; a key has the response in its high and the sample's index in its
/// low half.
#[allow(clippy::cast_possible_truncation, reason = "fewer than 2^31 samples; the low half of a key is the index")]
fn doubled_mid_ranks(keys: &[u64], mut put: impl FnMut(usize, u32)) {
    let mut before = 0;
    for tied in keys.chunk_by(|a, b| a >> 32 == b >> 32) {
        let rank = 2 * before + tied.len() as u32 + 1;
        before += tied.len() as u32;
        tied.iter().for_each(|key| put(*key as u32 as usize, rank));
    }
}

/// The samples that are toxic in each permutation, in ascending order.
#[allow(clippy::cast_possible_truncation, reason = "fewer than 2^31 samples")]
fn permuted(samples: usize, toxic: usize, permutations: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<u32> = (0..samples as u32).collect();
    let mut draw = || {
        // The first steps of a Fisher-Yates shuffle.
        for place in 0..toxic {
            order.swap(place, rng.random_range(place as u64..samples as u64) as usize);
        }
        let mut rows = order.get(..toxic).unwrap_or_default().to_vec();
        rows.sort_unstable();
        rows
    };
    (0..permutations).map(|_| draw()).collect()
}
