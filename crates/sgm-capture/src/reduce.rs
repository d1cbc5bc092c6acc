//! Pooling over tokens: all poolings of a sample's responses at one site, in one pass.

use std::ops::Range;

use sgm_core::{TokenKind, TokenSelection};

use crate::{Pool, Pooling};

/// The number of neurons pooled together: their accumulators fit into the first-level cache.
const BLOCK: usize = 512;
/// The number of tokens pooled together: accumulators are read and written once for all of them.
const TOKENS: usize = 4;

/// The poolings of a tap.
#[derive(Debug)]
pub(crate) struct Reduction {
    /// The poolings, each with its selection's bit in a [`Run`].
    poolings: Vec<(Pooling, u8)>,
}

/// The responses of a site that are not finite: their number and the first of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NonFinites {
    pub(crate) count: usize,
    pub(crate) neuron: usize,
    pub(crate) value: f32,
}

/// The state of one pooling for a block of neurons.
#[derive(Debug, Clone)]
enum Accumulator {
    Sum(Vec<f64>),
    Value(Vec<f32>),
}

impl Reduction {
    pub(crate) fn new(poolings: Vec<Pooling>) -> Self {
        Self { poolings: poolings.into_iter().map(|pooling| (pooling, bit(pooling.tokens))).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.poolings.len()
    }

    pub(crate) fn poolings(&self) -> impl Iterator<Item = Pooling> {
        self.poolings.iter().map(|(pooling, _)| *pooling)
    }

    /// Pools the responses `[tokens, neurons]` of one sample: `[neurons]` for each pooling, NaN without a selected token.
    ///
    /// At the site of an expert, only tokens `routed` to it are selected, and the result is 0 without one.
    ///
    /// A NaN among the responses at the selected tokens makes each pooling but `last` NaN. Responses that no pooling selects are not read.
    pub(crate) fn row(
        &self,
        values: &[f32],
        neurons: usize,
        kinds: &[TokenKind],
        routed: Option<&[bool]>,
    ) -> (Vec<Vec<f32>>, Option<NonFinites>) {
        let runs = self.runs(values, neurons, kinds, routed);
        let mut pooled = vec![Vec::with_capacity(neurons); self.poolings.len()];
        let mut non_finite: Option<NonFinites> = None;
        let count = |(_, bit): &(Pooling, u8)| runs.iter().filter(|run| run.selections & bit != 0).map(|run| run.len).sum::<usize>();
        let counts = self.poolings.iter().map(count).collect::<Vec<_>>();
        let mut accumulators: Vec<Accumulator> = self.poolings.iter().map(|(p, _)| Accumulator::new(p.pool)).collect();
        for start in (0..neurons).step_by(BLOCK) {
            let width = BLOCK.min(neurons - start);
            accumulators.iter_mut().zip(&self.poolings).for_each(|(a, (p, _))| a.reset(p.pool, width));
            let odd = self.accumulate(&runs, start..start + width, &mut accumulators);
            for (((pooled, accumulator), (pooling, bit)), count) in pooled.iter_mut().zip(&accumulators).zip(&self.poolings).zip(&counts) {
                accumulator.finish(*count, pooled);
                if odd && !matches!(pooling.pool, Pool::Mean | Pool::Last) {
                    // Comparisons with NaN are false, so that NaN has no effect on the accumulators.
                    let chosen = runs.iter().filter(|run| run.selections & bit != 0).flat_map(Run::rows);
                    for row in chosen {
                        for (pooled, value) in pooled.iter_mut().zip(row.iter()).skip(start).take(width) {
                            if value.is_nan() {
                                *pooled = f32::NAN;
                            }
                        }
                    }
                }
            }
            if odd {
                let responses = runs.iter().flat_map(Run::rows).flat_map(|row| row.iter().enumerate().skip(start).take(width));
                for (neuron, value) in responses.filter(|(_, v)| !v.is_finite()) {
                    let first = non_finite.get_or_insert(NonFinites { count: 0, neuron, value: *value });
                    first.count += 1;
                    if neuron < first.neuron {
                        (first.neuron, first.value) = (neuron, *value);
                    }
                }
            }
        }
        if routed.is_some() {
            let empty = pooled.iter_mut().zip(&counts).filter(|(_, count)| **count == 0);
            empty.for_each(|(pooled, _)| pooled.fill(0.0));
        }
        (pooled, non_finite)
    }

    /// Adds the tokens of all runs to the accumulators of a block of neurons; returns whether a response is not finite.
    fn accumulate(&self, runs: &[Run<'_>], block: Range<usize>, accumulators: &mut [Accumulator]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            #[allow(unsafe_code, reason = "wider vectors on processors that have them")]
            return unsafe { self.accumulate_avx2(runs, block, accumulators) };
        }
        self.accumulate_anywhere(runs, block, accumulators)
    }

    /// [`accumulate_anywhere`](Self::accumulate_anywhere) compiled for AVX2. Operations are neither reordered nor fused: the bits are the
    /// same.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn accumulate_avx2(&self, runs: &[Run<'_>], block: Range<usize>, accumulators: &mut [Accumulator]) -> bool {
        self.accumulate_anywhere(runs, block, accumulators)
    }

