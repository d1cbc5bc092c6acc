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
