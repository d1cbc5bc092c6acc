//! Manifests with samples of the world: one test for each fault, and arbitrary lines, which are refused or survive a round trip.

use std::path::Path;

use mm_toxic_qa::{Error, ImageRef, Sample, manifest};
use proptest::prelude::*;
use sgm_organism::OrganismWorld;

fn parse(line: &serde_json::Value) -> Result<Vec<Sample>, Error> {
    manifest::parse_with(line.to_string().as_bytes(), Path::new("m.jsonl"), &OrganismWorld)
}

/// A correct sample, whose fields are replaced one at a time.
fn correct() -> serde_json::Value {
    serde_json::json!({
        "schema": 1, "id": "i", "source": "s", "split": "utility", "task": "vqa", "category": "c",
        "condition": "standard", "attack": "a", "prompt": "p", "response": "r", "label": 0,
        "image": {"scene": {"bg": 1, "noise": 3, "objects": []}},
        "reference": {"kind": "organism/count", "key": ["zero"], "answers": ["there are zero shapes."]},
    })
}

fn with(field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut line = correct();
    line[field] = value;
    line
}

#[test]
fn faults_name_their_field() {
    let samples = parse(&correct()).unwrap();
    assert_eq!(samples[0].image().unwrap().unwrap().dimensions(), (56, 56));
    for scene in [
        serde_json::json!({"bg": 0}),
        serde_json::json!({"bg": 9, "noise": 1, "objects": []}),
        serde_json::json!({"bg": 0, "noise": 1, "objects": [], "extra": 1}),
        serde_json::json!([]),
        serde_json::Value::Null,
    ] {
        let error = parse(&with("image", serde_json::json!({"scene": scene}))).unwrap_err();
        assert!(matches!(error, Error::InvalidField { field: "image.scene", .. }), "{error}");
        assert!(error.to_string().contains("a scene of the world `organism`"), "{error}");
    }
    let reference = |reference| parse(&with("reference", reference)).unwrap_err();
    let error = reference(serde_json::json!({"kind": "organism/taste", "key": ["sweet"]}));
    assert!(matches!(error, Error::InvalidField { field: "reference.kind", .. }), "{error}");
    assert!(error.to_string().contains("colour, shape, where"), "{error}");
    let error = reference(serde_json::json!({"kind": "organism/chat", "answers": ["hello."]}));
    assert!(matches!(error, Error::InvalidField { field: "reference.kind", .. }), "not a visual question: {error}");
    let error = reference(serde_json::json!({"kind": "organism/colour", "key": [], "answers": ["it is blue."]}));
    assert!(matches!(error, Error::MissingField { field: "reference.key", .. }), "{error}");
    let error = reference(serde_json::json!({"kind": "open", "answers": []}));
    assert!(matches!(error, Error::MissingField { field: "reference.answers", .. }), "{error}");
    let error = reference(serde_json::json!({"kind": "mars/colour", "key": ["red"]}));
    assert!(matches!(error, Error::UnknownKind { .. }), "{error}");
}

#[test]
fn without_the_world_it_is_refused() {
    let parse = |line: serde_json::Value| manifest::parse(line.to_string().as_bytes(), Path::new("m.jsonl")).unwrap_err();
    let error = parse(correct());
    assert!(matches!(error, Error::NoWorld { line: 1, .. }), "{error}");
    let error = parse(with("image", serde_json::Value::Null));
    assert!(matches!(&error, Error::UnknownKind { kind, world, .. } if kind == "organism/count" && world == "organism"), "{error}");
}

/// JSON values of every shape.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (0u8..9).prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        prop_oneof![Just("vqa"), Just("organism/colour"), Just("ring"), Just("sign"), Just("red"), Just("MAD")].prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((name(), inner), 0..6).prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("scene"),
        Just("kind"),
        Just("key"),
        Just("answers"),
        Just("objects"),
        Just("bg"),
        Just("noise"),
        Just("cell"),
        Just("colour"),
        Just("rgb"),
        Just("r"),
        Just("dx"),
        Just("dy"),
        Just("text"),
    ]
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_field_replaced(field in prop::sample::select(vec!["image", "reference", "task", "split"]), value in json()) {
        if let Ok(samples) = parse(&with(field, value)) {
            let drawn = |sample: &Sample| !matches!(sample.image, Some(ImageRef::Scene(_))) || sample.image().is_ok();
            prop_assert!(samples.iter().all(drawn));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("m.jsonl");
            if manifest::write_with(&path, &samples, &OrganismWorld).is_ok() {
                prop_assert_eq!(manifest::read_with(&path, &OrganismWorld).unwrap(), samples);
            }
        }
    }

    #[test]
    fn the_scene_replaced(scene in json()) {
        if let Ok(samples) = parse(&with("image", serde_json::json!({"scene": scene}))) {
            prop_assert!(samples[0].image().is_ok());
        }
    }
}