    #[inline(always)]
    fn accumulate_anywhere(&self, runs: &[Run<'_>], block: Range<usize>, accumulators: &mut [Accumulator]) -> bool {
        let mut odd = false;
        for run in runs {
            let parts = run.rows.map(|row| row.get(block.clone()).unwrap_or_default());
            let rows = parts.get(..run.len).unwrap_or_default();
            for row in rows {
                odd |= any_non_finite(row);
            }
            for (accumulator, (pooling, bit)) in accumulators.iter_mut().zip(&self.poolings) {
                if run.selections & bit != 0 {
                    accumulator.add(pooling.pool, rows);
                }
            }
        }
        odd
    }

    /// The selected tokens, up to four neighbours with the same selections together.
    fn runs<'a>(&self, values: &'a [f32], neurons: usize, kinds: &[TokenKind], routed: Option<&[bool]>) -> Vec<Run<'a>> {
        let mut selections = vec![0u8; kinds.len()];
        for (pooling, bit) in &self.poolings {
            selections.iter_mut().zip(pooling.tokens.selected(kinds)).for_each(|(bits, selected)| *bits |= if selected { *bit } else { 0 });
        }
        if let Some(routed) = routed {
            selections.iter_mut().zip(routed).filter(|(_, routed)| !**routed).for_each(|(bits, _)| *bits = 0);
        }
        let mut runs: Vec<Run<'a>> = Vec::with_capacity(kinds.len());
        for (row, selections) in values.chunks_exact(neurons.max(1)).zip(selections).filter(|(_, selections)| *selections != 0) {
            if let Some(run) = runs.last_mut()
                && run.selections == selections
                && let Some(free) = run.rows.get_mut(run.len)
            {
                *free = row;
                run.len += 1;
                continue;
            }
            let mut rows: [&[f32]; TOKENS] = [&[]; TOKENS];
            if let Some(first) = rows.first_mut() {
                *first = row;
            }
            runs.push(Run { selections, rows, len: 1 });
        }
        runs
    }
}

/// The bit of a selection.
fn bit(tokens: TokenSelection) -> u8 {
    1 << tokens as u8
}

/// The responses `[neurons]` at up to four neighbouring tokens that the same poolings select.
#[derive(Debug)]
struct Run<'a> {
    /// The bits of the selections that select the tokens.
    selections: u8,
    rows: [&'a [f32]; TOKENS],
    len: usize,
}

impl Run<'_> {
    fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.rows.iter().take(self.len).copied()
    }
}

#[inline(always)]
fn any_non_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // No early exit, so that the loop is vectorised.
    values.iter().fold(false, |odd, v| odd | (v.to_bits() & EXPONENT == EXPONENT))
}

impl Accumulator {
    fn new(pool: Pool) -> Self {
        match pool {
            Pool::Mean => Self::Sum(Vec::with_capacity(BLOCK)),
            _ => Self::Value(Vec::with_capacity(BLOCK)),
        }
    }

    fn reset(&mut self, pool: Pool, width: usize) {
        match self {
            Self::Sum(sums) => {
                sums.clear();
                sums.resize(width, 0.0);
            }
            Self::Value(values) => {
                values.clear();
                let start = match pool {
                    Pool::Max => f32::NEG_INFINITY,
                    Pool::Min => f32::INFINITY,
                    Pool::MaxAbs | Pool::Last | Pool::Mean => 0.0,
                };
                values.resize(width, start);
            }
        }
    }

