//! Scales and shifts of one site, and the loops that apply them.

use rayon::prelude::*;

use super::element::Element;
use crate::{Error, Result};

/// The number of responses from which rows are distributed over rayon's threads; for fewer the overhead is larger than the gain.
const PARALLEL_FROM: usize = 1 << 20;
/// The number of responses per task, rounded to whole rows.
const BLOCK: usize = 1 << 15;
/// The sparse layout is faster up to one changed neuron in this many (measured: `docs/results/suppress.md`).
const SPARSE_UP_TO_ONE_IN: usize = 8;

/// The layout of the neurons that a [`Scaling`] visits. Both layouts give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleLayout {
    /// Every neuron, several at a time.
    Dense,
    /// Only the neurons that change; no others are read or written.
    Sparse,
}

/// The change of one site's neurons: `y = scale * x + shift`, computed in f32 and rounded once to the responses' type.
///
/// At a strength `s`, `y = x + s * (scale * x + shift - x)`: the factor is `1 + s * (scale - 1)`, the shift `s * shift`. Strength 1 gives
/// the bits of the plain scaling; strength 0 changes nothing. Neurons with scale 1 and shift 0 keep every bit at any strength.
///
/// ```
/// use sgm_suppress::{ScaleLayout, Scaling};
///
/// let scaling = Scaling::new(vec![1.0, 0.5, 0.0], None)?;
/// let mut responses = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
/// scaling.apply(&mut responses);
/// assert_eq!(responses, [1.0, 1.0, 0.0, 4.0, 2.5, 0.0]);
///
/// // Half strength for the first token, none for the second.
/// scaling.apply_each(&mut responses, &[0.5, 0.0]);
/// assert_eq!(responses, [1.0, 0.75, 0.0, 4.0, 2.5, 0.0]);
/// # Ok::<(), sgm_suppress::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    pub(super) scale: Vec<f32>,
    pub(super) shift: Option<Vec<f32>>,
    /// A mask for each neuron: all ones if it keeps every bit, 0 if it changes; empty if all change.
    kept: Vec<u32>,
    /// The neurons that change, in ascending order.
    experts: Vec<Expert>,
    layout: ScaleLayout,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Expert {
    neuron: usize,
    scale: f32,
    shift: f32,
}

/// The strengths of the tokens of some responses.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Strengths<'a> {
    /// The same strength for all tokens.
    Same(f32),
    /// A strength for each token.
    Each(&'a [f32]),
}

impl Scaling {
    /// A scaling from one scale and optionally one shift for each neuron, in the faster layout.
    ///
    /// # Errors
    ///
    /// [`Error::Shifts`] when the numbers of scales and shifts differ.
    pub fn new(scale: Vec<f32>, shift: Option<Vec<f32>>) -> Result<Self> {
        if let Some(shifts) = shift.as_ref().map(Vec::len).filter(|shifts| *shifts != scale.len()) {
            return Err(Error::Shifts { scales: scale.len(), shifts });
        }
        let shifts = shift.iter().flatten().copied().chain(std::iter::repeat(0.0));
        let neurons = scale.iter().zip(shifts).enumerate().map(|(neuron, (scale, shift))| Expert { neuron, scale: *scale, shift });
        let mut kept = vec![0; scale.len()];
        let mut experts = Vec::new();
        for (expert, kept) in neurons.zip(&mut kept) {
            if unchanged(expert.scale, expert.shift) {
                *kept = u32::MAX;
            } else {
                experts.push(expert);
            }
        }
        if experts.len() == scale.len() {
            kept.clear();
        }
        let layout = if experts.len() * SPARSE_UP_TO_ONE_IN <= scale.len() { ScaleLayout::Sparse } else { ScaleLayout::Dense };
        Ok(Self { scale, shift, kept, experts, layout })
    }

    /// The same scaling in a given layout.
    #[must_use]
    pub fn with_layout(self, layout: ScaleLayout) -> Self {
        Self { layout, ..self }
    }

    /// The layout.
    pub fn layout(&self) -> ScaleLayout {
        self.layout
    }

    /// The number of neurons: the length of a row.
    pub fn neurons(&self) -> usize {
        self.scale.len()
    }

    /// The number of neurons that change.
    pub fn changed(&self) -> usize {
        self.experts.len()
    }

    /// Scales responses `[tokens, neurons]`. An incomplete last row stays unchanged.
    pub fn apply<T: Element>(&self, responses: &mut [T]) {
        self.apply_at(responses, 1.0);
    }

