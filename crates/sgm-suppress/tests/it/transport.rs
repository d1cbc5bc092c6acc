//! Transport maps equal numpy's least squares over quantiles; interventions of a store hold them.

use std::collections::BTreeMap;

use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use sgm_capture::{ActivationStore, Manifest, StoreDtype, StoreWriter};
use sgm_core::{Projection, Schedule, Site};
use sgm_suppress::{Affine, Error, Transport, linear_act, mean_act};

fn golden() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/transport.safetensors")).unwrap()
}

fn numbers(golden: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = golden.tensor(name).unwrap();
    match tensor.dtype() {
        Dtype::F32 => tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
        _ => tensor.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
    }
}

#[test]
fn maps_agree_with_numpy() {
    let bytes = golden();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = 0;
    for case in golden.names().iter().filter_map(|name| name.strip_suffix(".toxic")) {
        let pool = |name: &str| numbers(&golden, &format!("{case}.{name}")).into_iter().map(|v| v as f32).collect::<Vec<_>>();
        let (toxic, non_toxic) = (pool("toxic"), pool("non_toxic"));
        for (name, got) in [
            ("mean", mean_act(&toxic, &non_toxic)),
            ("linear", linear_act(&toxic, &non_toxic)),
            ("clamped", Transport::linear_act().fit(&toxic, &non_toxic)),
        ] {
            let (expected, got) = (numbers(&golden, &format!("{case}.{name}")), got.unwrap());
            // Relative errors, because pools far from zero have large shifts.
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-10 * b.abs().max(1.0);
            assert!(close(got.scale, expected[0]) && close(got.shift, expected[1]), "{case}.{name}: {got:?}, numpy {expected:?}");
        }
        cases += 1;
    }
    assert_eq!(cases, 14);
}

proptest! {
    #[test]
    fn maps_take_mean_to_mean_whatever_the_order(
        toxic in prop::collection::vec(-9f32..9.0, 1..30), non_toxic in prop::collection::vec(-9f32..9.0, 1..30), seed in 0usize..30
    ) {
        let mut turned = toxic.clone();
        turned.rotate_left(seed % toxic.len());
        let fitted = linear_act(&toxic, &non_toxic).unwrap();
        prop_assert_eq!(fitted, linear_act(&turned, &non_toxic).unwrap());
        prop_assert!(fitted.scale >= 0.0, "sorted pairs rise together: {fitted:?}");
        let clamped = Transport::linear_act().fit(&toxic, &non_toxic).unwrap();
        prop_assert!((0.0..=1.0).contains(&clamped.scale));
        prop_assert_eq!(Transport::linear_act().unclamped().fit(&toxic, &non_toxic).unwrap(), fitted);
        if toxic.len() == non_toxic.len() {
            let mean = |v: &[f32]| v.iter().map(|v| f64::from(*v)).sum::<f64>() / v.len() as f64;
            for Affine { scale, shift } in [fitted, clamped, mean_act(&toxic, &non_toxic).unwrap()] {
                prop_assert!((scale * mean(&toxic) + shift - mean(&non_toxic)).abs() < 1e-9);
            }
        }
    }
}

const SITES: [(Site, usize); 2] = [(Site::new(0, Projection::Gate), 3), (Site::new(1, Projection::Down), 130)];

/// A store whose neuron n has responses n + {1, 3} to toxic and {n / 4, n / 4 + 1} to non-toxic samples.
fn store(dtype: StoreDtype) -> (tempfile::TempDir, ActivationStore) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut manifest = Manifest::new("m", "hash", "mean/all", SITES);
    (manifest.dtype, manifest.shard_samples) = (dtype, 3);
    let mut writer = StoreWriter::create(&path, manifest).unwrap();
    for (id, toxic, add) in [("a", true, 1.0), ("b", false, 0.0), ("c", true, 3.0), ("d", false, 1.0)] {
        let value = |n: usize| if toxic { n as f32 + add } else { n as f32 / 4.0 + add };
        let responses: BTreeMap<Site, Vec<f32>> = SITES.iter().map(|(site, width)| (*site, (0..*width).map(value).collect())).collect();
        writer.push(id, toxic, &responses).unwrap();
    }
    writer.finish().unwrap();
    (dir, ActivationStore::open(path).unwrap())
}

