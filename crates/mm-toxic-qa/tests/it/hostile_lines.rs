//! Arbitrary input, which a reader refuses, or reads and writes unchanged, without a panic.

use std::path::Path;

use mm_toxic_qa::{LexiconJudge, ReplayJudge, Report, manifest};
use proptest::prelude::*;

use crate::greys::Greys;

/// JSON values of every shape.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        prop_oneof![Just("dev"), Just("calibration"), Just("vqa"), Just("../x"), Just("greys/level")].prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec((name(), inner), 0..4).prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("schema"),
        Just("id"),
        Just("split"),
        Just("image"),
        Just("scene"),
        Just("label"),
        Just("task"),
        Just("reference"),
        Just("kind"),
        Just("key"),
        Just("answers"),
        Just("level"),
        Just("form"),
    ]
    .prop_map(str::to_owned)
}

/// A correct sample, whose fields are replaced one at a time.
fn correct() -> serde_json::Value {
    serde_json::json!({
        "schema": 1, "id": "i", "source": "s", "split": "utility", "task": "vqa", "category": "c",
        "condition": "standard", "attack": "a", "prompt": "p", "response": "r", "label": 0,
        "image": {"scene": {"level": 7, "form": "dot"}},
        "reference": {"kind": "greys/level", "key": ["7"], "answers": ["the level is 7"]},
    })
}

fn fields() -> Vec<String> {
    correct().as_object().unwrap().keys().cloned().collect()
}

/// Reads a manifest with the world and without it, and checks that what it read survives a round trip.
fn survives(text: &str) {
    let path = Path::new("m.jsonl");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("m.jsonl");
    if let Ok(samples) = manifest::parse(text.as_bytes(), path) {
        if manifest::write(&copy, &samples).is_ok() {
            assert_eq!(manifest::read(&copy).unwrap(), samples);
        }
        assert_eq!(manifest::parse_with(text.as_bytes(), path, &Greys).unwrap(), samples);
    }
    if let Ok(samples) = manifest::parse_with(text.as_bytes(), path, &Greys) {
        for sample in samples.iter().filter(|sample| sample.image.is_some()) {
            let _ = sample.image();
        }
        if manifest::write_with(&copy, &samples, &Greys).is_ok() {
            assert_eq!(manifest::read_with(&copy, &Greys).unwrap(), samples);
        }
    }
}

#[test]
fn the_correct_sample_is_read() {
    assert_eq!(manifest::parse_with(correct().to_string().as_bytes(), Path::new("m"), &Greys).unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (manifest::parse(&bytes[..], Path::new("m.jsonl")), manifest::parse_with(&bytes[..], Path::new("m.jsonl"), &Greys));
    }

    #[test]
    fn arbitrary_text(text in "\\PC{0,120}(\n\\PC{0,60}){0,3}") {
        survives(&text);
    }

    #[test]
    fn arbitrary_objects(value in json()) {
        survives(&value.to_string());
    }

    #[test]
    fn one_field_replaced(field in prop::sample::select(fields()), value in json()) {
        let mut sample = correct();
        sample[field] = value;
        survives(&sample.to_string());
    }

    #[test]
    fn a_line_cut_short(at in 0usize..400) {
        let text = correct().to_string();
        let cut: String = text.chars().take(at).collect();
        prop_assert!(cut == text || cut.is_empty() || manifest::parse_with(cut.as_bytes(), Path::new("m"), &Greys).is_err());
    }

    #[test]
    fn other_files(bytes in prop::collection::vec(any::<u8>(), 0..200), value in json()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for content in [bytes, value.to_string().into_bytes()] {
            std::fs::write(&path, content).unwrap();
            let _ = (ReplayJudge::from_file(&path), LexiconJudge::from_words(&path), Report::read(&path));
        }
    }
}