    /// Scales responses `[tokens, neurons]` at one strength.
    pub fn apply_at<T: Element>(&self, responses: &mut [T], strength: f32) {
        self.apply_strengths(responses, Strengths::Same(strength));
    }

    /// Scales responses `[tokens, neurons]` at a strength for each token; further tokens stay unchanged.
    pub fn apply_each<T: Element>(&self, responses: &mut [T], strengths: &[f32]) {
        self.apply_strengths(responses, Strengths::Each(strengths));
    }

    pub(crate) fn apply_strengths<T: Element>(&self, responses: &mut [T], strengths: Strengths<'_>) {
        let neurons = self.neurons();
        if self.experts.is_empty() || matches!(strengths, Strengths::Same(0.0)) {
            return;
        }
        if responses.len() < PARALLEL_FROM || rayon::current_num_threads() == 1 {
            return match strengths {
                Strengths::Same(strength) => self.block(responses, strength),
                Strengths::Each(strengths) => self.runs(responses, strengths),
            };
        }
        let rows = BLOCK.div_ceil(neurons);
        match strengths {
            Strengths::Same(strength) => responses.par_chunks_mut(rows * neurons).for_each(|block| self.block(block, strength)),
            Strengths::Each(strengths) => {
                let blocks = responses.par_chunks_mut(rows * neurons).zip(strengths.par_chunks(rows));
                blocks.for_each(|(block, strengths)| self.runs(block, strengths));
            }
        }
    }

    /// Scales neighbouring rows of equal strength together.
    fn runs<T: Element>(&self, mut responses: &mut [T], strengths: &[f32]) {
        for run in strengths.chunk_by(|a, b| a == b) {
            let length = responses.len().min(run.len() * self.neurons());
            let (block, rest) = std::mem::take(&mut responses).split_at_mut_checked(length).unwrap_or_default();
            responses = rest;
            run.first().into_iter().for_each(|strength| self.block(block, *strength));
        }
    }

    fn block<T: Element>(&self, responses: &mut [T], strength: f32) {
        if strength == 0.0 {
            return;
        }
        match self.layout {
            ScaleLayout::Dense => pulp::Arch::new().dispatch(Dense { responses, scaling: self, strength }),
            ScaleLayout::Sparse => self.experts(responses, strength),
        }
    }

    fn experts<T: Element>(&self, responses: &mut [T], strength: f32) {
        for row in responses.chunks_exact_mut(self.neurons()) {
            for expert in &self.experts {
                if let Some(response) = row.get_mut(expert.neuron) {
                    let product = response.widen() * factor(expert.scale, strength);
                    *response = T::narrow(if self.shift.is_some() { product + strength * expert.shift } else { product });
                }
            }
        }
    }
}

/// Whether a neuron keeps every bit.
#[inline(always)]
fn unchanged(scale: f32, shift: f32) -> bool {
    scale == 1.0 && shift == 0.0
}

/// The factor at a strength; at strength 1 it is bitwise the scale.
#[inline(always)]
fn factor(scale: f32, strength: f32) -> f32 {
    if strength == 1.0 { scale } else { 1.0 + strength * (scale - 1.0) }
}

/// The dense layout, over rows of one strength.
struct Dense<'a, T> {
    responses: &'a mut [T],
    scaling: &'a Scaling,
    strength: f32,
}

impl<T: Element> pulp::WithSimd for Dense<'_, T> {
    type Output = ();

    // Inlined so that each instantiation uses the instructions of `S`.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { responses, scaling: Scaling { scale, shift, kept, .. }, strength } = self;
        let rows = responses.chunks_exact_mut(scale.len());
        // The strength is tested outside of the loops.
        match (shift, strength == 1.0) {
            (None, true) => rows.for_each(|row| scale_row(row, scale, kept, |scale| scale)),
            (None, false) => rows.for_each(|row| scale_row(row, scale, kept, |scale| factor(scale, strength))),
            (Some(shift), true) => rows.for_each(|row| shift_row(row, scale, shift, kept, |scale| scale, 1.0)),
            (Some(shift), false) => rows.for_each(|row| shift_row(row, scale, shift, kept, |scale| factor(scale, strength), strength)),
        }
    }
}

#[inline(always)]
fn scale_row<T: Element>(row: &mut [T], scale: &[f32], kept: &[u32], factor: impl Fn(f32) -> f32) {
    if kept.is_empty() {
        row.iter_mut().zip(scale).for_each(|(response, scale)| *response = T::narrow(response.widen() * factor(*scale)));
        return;
    }
    for ((response, scale), kept) in row.iter_mut().zip(scale).zip(kept) {
        *response = T::narrow(response.widen() * factor(*scale)).unless(*scale == 1.0, *kept, *response);
    }
}

