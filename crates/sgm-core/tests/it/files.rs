//! Expertise and intervention files: round trips, and typed errors for damaged files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sgm_core::{Calibration, Error, Expertise, Intervention, Metadata, Projection, Site, SiteExpertise, SiteIntervention};

fn metadata() -> Metadata {
    Metadata {
        base_model: Some("organism".to_owned()),
        method: Some(serde_json::json!({"preset": "sgm", "threshold": 0.75})),
        calibration: Some(Calibration { dataset: "world".to_owned(), n_toxic: 500, n_non_toxic: 500, ..Default::default() }),
        other: [("note".to_owned(), "kept".to_owned())].into(),
        ..Default::default()
    }
}

#[test]
fn expertise_and_intervention_round_trip_with_their_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(31, Projection::Down);
    let mut expertise = Expertise::new(metadata());
    expertise.insert(site, SiteExpertise { auroc: vec![0.5, 1.0, 0.0], auroc_se: Some(vec![0.1, 0.0, 0.0]) }).unwrap();
    let path = dir.path().join("deep/er/expertise.safetensors");
    expertise.save(&path).unwrap();
    assert_eq!(Expertise::load(&path).unwrap(), expertise);

    let mut intervention = Intervention::new(metadata());
    let s =
        SiteIntervention { scale: vec![1.0, 0.0, 0.3], shift: Some(vec![0.0; 3]), auroc: Some(vec![0.5; 3]), auroc_se: Some(vec![0.0; 3]) };
    intervention.insert(site, s).unwrap();
    let path = dir.path().join("glasses.sgm.safetensors");
    intervention.save(&path).unwrap();
    assert_eq!(Intervention::load(&path).unwrap(), intervention);
    // The two files and the card, no temporary file.
    let names: Vec<PathBuf> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(matches!(Intervention::load(dir.path().join("deep/er/expertise.safetensors")), Err(Error::WrongFormat { .. })));
}

