use ndarray::{ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::{Error, Result};

/// The area under the ROC curve of one response vector as a detector of `true` labels.
///
/// Exact: with mid-ranks r of the responses, `(sum of r over toxic - n1 (n1 + 1) / 2) / (n1 n0)`, the
/// Mann-Whitney statistic. Equal responses tie, `-0.0` with `0.0` too; infinities are ordered like
/// other numbers.
///
/// # Errors
///
/// [`Error::SingleClass`], [`Error::Labels`], [`Error::NotANumber`] (with neuron 0).
pub fn auroc(responses: &[f32], labels: &[bool]) -> Result<f64> {
    let classes = Classes::of(labels, responses.len())?;
    column(ArrayView1::from(responses), labels, classes, 0, &mut Vec::new())
}

/// The AUROC of every column of `[samples, neurons]` responses, f64 `[neurons]`, in parallel.
///
/// # Errors
///
/// As [`auroc`]; the first offending neuron is named.
pub fn auroc_columns(responses: ArrayView2<'_, f32>, labels: &[bool]) -> Result<Vec<f64>> {
    let classes = Classes::of(labels, responses.nrows())?;
    (0..responses.ncols())
        .into_par_iter()
        .map_init(Vec::new, |keys, neuron| column(responses.index_axis(Axis(1), neuron), labels, classes, neuron, keys))
        // Collected in order, so that the error is the first neuron's for any number of threads.
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

/// The class sizes.
#[derive(Debug, Clone, Copy)]
struct Classes {
    toxic: u64,
    non_toxic: u64,
}

impl Classes {
    fn of(labels: &[bool], samples: usize) -> Result<Self> {
        if labels.len() != samples {
            return Err(Error::Labels { labels: labels.len(), samples });
        }
        let toxic = labels.iter().filter(|l| **l).count();
        let non_toxic = samples - toxic;
        if toxic == 0 || non_toxic == 0 {
            return Err(Error::SingleClass { toxic, non_toxic });
        }
        // Twice the rank sum must fit into 64 bits.
        let small = |n: usize| u64::try_from(n).ok().filter(|n| *n <= 1 << 31).ok_or(Error::TooManySamples(samples));
        Ok(Self { toxic: small(toxic)?, non_toxic: small(non_toxic)? })
    }
}

/// One column's AUROC; `keys` is scratch.
fn column(responses: ArrayView1<'_, f32>, labels: &[bool], classes: Classes, neuron: usize, keys: &mut Vec<u64>) -> Result<f64> {
    keys.clear();
    for (sample, (response, toxic)) in responses.iter().zip(labels).enumerate() {
        if response.is_nan() {
            return Err(Error::NotANumber { site: None, neuron, sample });
        }
        keys.push(u64::from(ordered(*response)) << 1 | u64::from(*toxic));
    }
    keys.sort_unstable();
    // Twice the sum of the toxic samples' mid-ranks, in integers.
    let (mut doubled, mut below) = (0u64, 0u64);
    for tied in keys.chunk_by(|a, b| a >> 1 == b >> 1) {
        let count = u64::try_from(tied.len()).unwrap_or(u64::MAX);
        let toxic: u64 = tied.iter().map(|key| key & 1).sum();
        doubled += toxic * (2 * below + count + 1);
        below += count;
    }
    let Classes { toxic, non_toxic } = classes;
    Ok((doubled - toxic * (toxic + 1)) as f64 / (2 * toxic * non_toxic) as f64)
}

/// A key whose order as an integer is the number's order; `-0.0` and `0.0` share one.
fn ordered(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition: the share of pairs in which the toxic response is higher, ties counting half.
    fn by_pairs(responses: &[f32], labels: &[bool]) -> f64 {
        let of = |class: bool| responses.iter().zip(labels).filter(move |(_, l)| **l == class).map(|(r, _)| *r);
        let pairs: Vec<f64> = of(true)
            .flat_map(|t| of(false).map(move |n| t.partial_cmp(&n).unwrap()))
            .map(|o| match o {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            })
            .collect();
        pairs.iter().sum::<f64>() / pairs.len() as f64
    }

    fn samples() -> impl Strategy<Value = (Vec<f32>, Vec<bool>)> {
        prop::collection::vec(
            (prop_oneof![(-3i8..4).prop_map(f32::from), -1e30f32..1e30, Just(-0.0f32), Just(f32::INFINITY)], any::<bool>()),
            2..60,
        )
        .prop_map(|v| v.into_iter().unzip())
        .prop_filter("both classes", |(_, l): &(Vec<f32>, Vec<bool>)| l.contains(&true) && l.contains(&false))
    }

    proptest! {
        #[test]
        fn equals_the_definition((responses, labels) in samples()) {
            prop_assert!((auroc(&responses, &labels).unwrap() - by_pairs(&responses, &labels)).abs() < 1e-12);
        }

        #[test]
        fn flipped_labels_and_signs_mirror_it((responses, labels) in samples()) {
            let a = auroc(&responses, &labels).unwrap();
            let flipped: Vec<bool> = labels.iter().map(|l| !l).collect();
            prop_assert!((auroc(&responses, &flipped).unwrap() - (1.0 - a)).abs() < 1e-15);
            let negated: Vec<f32> = responses.iter().map(|r| -r).collect();
            prop_assert!((auroc(&negated, &labels).unwrap() - (1.0 - a)).abs() < 1e-15);
        }

        #[test]
        fn order_of_samples_does_not_matter((responses, labels) in samples(), seed in any::<u64>()) {
            let mut order: Vec<usize> = (0..labels.len()).collect();
            order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(seed | 1));
            let shuffled: Vec<f32> = order.iter().map(|i| responses[*i]).collect();
            let relabelled: Vec<bool> = order.iter().map(|i| labels[*i]).collect();
            prop_assert_eq!(auroc(&shuffled, &relabelled).unwrap(), auroc(&responses, &labels).unwrap());
        }
    }

    #[test]
    fn one_class_wrong_labels_and_nan_are_typed_errors() {
        assert!(matches!(auroc(&[1.0, 2.0], &[true, true]), Err(Error::SingleClass { toxic: 2, non_toxic: 0 })));
        assert!(matches!(auroc(&[], &[]), Err(Error::SingleClass { toxic: 0, non_toxic: 0 })));
        assert!(matches!(auroc(&[1.0], &[true, false]), Err(Error::Labels { labels: 2, samples: 1 })));
        let x = ndarray::arr2(&[[1.0, 2.0], [3.0, f32::NAN]]);
        let error = auroc_columns(x.view(), &[true, false]).unwrap_err();
        assert!(matches!(error, Error::NotANumber { neuron: 1, sample: 1, .. }), "{error}");
    }
}
