//! Scores equal their definitions, by brute force over pairs, for any threads, memory limit and order of samples.

use half::{bf16, f16};
use ndarray::{Array2, Axis};
use proptest::prelude::*;
use sgm_score::{
    Error, Response, ScoreOptions, Scores, Shards, StratumWeight, auroc, auroc_columns, permutation_null, score, stratified_auroc,
};

/// 1, 1/2 or 0: whether a toxic response is higher.
fn higher<T: PartialOrd>(toxic: &T, other: &T) -> f64 {
    f64::from(u8::from(toxic > other)) + 0.5 * f64::from(u8::from(toxic == other))
}

/// AUROC, DeLong's standard error and average precision by their definitions.
fn by_definition<T: PartialOrd + Copy>(responses: &[T], labels: &[bool]) -> [f64; 3] {
    let of = |class: bool| responses.iter().zip(labels).filter(move |(_, l)| **l == class).map(|(r, _)| *r).collect::<Vec<T>>();
    let (toxic, other) = (of(true), of(false));
    let (n1, n0) = (toxic.len() as f64, other.len() as f64);
    let v10: Vec<f64> = toxic.iter().map(|t| other.iter().map(|o| higher(t, o)).sum::<f64>() / n0).collect();
    let v01: Vec<f64> = other.iter().map(|o| toxic.iter().map(|t| higher(t, o)).sum::<f64>() / n1).collect();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let variance = |v: &[f64]| v.iter().map(|x| (x - mean(v)).powi(2)).sum::<f64>() / (v.len() as f64 - 1.0);
    let precision = |t: &T| {
        let at_least = |of: &[T]| of.iter().filter(|r| *r >= t).count() as f64;
        at_least(&toxic) / (at_least(&toxic) + at_least(&other))
    };
    let se = (variance(&v10) / n1 + variance(&v01) / n0).sqrt();
    [mean(&v10), se, mean(&toxic.iter().map(precision).collect::<Vec<_>>())]
}

fn with_precision<T: Response>(responses: &Array2<T>, labels: &[bool]) -> Scores {
    score(&responses.view(), labels, &ScoreOptions { average_precision: true, ..ScoreOptions::default() }).unwrap()
}

fn agrees<T: Response + PartialOrd + std::fmt::Debug>(responses: &[T], labels: &[bool]) {
    let expected = by_definition(responses, labels);
    let column = Array2::from_shape_vec((responses.len(), 1), responses.to_vec()).unwrap();
    let plain = score(&column.view(), labels, &ScoreOptions::default()).unwrap();
    let scores = with_precision(&column, labels);
    assert_eq!(plain.auroc[0].to_bits(), scores.auroc[0].to_bits());
    assert_eq!(plain.auroc_se[0].to_bits(), scores.auroc_se[0].to_bits());
    for (ours, expected) in [scores.auroc[0], scores.auroc_se[0], scores.average_precision[0]].iter().zip(expected) {
        assert!((ours - expected).abs() < 1e-10 || ours.is_nan() && expected.is_nan(), "{ours}, by definition {expected}: {responses:?}");
    }
}

/// Numbers of all sizes, many of them tied, with signed zeros, subnormals and infinities.
fn response() -> impl Strategy<Value = f32> {
    let special = prop::sample::select(vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, -1e-45, 1e-40]);
    prop_oneof![
        4 => (-3i8..4).prop_map(f32::from),
        8 => -1.0f32..1.0,
        2 => -1e30f32..1e30,
        1 => (0u32..4).prop_map(|ulps| f32::from_bits(0x3f80_0000 + ulps)),
        1 => special,
    ]
}

fn samples(of: impl Strategy<Value = f32> + 'static) -> impl Strategy<Value = (Vec<f32>, Vec<bool>)> {
    let balance = prop_oneof![Just(0.5), Just(0.05), Just(0.95)];
    let both = |(_, l): &(Vec<f32>, Vec<bool>)| l.contains(&true) && l.contains(&false);
    let of = of.boxed();
    balance
        .prop_flat_map(move |p| prop::collection::vec((of.clone(), prop::bool::weighted(p)), 2..90))
        .prop_map(|v| v.into_iter().unzip())
        .prop_filter("both classes", both)
}

