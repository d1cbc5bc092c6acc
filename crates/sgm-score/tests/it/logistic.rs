//! Logistic regression equals scikit-learn's (`tools/golden/logistic.py`).

use proptest::prelude::*;
use serde::Deserialize;
use sgm_score::{Error, FittedProbe, logistic_regression};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    c: f64,
    x: Vec<Vec<f32>>,
    y: Vec<bool>,
    weights: Vec<f64>,
    bias: f64,
    scores: Vec<f64>,
}

/// Compares with scikit-learn.
fn compare(tolerance: f64) {
    let golden: Golden = serde_json::from_str(include_str!("../golden/logistic.json")).unwrap();
    assert_eq!(golden.cases.len(), 3);
    for case in golden.cases {
        let samples: Vec<(&[f32], bool)> = case.x.iter().map(Vec::as_slice).zip(case.y).collect();
        let fitted = logistic_regression(&samples, case.c, tolerance).unwrap();
        let scale = case.weights.iter().fold(0f64, |most, w| most.max(w.abs()));
        for (ours, theirs) in fitted.weights.iter().zip(&case.weights) {
            assert!((ours - theirs).abs() <= 1e-6 * scale, "{ours} {theirs}");
        }
        assert_eq!(fitted.weights[1], 0.0, "a feature that is the same everywhere");
        assert!((fitted.bias - case.bias).abs() <= 1e-6 * case.bias.abs().max(1.0), "{} {}", fitted.bias, case.bias);
        for (x, score) in case.x.iter().zip(case.scores) {
            assert!((f64::from(fitted.score(x)) - score).abs() < 1e-6);
        }
    }
}

#[test]
fn weights_and_scores_equal_scikit_learns() {
    compare(1e-8);
}

#[test]
fn a_gradient_that_rounding_keeps_above_the_tolerance_ends_the_search_at_the_minimum() {
    compare(1e-17);
    compare(0.0);
}

proptest! {
    #[test]
    fn every_search_ends_near_the_same_minimum(
        samples in prop::collection::vec((prop::collection::vec(-3i8..=3, 3), any::<bool>()), 1..30),
        exponent in -3..=3,
    ) {
        let samples: Vec<(Vec<f32>, bool)> =
            samples.into_iter().map(|(x, class)| (x.into_iter().map(f32::from).collect(), class)).collect();
        let samples: Vec<(&[f32], bool)> = samples.iter().map(|(x, class)| (x.as_slice(), *class)).collect();
        let fit = |tolerance| logistic_regression(&samples, 10f64.powi(exponent), tolerance).unwrap();
        let (exact, near) = (fit(0.0), fit(1e-6));
        for (x, _) in &samples {
            let (exact, near) = (exact.score(x), near.score(x));
            prop_assert!(exact.is_finite() && (exact - near).abs() < 1e-4, "{exact} {near}");
        }
    }
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let refused = |samples: &[(&[f32], bool)], c| matches!(logistic_regression(samples, c, 1e-8), Err(Error::Fit { .. }));
    assert!(refused(&[], 1.0));
    assert!(refused(&[(&[1.0], true), (&[1.0, 2.0], false)], 1.0));
    assert!(refused(&[(&[1.0], true), (&[f32::NAN], false)], 1.0));
    assert!(refused(&[(&[1.0], true), (&[2.0], false)], 0.0));
    assert!(logistic_regression(&[(&[1.0], true), (&[2.0], false)], 1.0, 1e-8).is_ok());
}

#[test]
fn a_threshold_keeps_the_rate_of_false_positives() {
    let scores = [0.9, 0.8, 0.3, 0.2, 0.1, 0.95];
    let labels = [true, false, false, false, false, false];
    let fitted = FittedProbe { probe: sgm_core::Probe::default(), unseen: scores.to_vec() };
    let passed = |rate: f64| {
        let threshold = fitted.threshold_at(rate, &labels);
        scores.iter().zip(labels).filter(|(score, toxic)| !toxic && **score >= threshold).count()
    };
    assert_eq!([0.0, 0.2, 0.4, 0.5, 1.0].map(passed), [0, 1, 2, 2, 5]);
}

#[test]
fn between_classes_far_apart_the_threshold_is_halfway() {
    let labels = [true, true, true, false, false];
    let halfway = |toxic: [f32; 3], rate: f64| {
        let fitted = FittedProbe { probe: sgm_core::Probe::default(), unseen: [&toxic[..], &[0.01, 0.002]].concat() };
        let lowest = fitted.threshold_at(0.0, &labels);
        (lowest, fitted.threshold_halfway(lowest, rate, &labels))
    };
    // The log-odds of 0.01 and 0.99 are opposite.
    let (lowest, threshold) = halfway([0.99, 0.999, 0.9999], 0.0);
    assert!(lowest < 0.0101 && (threshold - 0.5).abs() < 1e-4, "{lowest} {threshold}");
    // Rounded scores have no infinite log-odds.
    assert!((0.9..1.0).contains(&halfway([1.0; 3], 0.0).1));
    // One of three may be missed.
    let (lowest, threshold) = halfway([0.001, 0.99, 0.99], 0.0);
    assert_eq!(lowest, threshold);
    assert!((halfway([0.001, 0.99, 0.99], 0.34).1 - 0.5).abs() < 1e-4);
}
