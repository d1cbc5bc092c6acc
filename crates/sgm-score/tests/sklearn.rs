//! AUROC equals scikit-learn's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use ndarray::ArrayView2;
use safetensors::SafeTensors;
use sgm_score::auroc_columns;

#[test]
fn auroc_equals_scikit_learn() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/auroc.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = 0;
    for name in golden.names() {
        let Some(case) = name.strip_suffix(".responses") else { continue };
        let tensor = golden.tensor(name).unwrap();
        let responses: Vec<f32> = tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let responses = ArrayView2::from_shape((tensor.shape()[0], tensor.shape()[1]), &responses).unwrap();
        let labels: Vec<bool> = golden.tensor(&format!("{case}.labels")).unwrap().data().iter().map(|l| *l == 1).collect();
        let expected = golden.tensor(&format!("{case}.auroc")).unwrap();
        let expected = expected.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap()));
        let ours = auroc_columns(responses, &labels).unwrap();
        assert_eq!(ours.len(), expected.len());
        for (neuron, (ours, expected)) in ours.iter().zip(expected).enumerate() {
            assert!((ours - expected).abs() <= 1e-12, "{case}, neuron {neuron}: {ours}, scikit-learn {expected}");
        }
        cases += 1;
    }
    assert_eq!(cases, 8);
}