/// Continuous responses of many samples, or responses with heavy tails, which share cells.
fn many() -> impl Strategy<Value = (Vec<f32>, Vec<bool>)> {
    (any::<u64>(), 200usize..3000, 1u32..9, prop::sample::select(vec![1.0f32, 64.0, 1e6])).prop_map(|(seed, n, power, round)| {
        let mut state = seed | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut value = || (next() * 2.0 - 1.0).powi(i32::try_from(power).unwrap()) * 100.0;
        let values = (0..n).map(|_| if round > 1e5 { value() } else { (value() * round).round() / round }).collect();
        (values, (0..n).map(|i| i % 3 == 0 || i == 1).collect())
    })
}

proptest! {
    #[test]
    fn f32_equals_the_definitions((responses, labels) in samples(response())) {
        agrees(&responses, &labels);
    }

    #[test]
    fn bf16_and_f16_equal_the_definitions((responses, labels) in samples(response())) {
        agrees(&responses.iter().map(|r| bf16::from_f32(*r)).collect::<Vec<_>>(), &labels);
        agrees(&responses.iter().map(|r| f16::from_f32(*r)).collect::<Vec<_>>(), &labels);
    }

    #[test]
    fn increasing_maps_change_nothing((responses, labels) in samples((-1000i32..1000).prop_map(|i| i as f32))) {
        // Exact in f32, so that different values stay different.
        let mapped: Vec<f32> = responses.iter().map(|r| r * r * r / 1024.0 + r).collect();
        prop_assert_eq!(auroc(&mapped, &labels).unwrap(), auroc(&responses, &labels).unwrap());
    }

    #[test]
    fn flipped_labels_and_signs_mirror((responses, labels) in samples(response())) {
        let a = auroc(&responses, &labels).unwrap();
        let flipped: Vec<bool> = labels.iter().map(|l| !l).collect();
        prop_assert!((auroc(&responses, &flipped).unwrap() - (1.0 - a)).abs() < 1e-15);
        let negated: Vec<f32> = responses.iter().map(|r| -r).collect();
        prop_assert!((auroc(&negated, &labels).unwrap() - (1.0 - a)).abs() < 1e-15);
    }

    #[test]
    fn the_order_of_samples_does_not_matter((responses, labels) in samples(response()), seed in any::<u64>()) {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(seed | 1));
        let column = |order: &[usize]| Array2::from_shape_fn((order.len(), 1), |(row, _)| responses[order[row]]);
        let relabelled: Vec<bool> = order.iter().map(|i| labels[*i]).collect();
        let natural: Vec<usize> = (0..labels.len()).collect();
        // Compared as text, because NaN is not equal to itself.
        let [a, b] = [(with_precision(&column(&order), &relabelled)), with_precision(&column(&natural), &labels)].map(|s| format!("{s:?}"));
        prop_assert_eq!(a, b);
    }

    #[test]
    fn strata_equal_the_definition((responses, labels) in samples(response()), seed in any::<u64>()) {
        let strata: Vec<u32> = (0..labels.len()).map(|i| ((i as u64 + 1).wrapping_mul(seed | 1) >> 61) as u32).collect();
        let (mut concordant, mut pairs, mut weighted, mut toxic) = (0.0, 0.0, 0.0, 0.0);
        for stratum in 0..8 {
            let is_of = |i: &usize, class: bool| strata[*i] == stratum && labels[*i] == class;
            let of = |class: bool| (0..labels.len()).filter(|i| is_of(i, class)).map(|i| responses[i]).collect::<Vec<_>>();
            let (ones, zeros) = (of(true), of(false));
            if ones.is_empty() || zeros.is_empty() { continue }
            let c: f64 = ones.iter().flat_map(|t| zeros.iter().map(move |o| higher(t, o))).sum();
            let here = (ones.len() * zeros.len()) as f64;
            (concordant, pairs) = (concordant + c, pairs + here);
            (weighted, toxic) = (weighted + ones.len() as f64 * c / here, toxic + ones.len() as f64);
        }
        let column = Array2::from_shape_vec((responses.len(), 1), responses).unwrap();
        let ours = |weight| stratified_auroc(&column.view(), &labels, &strata, weight, 1 << 30);
        if pairs == 0.0 {
            prop_assert!(matches!(ours(StratumWeight::Pairs), Err(Error::NoPairs)));
        } else {
            prop_assert!((ours(StratumWeight::Pairs).unwrap()[0] - concordant / pairs).abs() < 1e-12);
            prop_assert!((ours(StratumWeight::Toxic).unwrap()[0] - weighted / toxic).abs() < 1e-12);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn many_samples_equal_the_definitions((responses, labels) in many()) {
        agrees(&responses, &labels);
        agrees(&responses.iter().map(|r| bf16::from_f32(*r)).collect::<Vec<_>>(), &labels);
    }
}

/// Responses without a pattern: a Weyl sequence through the golden ratio.
fn weyl(samples: usize, neurons: usize) -> (Array2<f32>, Vec<bool>) {
    let value = |(i, j): (usize, usize)| ((i * neurons + j) as f64 * 0.618_033_988_749_894_9).fract() as f32 - 0.5;
    (Array2::from_shape_fn((samples, neurons), value), (0..samples).map(|i| i * i % 7 < 3).collect())
}

#[test]
fn threads_memory_shards_and_strides_do_not_matter() {
    let (responses, labels) = weyl(333, 301);
    let expected = with_precision(&responses, &labels);
    let bytes: Vec<u8> = responses.iter().flat_map(|r| r.to_le_bytes()).collect();
    let row = 301 * 4;
    let shards = |cuts: &[usize]| {
        let ends = cuts.iter().skip(1).map(|c| c * row);
        let pieces: Vec<&[u8]> = cuts.iter().map(|c| c * row).zip(ends).map(|(from, to)| &bytes[from..to]).collect();
        Shards::<f32>::new(pieces, 301).unwrap()
    };
    let transposed = responses.t().as_standard_layout().to_owned();
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for memory in [threads * 300_000, threads * 320_000, 1 << 30] {
            let options = ScoreOptions { memory, average_precision: true, ..ScoreOptions::default() };
            pool.install(|| {
                assert_eq!(score(&responses.view(), &labels, &options).unwrap(), expected);
                assert_eq!(score(&transposed.t(), &labels, &options).unwrap(), expected);
                assert_eq!(score(&shards(&[0, 333]), &labels, &options).unwrap(), expected);
                assert_eq!(score(&shards(&[0, 1, 100, 101, 333]), &labels, &options).unwrap(), expected);
            });
        }
    }
    // Shards in another order, with their labels.
    let swapped = Shards::<f32>::new([&bytes[100 * row..], &bytes[..100 * row]], 301).unwrap();
    let relabelled: Vec<bool> = labels[100..].iter().chain(&labels[..100]).copied().collect();
    let options = ScoreOptions { average_precision: true, ..ScoreOptions::default() };
    assert_eq!(score(&swapped, &relabelled, &options).unwrap(), expected);
}