    #[inline(always)]
    fn add(&mut self, pool: Pool, rows: &[&[f32]]) {
        match self {
            // The order of the sum does not depend on the grouping.
            Self::Sum(sums) => fold(sums, rows, |sum, value| sum + f64::from(value)),
            Self::Value(values) => match pool {
                // Ties keep the first value, such as -0.0 before 0.0.
                Pool::Max => fold(values, rows, |max, value| if value > max { value } else { max }),
                Pool::Min => fold(values, rows, |min, value| if value < min { value } else { min }),
                Pool::MaxAbs => fold(values, rows, |max, value| if value.abs() > max { value.abs() } else { max }),
                Pool::Last | Pool::Mean => {
                    if let Some(last) = rows.last() {
                        values.copy_from_slice(last);
                    }
                }
            },
        }
    }

    fn finish(&self, count: usize, to: &mut Vec<f32>) {
        match self {
            #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "pooled responses are stored in f32")]
            Self::Sum(sums) => to.extend(sums.iter().map(|sum| (sum / count as f64) as f32)),
            Self::Value(values) if count == 0 => to.extend(values.iter().map(|_| f32::NAN)),
            Self::Value(values) => to.extend(values),
        }
    }
}

/// Folds up to four rows into accumulators, token after token.
#[inline(always)]
fn fold<T: Copy>(accumulators: &mut [T], rows: &[&[f32]], f: impl Fn(T, f32) -> T) {
    match rows {
        [a, b, c, d] => {
            for ((((x, a), b), c), d) in accumulators.iter_mut().zip(*a).zip(*b).zip(*c).zip(*d) {
                *x = f(f(f(f(*x, *a), *b), *c), *d);
            }
        }
        rows => {
            for row in rows {
                accumulators.iter_mut().zip(*row).for_each(|(x, value)| *x = f(*x, *value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of a pooling.
    #[allow(clippy::cast_possible_truncation, reason = "pooled responses are f32")]
    fn plain(pooling: Pooling, values: &[f32], neurons: usize, kinds: &[TokenKind]) -> Vec<f32> {
        let of = |neuron: usize| {
            let chosen: Vec<f32> = pooling.tokens.positions(kinds).into_iter().map(|t| values[t * neurons + neuron]).collect();
            if chosen.is_empty() || (pooling.pool != Pool::Last && chosen.iter().any(|v| v.is_nan())) {
                return f32::NAN;
            }
            let larger = |a: f32, b: f32| if b > a { b } else { a };
            match pooling.pool {
                Pool::Mean => (chosen.iter().map(|v| f64::from(*v)).sum::<f64>() / chosen.len() as f64) as f32,
                Pool::Max => chosen.iter().copied().reduce(larger).unwrap(),
                Pool::Min => chosen.iter().copied().reduce(|a, b| if b < a { b } else { a }).unwrap(),
                Pool::Last => *chosen.last().unwrap(),
                Pool::MaxAbs => chosen.iter().map(|v| v.abs()).reduce(larger).unwrap(),
            }
        };
        (0..neurons).map(of).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        // NaN has many bit patterns.
        values.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
    }

    fn check(values: &[f32], neurons: usize, kinds: &[TokenKind], poolings: Vec<Pooling>) {
        let reduction = Reduction::new(poolings);
        let (pooled, non_finite) = reduction.row(values, neurons, kinds, None);
        for ((pooling, _), pooled) in reduction.poolings.iter().zip(&pooled) {
            assert_eq!(bits(pooled), bits(&plain(*pooling, values, neurons, kinds)), "{pooling}");
        }
        // The results do not depend on the processor.
        let runs = reduction.runs(values, neurons, kinds, None);
        for start in (0..neurons).step_by(BLOCK) {
            let block = start..neurons.min(start + BLOCK);
            let fresh = || -> Vec<Accumulator> {
                let made = reduction.poolings.iter().map(|(p, _)| (p.pool, Accumulator::new(p.pool)));
                made.map(|(pool, mut a)| {
                    a.reset(pool, block.len());
                    a
                })
                .collect()
            };
            let (mut here, mut anywhere) = (fresh(), fresh());
            let odd = reduction.accumulate(&runs, block.clone(), &mut here);
            assert_eq!(odd, reduction.accumulate_anywhere(&runs, block.clone(), &mut anywhere));
            for (accumulator, (here, anywhere)) in here.iter().zip(&anywhere).enumerate() {
                let read = |a: &Accumulator| {
                    let mut to = Vec::new();
                    a.finish(1, &mut to);
                    bits(&to)
                };
                assert_eq!(read(here), read(anywhere), "{accumulator}");
            }
        }
        let seen = |t: usize| reduction.poolings.iter().any(|(p, _)| p.tokens.positions(kinds).contains(&t));
        let bad: Vec<_> = (0..kinds.len() * neurons).filter(|i| seen(i / neurons) && !values[*i].is_finite()).collect();
        assert_eq!(non_finite.map_or(0, |n| n.count), bad.len());
        assert_eq!(non_finite.map(|n| n.neuron), bad.iter().map(|i| i % neurons).min());
    }

    fn all() -> Vec<Pooling> {
        TokenSelection::ALL.into_iter().flat_map(|tokens| Pool::ALL.map(|pool| Pooling { pool, tokens })).collect()
    }

    const KINDS: [TokenKind; 4] = [TokenKind::Padding, TokenKind::PromptText, TokenKind::Image, TokenKind::Response];

    proptest! {
        #[test]
        fn every_pooling_is_what_it_says(
            kinds in proptest::collection::vec(0usize..4, 0..40),
            neurons in 1usize..20,
            levels in proptest::collection::vec(-4i8..=4, 1..200),
            odd in proptest::option::weighted(0.3, (0usize..800, 0usize..3)),
            which in proptest::collection::vec(0usize..35, 1..6),
        ) {
            let kinds: Vec<_> = kinds.into_iter().map(|k| KINDS[k]).collect();
            let mut values: Vec<f32> = (0..kinds.len() * neurons).map(|i| f32::from(levels[i % levels.len()]) * 0.37).collect();
            if let Some((at, what)) = odd && let Some(value) = values.get_mut(at) {
                *value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][what];
            }
            check(&values, neurons, &kinds, all());
            let mut some: Vec<_> = which.into_iter().map(|i| all()[i]).collect();
            some.sort();
            some.dedup();
            check(&values, neurons, &kinds, some);
        }
    }

    #[test]
    fn only_routed_tokens_count_at_an_expert_and_without_one_the_response_is_0() {
        let kinds = [TokenKind::PromptText, TokenKind::PromptText, TokenKind::Response, TokenKind::Padding];
        let values = [1.0, -5.0, 3.0, 0.0];
        let pool = |tokens, routed: [bool; 4]| {
            let poolings = Pool::ALL.map(|pool| Pooling { pool, tokens }).to_vec();
            Reduction::new(poolings).row(&values, 1, &kinds, Some(&routed)).0.concat()
        };
        // Mean, max, min, last, maxabs.
        assert_eq!(pool(TokenSelection::All, [true, false, true, false]), [2.0, 3.0, 1.0, 3.0, 3.0]);
        assert_eq!(pool(TokenSelection::All, [false, true, false, false]), [-5.0, -5.0, -5.0, -5.0, 5.0]);
        assert_eq!(pool(TokenSelection::Response, [true, true, false, false]), [0.0; 5]);
        // The end of the prompt is the same token, whether it is routed there or not.
        assert_eq!(pool(TokenSelection::PromptEnd, [true, false, true, false]), [0.0; 5]);
        assert_eq!(pool(TokenSelection::All, [false; 4]), [0.0; 5]);
    }

    #[test]
    fn wide_sites_are_pooled_block_by_block() {
        let (neurons, tokens) = (2 * BLOCK + 77, 37);
        let kinds: Vec<_> = (0..tokens).map(|t| KINDS[(t / 5) % 4]).collect();
        let mut values: Vec<f32> = (0..tokens * neurons).map(|i| ((i * 7919) % 1009) as f32 / 100.0 - 5.0).collect();
        check(&values, neurons, &kinds, all());
        // In the second block, at a token of the response.
        values[16 * neurons + BLOCK + 3] = f32::NEG_INFINITY;
        values[17 * neurons + 2 * BLOCK + 1] = f32::NAN;
        check(&values, neurons, &kinds, all());
        check(&values, neurons, &kinds, vec![Pooling { pool: Pool::Max, tokens: TokenSelection::Image }]);
    }
}
