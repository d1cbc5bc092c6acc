//! The presets equal the rules of the published code, computed in numpy.

use safetensors::SafeTensors;
use sgm_core::{Expertise, Metadata, Site, SiteExpertise};
use sgm_score::{Correction, FalseDiscovery};
use sgm_suppress::{Error, ExpertScale, SuppressionRule};

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
    let mut rules = vec![("aura".to_owned(), SuppressionRule::aura())];
    for k in [1, 5, 20, 22, 100] {
        rules.push((format!("det0_top{k}"), SuppressionRule::det0(k)));
        rules.push((format!("damp_top{k}"), SuppressionRule::damp(0.5, k)));
    }
    for (name, rule) in rules {
        let intervention = rule.intervention(&expertise).unwrap();
        for (site, s) in intervention.sites() {
            assert_eq!(s.scale, vector(&golden, &format!("{name}/{site}")), "{name}, {site}");
        }
        assert_eq!(intervention.amplification(), None);
    }
    let aura_vl = SuppressionRule::aura_vl().intervention(&expertise).unwrap();
    for (site, s) in aura_vl.sites() {
        assert_eq!(s.scale, vector(&golden, &format!("aura_vl/{site}")), "{site}");
    }
    let amplified = aura_vl.amplification().unwrap();
    assert!(amplified.scale > 1.0 && amplified.scale < 1.4, "{amplified:?}");
    // Five neurons tie at the 18th place, and the rule selects strictly above.
    for k in [20, 22] {
        assert_eq!(SuppressionRule::det0(k).intervention(&expertise).unwrap().changed_neurons(), 17);
    }
}

#[test]
fn selection_narrows_and_parameters_are_checked() {
    let bytes = golden();
    let expertise = expertise(&SafeTensors::deserialize(&bytes).unwrap());
    let sites: Vec<Site> = expertise.sites().keys().copied().collect();
    let mut only_one = SuppressionRule::soft(0.5, 2.0);
    only_one.selection.layers = Some([sites[0].layer].into());
    only_one.selection.projections = Some([sites[0].projection].into());
    let narrowed = only_one.intervention(&expertise).unwrap();
    for (site, s) in narrowed.sites() {
        assert_eq!(s.scale.iter().any(|v| *v != 1.0), *site == sites[0], "{site}");
    }

    let soft =
        |strength, exponent, floor| SuppressionRule { scale: ExpertScale::Soft { strength, exponent, floor }, ..SuppressionRule::aura() };
    for bad in [
        soft(-1.0, 1.0, 0.0),
        soft(f32::NAN, 1.0, 0.0),
        soft(1.0, 0.0, 0.0),
        soft(1.0, 1.0, 1.5),
        SuppressionRule::damp(1.4, 3),
        SuppressionRule::damp(-0.1, 3),
        SuppressionRule::det0(expertise.neurons()),
        SuppressionRule::soft(1.5, 1.0),
    ] {
        assert!(matches!(bad.intervention(&expertise), Err(Error::Parameter { .. })), "{bad:?}");
    }
}

#[test]
fn presets_are_found_by_name() {
    for name in SuppressionRule::PRESETS {
        let rule = SuppressionRule::preset(name).unwrap();
        assert_eq!(rule.name, name);
        // A rule equals its copy in a file.
        assert_eq!(serde_json::from_value::<SuppressionRule>(serde_json::json!(rule)).unwrap(), rule);
    }
    let message = SuppressionRule::preset("aura-vl").unwrap_err().to_string();
    assert_eq!(message, "unknown rule `aura-vl`; expected one of det0, damp, aura, aura_vl, sgm");
    // A file of a version without schedules and negative experts.
    let old = r#"{"name":"aura","response":{"soft":{"exponent":1.0,"floor":0.0,"strength":1.0}},
        "selection":{"depth":1.0,"layers":null,"projections":null,"threshold":0.5,"top_k":null}}"#;
    assert_eq!(serde_json::from_str::<SuppressionRule>(old).unwrap(), SuppressionRule::aura());
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
    let scale = |rule: &SuppressionRule| rule.intervention(&expertise).unwrap().sites().values().next().unwrap().scale.clone();
    let mut aura = SuppressionRule::aura();
    assert_eq!(scale(&aura), [1.0, 1.0, 1.0, 0.5, 0.0]);
    aura.selection.negative = true;
    assert_eq!(scale(&aura), [0.0, 0.5, 1.0, 0.5, 0.0]);
    // The first and the last neuron tie with those of the other layer for the first four places.
    let mut det0 = SuppressionRule::det0(3);
    det0.selection.negative = true;
    assert_eq!(scale(&det0), [1.0; 5]);
    det0.selection.top_k = Some(4);
    assert_eq!(scale(&det0), [0.0, 1.0, 1.0, 1.0, 0.0]);
}