#[test]
fn more_samples_than_sixteen_bits_count_are_exact() {
    // All responses differ in f32; in bf16 there are ties of thousands.
    let n = 70_000;
    let responses: Vec<f32> = (0..n).map(|i| ((i as f64 * 0.618_033_988_749_894_9).fract() * 8.0) as f32).collect();
    let labels: Vec<bool> = (0..n).map(|i| i % 5 == 0).collect();
    fn mann_whitney<T: PartialOrd + Copy>(responses: &[T], labels: &[bool]) -> f64 {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by(|a, b| responses[*a].partial_cmp(&responses[*b]).unwrap());
        let (mut below, mut sum) = (0.0, 0.0);
        for tied in order.chunk_by(|a, b| responses[*a] == responses[*b]) {
            let toxic = tied.iter().filter(|i| labels[**i]).count() as f64;
            let other = tied.len() as f64 - toxic;
            sum += toxic * (below + other / 2.0);
            below += other;
        }
        sum / (below * (labels.len() as f64 - below))
    }
    assert!((auroc(&responses, &labels).unwrap() - mann_whitney(&responses, &labels)).abs() < 1e-12);
    let halves: Vec<bf16> = responses.iter().map(|r| bf16::from_f32(*r)).collect();
    assert!((auroc(&halves, &labels).unwrap() - mann_whitney(&halves, &labels)).abs() < 1e-12);
    let widened: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
    assert_eq!(auroc(&widened, &labels).unwrap(), auroc(&halves, &labels).unwrap());
}