#[inline(always)]
fn shift_row<T: Element>(row: &mut [T], scale: &[f32], shift: &[f32], kept: &[u32], factor: impl Fn(f32) -> f32, strength: f32) {
    if kept.is_empty() {
        for ((response, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
            *response = T::narrow(response.widen() * factor(*scale) + strength * *shift);
        }
        return;
    }
    for (((response, scale), shift), kept) in row.iter_mut().zip(scale).zip(shift).zip(kept) {
        *response = T::narrow(response.widen() * factor(*scale) + strength * *shift).unless(unchanged(*scale, *shift), *kept, *response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// The definition for single numbers, with the conversions of `half`.
    trait Plain: Element {
        fn plain(self) -> f32;
        fn round(value: f32) -> Self;
        fn bits(self) -> u32;
        fn from(bits: u32) -> Self;
    }

    macro_rules! plain {
        ($type:ty, $plain:expr, $round:expr, $from:expr) => {
            impl Plain for $type {
                fn plain(self) -> f32 {
                    $plain(self)
                }
                fn round(value: f32) -> Self {
                    $round(value)
                }
                fn bits(self) -> u32 {
                    self.to_bits().into()
                }
                fn from(bits: u32) -> Self {
                    $from(bits)
                }
            }
        };
    }
    plain!(f32, |x| x, |x| x, f32::from_bits);
    plain!(bf16, bf16::to_f32, bf16::from_f32, |bits| bf16::from_bits((bits >> 16) as u16));
    plain!(f16, f16::to_f32, f16::from_f32, |bits| f16::from_bits((bits >> 16) as u16));

    /// The result by the definition.
    fn defined<T: Plain>(responses: &[T], scale: &[f32], shift: Option<&[f32]>, strengths: &[f32]) -> Vec<u32> {
        let mut bits: Vec<u32> = responses.iter().map(|x| x.bits()).collect();
        for (token, s) in strengths.iter().enumerate() {
            for (neuron, a) in scale.iter().enumerate() {
                let at = token * scale.len() + neuron;
                let b = shift.map_or(0.0, |shift| shift[neuron]);
                if *s == 0.0 || (*a == 1.0 && b == 0.0) || at >= responses.len() / scale.len() * scale.len() {
                    continue;
                }
                let factor = if *s == 1.0 { *a } else { 1.0 + s * (a - 1.0) };
                let product = responses[at].plain() * factor;
                bits[at] = T::round(if shift.is_some() { product + s * b } else { product }).bits();
            }
        }
        bits
    }

    fn check<T: Plain>(responses: &[u32], scale: &[f32], shift: Option<&[f32]>, strengths: &[f32]) {
        let responses: Vec<T> = responses.iter().map(|bits| <T as Plain>::from(*bits)).collect();
        let expected = defined(&responses, scale, shift, strengths);
        for layout in [ScaleLayout::Dense, ScaleLayout::Sparse] {
            let scaling = Scaling::new(scale.to_vec(), shift.map(<[f32]>::to_vec)).unwrap().with_layout(layout);
            let mut scaled = responses.clone();
            scaling.apply_each(&mut scaled, strengths);
            assert_eq!(scaled.iter().map(|x| x.bits()).collect::<Vec<_>>(), expected, "{layout:?}");
            // With the processor's baseline instructions.
            let mut scaled = responses.clone();
            for (row, strength) in scaled.chunks_exact_mut(scale.len()).zip(strengths).filter(|(_, s)| **s != 0.0) {
                pulp::WithSimd::with_simd(Dense { responses: row, scaling: &scaling, strength: *strength }, pulp::Scalar);
            }
            assert_eq!(scaled.iter().map(|x| x.bits()).collect::<Vec<_>>(), expected);
            // Row by row.
            let mut scaled = responses.clone();
            for (row, strength) in scaled.chunks_exact_mut(scale.len()).zip(strengths) {
                if *strength == 1.0 { scaling.apply(row) } else { scaling.apply_at(row, *strength) }
            }
            assert_eq!(scaled.iter().map(|x| x.bits()).collect::<Vec<_>>(), expected);
        }
    }

    /// Arbitrary bits, among them NaN of several payloads, infinities, subnormals and zeros of both signs.
    fn any_bits() -> impl Strategy<Value = u32> {
        let odd = [
            0,
            1 << 31,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_1234,
            0x7f80_0001,
            0xffa5_5a00,
            0x7c01_0000,
            0xfd55_0000,
            1,
            0x8000_0fff,
            0x0003_0000,
            0x7bff_0000,
        ];
        prop_oneof![any::<u32>(), (-8f32..8.0).prop_map(f32::to_bits), prop::sample::select(odd.to_vec())]
    }

    fn number(of: std::ops::Range<f32>) -> impl Strategy<Value = f32> {
        prop_oneof![of, Just(0.0), Just(1.0), Just(-0.0), Just(1.0 - f32::EPSILON)]
    }

    proptest! {
        #[test]
        fn every_layout_and_type_equals_the_definition(
            (scale, shift, responses, strengths) in (1usize..70, 0usize..9).prop_flat_map(|(neurons, tokens)| (
                prop::collection::vec(number(-0.5..1.5), neurons),
                prop::option::of(prop::collection::vec(number(-2.0..2.0), neurons)),
                prop::collection::vec(any_bits(), neurons * tokens + neurons / 2),
                prop::collection::vec(number(-0.2..1.4), tokens),
            ))
        ) {
            check::<f32>(&responses, &scale, shift.as_deref(), &strengths);
            check::<bf16>(&responses, &scale, shift.as_deref(), &strengths);
            check::<f16>(&responses, &scale, shift.as_deref(), &strengths);
        }
    }

    #[test]
    fn ones_leave_every_bit() {
        let odd = [0u32, 1 << 31, 1, 0x7f80_0000, 0xff80_0000, 0x7f80_0001, 0xffff_ffff, 0x3f80_0000];
        for shift in [None, Some(&[0.0f32; 4][..])] {
            check::<f32>(&odd, &[1.0; 4], shift, &[1.0, 0.5]);
            check::<bf16>(&odd, &[1.0; 4], shift, &[1.0, 0.5]);
            check::<f16>(&odd, &[1.0; 4], shift, &[1.0, 0.5]);
        }
        let mut values = odd.map(f32::from_bits);
        let ones = Scaling::new(vec![1.0, 1.0, 1.0, 0.5], None).unwrap().with_layout(ScaleLayout::Dense);
        ones.apply(&mut values);
        assert_eq!([0, 1, 2, 4, 5, 6].map(|i| values[i].to_bits()), [0, 1, 2, 4, 5, 6].map(|i| odd[i]));
        // An incomplete row, and a scaling without neurons.
        Scaling::new(vec![2.0; 9], None).unwrap().apply(&mut values);
        Scaling::new(Vec::new(), None).unwrap().apply(&mut values);
        assert_eq!(values[4].to_bits(), odd[4]);
        assert!(matches!(Scaling::new(vec![1.0; 3], Some(vec![0.0; 2])), Err(Error::Shifts { scales: 3, shifts: 2 })));
    }

    #[test]
    fn the_number_of_threads_does_not_matter() {
        let (neurons, tokens) = (1003, 1051);
        let scale: Vec<f32> = (0..neurons).map(|i| if i % 3 == 0 { (i % 11) as f32 / 11.0 } else { 1.0 }).collect();
        let responses: Vec<f32> = (0..neurons * tokens).map(|i| ((i * 7919) % 10_007) as f32 / 977.0 - 5.0).collect();
        let strengths: Vec<f32> = (0..tokens).map(|t| [1.0, 0.0, 0.25, 1.0, 1.0][(t / 7) % 5]).collect();
        assert!(responses.len() > PARALLEL_FROM);
        let expected = defined(&responses, &scale, None, &strengths);
        for layout in [ScaleLayout::Dense, ScaleLayout::Sparse] {
            let scaling = Scaling::new(scale.clone(), None).unwrap().with_layout(layout);
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut scaled = responses.clone();
                pool.install(|| scaling.apply_each(&mut scaled, &strengths));
                assert_eq!(scaled.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected);
                let mut scaled = responses.clone();
                pool.install(|| scaling.apply(&mut scaled));
                assert_eq!(scaled.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), defined(&responses, &scale, None, &vec![1.0; tokens]));
            }
        }
    }

    #[test]
    fn few_experts_are_visited_alone() {
        let scale = |every: usize| (0..1000).map(|i| if i % every == 0 { 0.5 } else { 1.0 }).collect();
        assert_eq!(Scaling::new(scale(20), None).unwrap().layout(), ScaleLayout::Sparse);
        assert_eq!(Scaling::new(scale(20), None).unwrap().changed(), 50);
        assert_eq!(Scaling::new(scale(2), None).unwrap().layout(), ScaleLayout::Dense);
    }
}