#[test]
fn equal_interventions_give_equal_bytes_in_a_valid_file() {
    let dir = tempfile::tempdir().unwrap();
    let sites = || (0..12).flat_map(|layer| Projection::ALL.map(|p| Site::new(layer, p)));
    let make = |order: &mut dyn Iterator<Item = Site>, metadata: Metadata| {
        let mut intervention = Intervention::new(metadata);
        for site in order {
            let s = SiteIntervention { shift: Some(vec![site.layer as f32; 3]), ..SiteIntervention::from_scale(vec![1.0, 0.5, 0.25]) };
            intervention.insert(site, s).unwrap();
        }
        intervention
    };
    let saved = |intervention: &Intervention| {
        let path = dir.path().join("x.sgm.safetensors");
        intervention.save(&path).unwrap();
        (std::fs::read(&path).unwrap(), std::fs::read(path.with_extension("md")).unwrap())
    };
    let (bytes, card) = saved(&make(&mut sites(), metadata()));
    // Hash tables would be seeded anew in every iteration.
    for _ in 0..20 {
        let mut rebuilt = metadata();
        rebuilt.method = Some(serde_json::from_str(r#"{"threshold": 0.75, "preset": "sgm"}"#).unwrap());
        let reversed: Vec<_> = sites().collect();
        let again = saved(&make(&mut reversed.into_iter().rev(), rebuilt));
        assert!(again == (bytes.clone(), card.clone()));
    }
    let header: usize = u64::from_le_bytes(bytes[..8].try_into().unwrap()).try_into().unwrap();
    assert_eq!(header % 8, 0);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 72);
    assert!(bytes[8..].starts_with(br#"{"__metadata__":{"base_model":"organism","calibration":"#));
    // Quotes and backslashes in metadata are escaped.
    let mut odd = metadata();
    odd.other.insert("a \"quoted\" \\ key\n".to_owned(), "\u{1F453} \"v\"".to_owned());
    let odd = make(&mut sites(), odd);
    assert_eq!(Intervention::from_bytes("x", &saved(&odd).0).unwrap(), odd);
    let empty = Intervention::default();
    assert_eq!(Intervention::from_bytes("x", &saved(&empty).0).unwrap(), empty);
}

fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>)], metadata: Option<&[(&str, &str)]>) {
    let bytes = [0u8; 64];
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape)| {
            let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (*name, TensorView::new(*dtype, shape.clone(), &bytes[..size]).unwrap())
        })
        .collect();
    let metadata = metadata.map(|m| m.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<HashMap<_, _>>());
    std::fs::write(path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

const GOOD: &[(&str, &str)] = &[("format", "sgm-intervention"), ("format_version", "1")];

#[test]
fn every_way_to_be_wrong_has_its_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sgm.safetensors");
    let scale = ("lm.layers.0.mlp.up_proj/scale", Dtype::F32, vec![4]);
    let load = || Intervention::load(&path);

    assert!(matches!(load(), Err(Error::Io { action: "read", .. })));
    write(&path, std::slice::from_ref(&scale), Some(GOOD));
    assert_eq!(load().unwrap().neurons(), 4);

    write(&path, std::slice::from_ref(&scale), None);
    assert!(matches!(load(), Err(Error::WrongFormat { .. })));
    write(&path, std::slice::from_ref(&scale), Some(&[("format", "sgm-intervention")]));
    assert!(matches!(load(), Err(Error::Metadata { .. })));
    write(&path, std::slice::from_ref(&scale), Some(&[("format", "sgm-intervention"), ("format_version", "99")]));
    assert!(matches!(load(), Err(Error::NewerFormat { got: 99, .. })));
    write(&path, std::slice::from_ref(&scale), Some(&[GOOD[0], GOOD[1], ("operator", "{")]));
    assert!(matches!(load(), Err(Error::Metadata { .. })));

    for tensors in [
        vec![("lm.layers.0.mlp.up_proj/scale", Dtype::F16, vec![4])],
        vec![("lm.layers.0.mlp.up_proj/scale", Dtype::F32, vec![2, 2])],
        vec![("lm.layers.0.mlp.upp_proj/scale", Dtype::F32, vec![4])],
        vec![("lm.layers.0.mlp.up_proj/sclae", Dtype::F32, vec![4])],
        vec![("scale", Dtype::F32, vec![4])],
        vec![("lm.layers.0.mlp.up_proj/patch", Dtype::F32, vec![4])],
        vec![("lm.layers.0.mlp.up_proj/patch", Dtype::BF16, vec![2, 2])],
        vec![("lm.layers.0.mlp.up_proj/shift", Dtype::F32, vec![4])],
    ] {
        write(&path, &tensors, Some(GOOD));
        assert!(matches!(load(), Err(Error::Tensor { .. })), "{tensors:?}");
    }
    write(&path, &[scale.clone(), ("lm.layers.0.mlp.up_proj/shift", Dtype::F32, vec![5])], Some(GOOD));
    assert!(matches!(load(), Err(Error::Width { expected: 4, got: 5, .. })));

    // Neurons without columns, and neurons with vectors of different lengths.
    let patch = |site: &'static str, shape: [usize; 2]| (site, Dtype::F32, shape.to_vec());
    let [gate, up, down] = ["lm.layers.0.mlp.gate_proj/patch", "lm.layers.0.mlp.up_proj/patch", "lm.layers.0.mlp.down_proj/patch"];
    write(&path, &[patch(gate, [2, 3]), patch(up, [2, 3])], Some(GOOD));
    assert!(matches!(load(), Err(Error::Width { what: "patch", expected: 2, got: 0, .. })));
    write(&path, &[patch(gate, [2, 3]), patch(up, [2, 3]), patch(down, [2, 2])], Some(GOOD));
    assert!(matches!(load(), Err(Error::Width { what: "patch", expected: 3, got: 2, .. })));
    write(&path, &[patch(gate, [2, 3]), patch(up, [2, 3]), patch(down, [2, 3])], Some(GOOD));
    assert_eq!(load().unwrap().added_neurons(), 2);

    write(&path, &[scale], Some(GOOD));
    let bytes = std::fs::read(&path).unwrap();
    for cut in 0..bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        assert!(matches!(load(), Err(Error::NotSafetensors { .. })), "cut at {cut}");
    }
    let huge_header = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    std::fs::write(&path, huge_header).unwrap();
    assert!(matches!(load(), Err(Error::NotSafetensors { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn flipped_bytes_never_panic(position in 0usize..800, value in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let patched = ["gate_proj", "up_proj", "down_proj"].map(|projection| format!("lm.layers.0.mlp.{projection}/patch"));
        let vectors = ["lm.layers.0.mlp.up_proj/scale", "lm.layers.0.mlp.up_proj/auroc"];
        let mut tensors: Vec<_> = vectors.into_iter().map(|name| (name, Dtype::F32, vec![4])).collect();
        tensors.extend(patched.iter().map(|name| (name.as_str(), Dtype::F32, vec![2, 3])));
        write(&path, &tensors, Some(GOOD));
        let mut bytes = std::fs::read(&path).unwrap();
        let position = position % bytes.len();
        bytes[position] = value;
        std::fs::write(&path, bytes).unwrap();
        let _ = Intervention::load(&path);
    }
}