#[test]
fn settings_of_a_soft_scale_change_soft_rules_alone() {
    let mut sgm = SuppressionRule::sgm();
    sgm.set_soft_scale(Some(0.5), None, Some(0.1)).unwrap();
    assert_eq!(sgm.scale, ExpertScale::Soft { strength: 0.5, exponent: 2.5, floor: 0.1 });
    let mut det0 = SuppressionRule::det0(1);
    det0.set_soft_scale(None, None, None).unwrap();
    let error = det0.set_soft_scale(None, Some(2.0), None).unwrap_err();
    assert!(matches!(error, Error::Parameter { parameter: "exponent", .. }), "{error}");
    assert_eq!(det0, SuppressionRule::det0(1));
}

#[test]
fn a_rule_selects_by_false_discovery_rate() {
    let mut expertise = one_site(&[0.4, 0.75, 1.0]);
    let (site, mut scored) = expertise.sites().iter().map(|(site, scored)| (*site, scored.clone())).next().unwrap();
    // The second neuron's AUROC is within its error of chance.
    scored.auroc_se = Some(vec![0.05, 0.5, 0.05]);
    expertise = Expertise::new(Metadata::default());
    expertise.insert(site, scored).unwrap();
    let mut aura = SuppressionRule::aura();
    aura.selection.false_discovery = Some(FalseDiscovery { level: 0.05, correction: Correction::BenjaminiHochberg });
    let glasses = aura.intervention(&expertise).unwrap();
    assert_eq!(glasses.sites()[&site].scale, [1.0, 1.0, 0.0]);
    assert_eq!(glasses.metadata.method, Some(serde_json::json!(aura)));
    aura.selection.negative = true;
    assert!(matches!(aura.intervention(&expertise), Err(Error::Parameter { parameter: "negative", .. })));
}

#[test]
fn schedules_and_given_sets_narrow_a_rule() {
    let expertise = one_site(&[0.4, 0.75, 1.0]);
    let scales = |i: sgm_core::Intervention| i.sites().values().map(|s| s.scale.clone()).collect::<Vec<_>>();
    let mut aura = SuppressionRule::aura();
    let given = aura.among(&expertise, "q <= 0.05", |site, neuron| (site.layer, neuron) != (0, 1)).unwrap();
    assert_eq!(given.metadata.method.as_ref().unwrap()["among"], "q <= 0.05");
    assert_eq!(scales(given), [[1.0, 1.0, 0.0], [1.0, 0.5, 0.0]]);
    aura.schedule = Some("0=0.5".parse().unwrap());
    let scheduled = aura.intervention(&expertise).unwrap();
    assert_eq!(scheduled.metadata.method, Some(serde_json::json!(aura)));
    assert_eq!(scales(scheduled), [[1.0, 0.75, 0.5], [1.0, 0.5, 0.0]]);
    // Top-k counts within the set.
    let top = SuppressionRule::det0(1).among(&expertise, "layer 1", |site, _| site.layer == 1).unwrap();
    assert_eq!(scales(top), [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]);
    aura.schedule = Some(sgm_core::Schedule::Constant(f32::NAN));
    assert!(matches!(aura.intervention(&expertise), Err(Error::Core(sgm_core::Error::Strength { .. }))));
}
