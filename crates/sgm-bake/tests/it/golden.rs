//! Baked files equal those of NumPy, torch and gguf-py (`tools/golden/bake.py`), bit by bit.

use std::fs;
use std::path::PathBuf;

use sgm_bake::{Amplify, bake, content_sha256};
use sgm_core::Intervention;

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

#[test]
fn every_gguf_type_is_scaled_as_gguf_py_dequantises_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("baked.gguf");
    let glasses = Intervention::load(golden("types.sgm.safetensors")).unwrap();
    let record = bake(&golden("types.gguf"), &glasses, Amplify::Refuse, &out).unwrap();
    let (got, wanted) = (fs::read(&out).unwrap(), fs::read(golden("types_baked.gguf")).unwrap());
    assert!(got == wanted, "first difference at byte {:?}", got.iter().zip(&wanted).position(|(a, b)| a != b));
    println!("{}", record.table());
    let types: Vec<&str> = record.tensors.iter().map(|t| t.dtype.as_str()).collect();
    let all = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS Q8_K F16 BF16 F32";
    assert_eq!(types.join(" "), all);
    for t in &record.tensors {
        assert_eq!((t.rows, t.changed_rows), (12, 10), "{}", t.dtype);
        // Normal numbers are within half a unit in the last place of f16 (2^-11) or bf16 (2^-8).
        let bound = if t.dtype == "BF16" { 2f64.powi(-8) } else { 2f64.powi(-11) };
        assert_eq!(t.max_relative_error > bound, t.subnormal + t.zeroed > 0, "{}: {} {}", t.dtype, t.max_relative_error, t.subnormal);
    }
    assert_eq!(record.files.len(), 1);
    assert_eq!(record.intervention.content_sha256, content_sha256(&glasses));
    let json = fs::read_to_string(dir.path().join("baked.gguf.sgm_bake.json")).unwrap();
    assert_eq!(json, serde_json::to_string_pretty(&record).unwrap());
}

#[test]
fn every_float_type_is_scaled_and_shifted_as_torch_does_it() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("out"));
    fs::create_dir(&model).unwrap();
    fs::copy(golden("floats.safetensors"), model.join("model.safetensors")).unwrap();
    let glasses = Intervention::load(golden("floats.sgm.safetensors")).unwrap();
    let record = bake(&model, &glasses, Amplify::Refuse, &out).unwrap();
    let (got, wanted) = (fs::read(out.join("model.safetensors")).unwrap(), fs::read(golden("floats_baked.safetensors")).unwrap());
    assert!(got == wanted, "first difference at byte {:?}", got.iter().zip(&wanted).position(|(a, b)| a != b));
    // A weight, a bias and a fused weight of three types.
    assert_eq!(record.tensors.len(), 9);
    let fused = record.tensors.iter().find(|t| t.tensor.ends_with("0.mlp.gate_up_proj.weight")).unwrap();
    assert_eq!((fused.sites.len(), fused.rows, fused.changed_rows), (2, 24, 20));
}