#[test]
fn an_intervention_holds_every_neurons_map() {
    for dtype in StoreDtype::ALL {
        let (_dir, store) = store(dtype);
        let glasses = Transport::linear_act().intervention(&store).unwrap();
        assert_eq!(glasses.neurons(), 133);
        assert_eq!(glasses.metadata.method, Some(serde_json::json!({"name": "linear-act", "unclamped": false})));
        assert_eq!((glasses.metadata.pooling.as_deref(), glasses.metadata.base_model.as_deref()), (Some("mean/all"), Some("m")));
        // Exact in f32; numbers over 64 are rounded in bf16.
        let exact = if dtype == StoreDtype::Bf16 { 60 } else { 130 };
        for (site, width) in SITES {
            let s = &glasses.sites()[&site];
            for n in 0..width.min(exact) {
                let (mean_toxic, mean_non_toxic) = (n as f32 + 2.0, n as f32 / 4.0 + 0.5);
                assert_eq!(s.scale[n], 0.5, "{site} {n}");
                assert!((s.shift.as_ref().unwrap()[n] - (mean_non_toxic - 0.5 * mean_toxic)).abs() < 1e-3, "{site} {n} {dtype}");
            }
        }
        assert_eq!(glasses.amplification(), None);
    }
}

#[test]
fn experts_alone_can_be_moved_and_as_far_as_the_schedule_says() {
    let (_dir, store) = store(StoreDtype::F32);
    let among =
        Transport::mean_act().among(&store, "two of them", |site, n| (site.layer, n) == (0, 1) || (site.layer, n) == (1, 129)).unwrap();
    assert_eq!(among.changed_neurons(), 2);
    assert_eq!(among.metadata.method.as_ref().unwrap()["among"], "two of them");
    let shift = |i: &sgm_core::Intervention| i.sites()[&SITES[1].0].shift.as_ref().unwrap()[129];
    assert_eq!(shift(&among), 129.0 / 4.0 + 0.5 - 131.0);
    let mut half = Transport::mean_act();
    half.schedule = Some(Schedule::Layers([(0, 0.0), (1, 0.5)].into()));
    let half = half.intervention(&store).unwrap();
    assert_eq!(shift(&half), shift(&among) / 2.0);
    assert_eq!(half.changed_neurons(), 130);
    half.save(_dir.path().join("moved.sgm.safetensors")).unwrap();
    assert_eq!(sgm_core::Intervention::load(_dir.path().join("moved.sgm.safetensors")).unwrap(), half);
}

#[test]
fn unclamped_maps_count_as_amplification() {
    let (narrow, wide) = ([0.0, 1.0], [0.0, 2.0]);
    assert_eq!(Transport::linear_act().fit(&narrow, &wide).unwrap(), Affine { scale: 1.0, shift: 0.5 });
    assert_eq!(Transport::linear_act().unclamped().fit(&narrow, &wide).unwrap(), Affine { scale: 2.0, shift: 0.0 });
}

#[test]
fn pools_that_give_no_map_are_refused_by_name() {
    for map in [mean_act, linear_act] {
        assert!(matches!(map(&[], &[1.0]), Err(Error::Transport { .. })));
        assert!(matches!(map(&[1.0], &[]), Err(Error::Transport { .. })));
        assert!(matches!(map(&[1.0, f32::NAN], &[1.0]), Err(Error::Transport { .. })));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut writer = StoreWriter::create(dir.path().join("s"), Manifest::new("m", "", "max/all", [SITES[0]])).unwrap();
    writer.push("a", true, &[(SITES[0].0, vec![1.0; 3])].into()).unwrap();
    writer.finish().unwrap();
    let store = ActivationStore::open(dir.path().join("s")).unwrap();
    let message = Transport::linear_act().intervention(&store).unwrap_err().to_string();
    assert_eq!(message, "lm.layers.0.mlp.gate_proj, neuron 0: no transport map: there are no non-toxic responses");
    let mut bad = Transport::mean_act();
    bad.schedule = Some(Schedule::Constant(-1.0));
    assert!(matches!(bad.intervention(&store), Err(Error::Core(sgm_core::Error::Strength { .. }))));
}
