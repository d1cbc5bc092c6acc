//! The presets equal the published code's rules, computed in numpy.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

use safetensors::SafeTensors;
use sgm_core::{Expertise, Metadata, Site, SiteExpertise};
use sgm_suppress::{Error, Operator, Response};

fn golden() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/alphas.safetensors")).unwrap()
}

fn vector(golden: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    golden.tensor(name).unwrap().data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn expertise(golden: &SafeTensors<'_>) -> Expertise {
    let mut expertise = Expertise::new(Metadata::default());
    for name in golden.names() {
        let Some(site) = name.strip_suffix("/auroc") else { continue };
        expertise.insert(site.parse().unwrap(), SiteExpertise { auroc: vector(golden, name), auroc_se: None }).unwrap();
    }
    expertise
}

#[test]
fn presets_are_bit_equal_to_the_published_rules() {
    let bytes = golden();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let expertise = expertise(&golden);
    assert_eq!(expertise.sites().len(), 4);
    let mut operators = vec![("aura".to_owned(), Operator::aura())];
    for k in [1, 5, 20, 22, 100] {
        operators.push((format!("det0_top{k}"), Operator::det0(k)));
        operators.push((format!("damp_top{k}"), Operator::damp(0.5, k)));
    }
    for (rule, operator) in operators {
        let intervention = operator.intervention(&expertise).unwrap();
        for (site, s) in intervention.sites() {
            assert_eq!(s.scale, vector(&golden, &format!("{rule}/{site}")), "{rule}, {site}");
        }
        assert_eq!(intervention.amplification(), None);
    }
    let aura_vl = Operator::aura_vl().intervention(&expertise).unwrap();
    for (site, s) in aura_vl.sites() {
        assert_eq!(s.scale, vector(&golden, &format!("aura_vl/{site}")), "{site}");
    }
    let amplified = aura_vl.amplification().unwrap();
    assert!(amplified.scale > 1.0 && amplified.scale < 1.4, "{amplified:?}");
    // Five neurons tie at the 18th place, and the rule wants strictly more.
    for k in [20, 22] {
        assert_eq!(Operator::det0(k).intervention(&expertise).unwrap().changed_neurons(), 17);
    }
}

#[test]
fn selection_narrows_and_parameters_are_checked() {
    let bytes = golden();
    let expertise = expertise(&SafeTensors::deserialize(&bytes).unwrap());
    let sites: Vec<Site> = expertise.sites().keys().copied().collect();
    let mut only_one = Operator::soft(0.5, 2.0);
    only_one.selection.layers = Some([sites[0].layer].into());
    only_one.selection.projections = Some([sites[0].projection.name().to_owned()].into());
    let narrowed = only_one.intervention(&expertise).unwrap();
    for (site, s) in narrowed.sites() {
        assert_eq!(s.scale.iter().any(|v| *v != 1.0), *site == sites[0], "{site}");
    }

    let soft = |strength, exponent, floor| Operator { response: Response::Soft { strength, exponent, floor }, ..Operator::aura() };
    for bad in [
        soft(-1.0, 1.0, 0.0),
        soft(f32::NAN, 1.0, 0.0),
        soft(1.0, 0.0, 0.0),
        soft(1.0, 1.0, 1.5),
        Operator::damp(1.4, 3),
        Operator::damp(-0.1, 3),
        Operator::det0(expertise.neurons()),
        Operator::soft(1.5, 1.0),
    ] {
        assert!(matches!(bad.intervention(&expertise), Err(Error::Parameter { .. })), "{bad:?}");
    }
}

#[test]
fn presets_are_found_by_name() {
    for name in Operator::PRESETS {
        let operator = Operator::preset(name).unwrap();
        assert_eq!(operator.name, name);
        // What a file keeps of an operator makes the operator again.
        assert_eq!(serde_json::from_value::<Operator>(serde_json::json!(operator)).unwrap(), operator);
    }
    let message = Operator::preset("aura-vl").unwrap_err().to_string();
    assert_eq!(message, "unknown operator `aura-vl`; expected one of det0, damp, aura, aura_vl, sgm");
    // As it was kept before schedules and negative experts were.
    let old = r#"{"name":"aura","response":{"soft":{"exponent":1.0,"floor":0.0,"strength":1.0}},
        "selection":{"depth":1.0,"layers":null,"projections":null,"threshold":0.5,"top_k":null}}"#;
    assert_eq!(serde_json::from_str::<Operator>(old).unwrap(), Operator::aura());
}

fn one_site(auroc: &[f32]) -> Expertise {
    let mut expertise = Expertise::new(Metadata::default());
    for layer in 0..2 {
        let site = format!("lm.layers.{layer}.mlp.up_proj").parse().unwrap();
        expertise.insert(site, SiteExpertise { auroc: auroc.to_vec(), auroc_se: None }).unwrap();
    }
    expertise
}

#[test]
fn negative_experts_count_only_when_asked_for() {
    let expertise = one_site(&[0.0, 0.25, 0.5, 0.75, 1.0]);
    let scale = |operator: &Operator| operator.intervention(&expertise).unwrap().sites().values().next().unwrap().scale.clone();
    let mut aura = Operator::aura();
    assert_eq!(scale(&aura), [1.0, 1.0, 1.0, 0.5, 0.0]);
    aura.selection.negative = true;
    assert_eq!(scale(&aura), [0.0, 0.5, 1.0, 0.5, 0.0]);
    // The two at the ends tie with those of the other layer for the first four places.
    let mut det0 = Operator::det0(3);
    det0.selection.negative = true;
    assert_eq!(scale(&det0), [1.0; 5]);
    det0.selection.top_k = Some(4);
    assert_eq!(scale(&det0), [0.0, 1.0, 1.0, 1.0, 0.0]);
}

#[test]
fn schedules_and_given_sets_narrow_an_operator() {
    let expertise = one_site(&[0.4, 0.75, 1.0]);
    let scales = |i: sgm_core::Intervention| i.sites().values().map(|s| s.scale.clone()).collect::<Vec<_>>();
    let mut aura = Operator::aura();
    let given = aura.among(&expertise, "q <= 0.05", |site, neuron| (site.layer, neuron) != (0, 1)).unwrap();
    assert_eq!(given.metadata.operator.as_ref().unwrap()["among"], "q <= 0.05");
    assert_eq!(scales(given), [[1.0, 1.0, 0.0], [1.0, 0.5, 0.0]]);
    aura.schedule = Some("0=0.5".parse().unwrap());
    let scheduled = aura.intervention(&expertise).unwrap();
    assert_eq!(scheduled.metadata.operator, Some(serde_json::json!(aura)));
    assert_eq!(scales(scheduled), [[1.0, 0.75, 0.5], [1.0, 0.5, 0.0]]);
    // Top-k counts within the set.
    let top = Operator::det0(1).among(&expertise, "layer 1", |site, _| site.layer == 1).unwrap();
    assert_eq!(scales(top), [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]);
    aura.schedule = Some(sgm_core::Schedule::Constant(f32::NAN));
    assert!(matches!(aura.intervention(&expertise), Err(Error::Core(sgm_core::Error::Strength { .. }))));
}