#[test]
fn bad_input_is_a_typed_error() {
    assert!(matches!(auroc(&[1.0f32, 2.0], &[true, true]), Err(Error::SingleClass { toxic: 2, non_toxic: 0 })));
    assert!(matches!(auroc::<f32>(&[], &[]), Err(Error::SingleClass { toxic: 0, non_toxic: 0 })));
    assert!(matches!(auroc(&[1.0f32], &[true, false]), Err(Error::Labels { labels: 2, samples: 1 })));
    let mut x = weyl(40, 600).0;
    let labels: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
    x[[7, 599]] = f32::NAN;
    x[[11, 300]] = -f32::NAN;
    for error in [
        auroc_columns(x.view(), &labels).unwrap_err(),
        auroc_columns(x.mapv(bf16::from_f32).view(), &labels).unwrap_err(),
        auroc_columns(x.mapv(f16::from_f32).view(), &labels).unwrap_err(),
        stratified_auroc(&x.view(), &labels, &[0; 40], StratumWeight::Pairs, 1 << 30).unwrap_err(),
        permutation_null(&x.view(), &labels, 3, 0, 1 << 30).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotANumber { neuron: 300, sample: 11, .. }), "{error}");
    }
    let starved = ScoreOptions { memory: 1000, ..ScoreOptions::default() };
    assert!(matches!(score(&x.view(), &labels, &starved), Err(Error::Memory { budget: 1000, .. })));
    assert!(matches!(Shards::<f32>::new([&[0u8; 10][..]], 2), Err(Error::Shape { .. })));
    assert!(matches!(permutation_null(&x.view(), &labels, 0, 0, 1 << 30), Err(Error::Parameter { .. })));
    // Responses without neurons are valid.
    let none = Array2::<f32>::zeros((40, 0));
    assert!(auroc_columns(none.view(), &labels).unwrap().is_empty());
}

#[test]
fn the_null_is_that_of_scoring_again_and_counts_experts_out() {
    let (mut responses, labels) = weyl(60, 50);
    // One true expert.
    responses.column_mut(20).iter_mut().zip(&labels).for_each(|(r, l)| *r += f32::from(u8::from(*l)));
    let null = permutation_null(&responses.view(), &labels, 199, 7, 1 << 30).unwrap();
    assert_eq!((null.p[20], null.p_max[20]), (0.005, 0.005));
    assert!(null.p.iter().zip(&null.p_max).all(|(p, max)| p <= max && *p > 0.0));
    assert!(null.p_max.iter().enumerate().all(|(neuron, p)| neuron == 20 || *p > 0.01));
    // The null distribution: mean near 1/2 for one neuron, and the same bits for any threads and memory.
    let one = permutation_null(&responses.slice(ndarray::s![.., ..1]), &labels, 999, 1, 1 << 30).unwrap();
    let mean = one.largest.iter().sum::<f64>() / 999.0;
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
    // Its spread is the Mann-Whitney variance, (n + 1) / (12 n1 n0).
    let n1 = labels.iter().filter(|l| **l).count() as f64;
    let expected = 61.0 / (12.0 * n1 * (60.0 - n1));
    let variance = one.largest.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / 998.0;
    assert!((variance / expected - 1.0).abs() < 0.15, "{variance}, expected {expected}");
    // With one neuron the largest AUROC is the only one, so that the histogram can be computed from it. AUROCs are multiples of
    // 1 / 2 n1 n0; the margin keeps those on an edge in the upper bin.
    let least = |edge: usize| one.largest.iter().filter(|a| **a * 100.0 >= edge as f64 - 1e-9).count() as u64;
    let counted: Vec<u64> = (0..100).map(|bin| least(bin) - least(bin + 1)).collect();
    assert_eq!(one.histogram, counted);
    assert_eq!(null.histogram.iter().sum::<u64>(), 199 * 50);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let again = pool.install(|| permutation_null(&responses.view(), &labels, 199, 7, threads * 290_000)).unwrap();
        assert_eq!(again, null);
    }
    let other = permutation_null(&responses.view(), &labels, 199, 8, 1 << 30).unwrap();
    assert_ne!(other.largest, null.largest);
    assert_eq!(responses.len_of(Axis(1)), null.p.len());
}
