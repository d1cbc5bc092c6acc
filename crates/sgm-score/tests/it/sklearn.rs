//! Scores equal scikit-learn's, scipy's and a slow DeLong's (`tools/golden/make_auroc.py`).

use half::bf16;
use ndarray::{Array2, ArrayView2};
use safetensors::SafeTensors;
use sgm_score::{Correction, Effect, Response, ScoreOptions, Scores, q_values, score};

fn numbers(tensors: &SafeTensors<'_>, name: &str) -> Option<Vec<f64>> {
    Some(tensors.tensor(name).ok()?.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
}

fn all<T: Response>(responses: ArrayView2<'_, T>, labels: &[bool]) -> Scores {
    score(&responses, labels, &ScoreOptions { average_precision: true, effect: true, ..ScoreOptions::default() }).unwrap()
}

/// Both NaN, or close relative to values above 1.
fn close(case: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{case}");
    for (neuron, (ours, expected)) in ours.iter().zip(expected).enumerate() {
        let same = ours.is_nan() && expected.is_nan() || (ours - expected).abs() <= tolerance * expected.abs().max(1.0);
        assert!(same, "{case}, neuron {neuron}: {ours}, expected {expected}");
    }
}

#[test]
fn scores_equal_the_goldens() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/auroc.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let (mut cases, mut effects) = (0, 0);
    for name in golden.names() {
        let Some(case) = name.strip_suffix(".responses") else { continue };
        let tensor = golden.tensor(name).unwrap();
        let responses: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let responses = Array2::from_shape_vec((tensor.shape()[0], tensor.shape()[1]), responses).unwrap();
        let labels: Vec<bool> = golden.tensor(&format!("{case}.labels")).unwrap().data().iter().map(|l| *l == 1).collect();
        let expected = |what: &str| numbers(&golden, &format!("{case}.{what}"));
        let ours = all(responses.view(), &labels);
        close(case, &ours.auroc, &expected("auroc").unwrap(), 1e-12);
        close(case, &ours.average_precision, &expected("average_precision").unwrap(), 1e-12);
        close(case, &ours.auroc_se, &expected("auroc_se").unwrap(), 1e-10);
        // Without average precision samples are taken by eights.
        let alone = score(&responses.view(), &labels, &ScoreOptions::default()).unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!((bits(&alone.auroc), bits(&alone.auroc_se)), (bits(&ours.auroc), bits(&ours.auroc_se)));
        if let Some(expected) = expected("effect") {
            let flat = |e: &Effect| [e.mean_difference, e.cohens_d, e.welch_t, e.welch_p];
            close(case, &ours.effect.iter().flat_map(flat).collect::<Vec<_>>(), &expected, 1e-10);
            effects += 1;
        }
        if case == "bf16" {
            let halves = all(responses.mapv(bf16::from_f32).view(), &labels);
            assert_eq!(halves, ours);
        }
        cases += 1;
    }
    assert_eq!((cases, effects), (9, 4));
    let q = q_values(&numbers(&golden, "p_values").unwrap(), Correction::BenjaminiHochberg).unwrap();
    close("false discovery", &q, &numbers(&golden, "q_values").unwrap(), 1e-14);
}
