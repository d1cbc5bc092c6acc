//! Arbitrary input never panics a reader: it is refused or, where it is right, survives a round trip.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::path::Path;

use mm_toxic_qa::{LexiconJudge, ReplayJudge, Report, manifest};
use proptest::prelude::*;

/// JSON values of every shape.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
        prop_oneof![Just("dev"), Just("calibration"), Just("vqa"), Just("../x"), Just("organism/colour")].prop_map(Into::into),
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
        Just("objects"),
        Just("bg"),
        Just("noise"),
    ]
    .prop_map(str::to_owned)
}

/// A sample that is right, so that single fields can be replaced.
fn right() -> serde_json::Value {
    serde_json::json!({
        "schema": 1, "id": "i", "source": "s", "split": "utility", "task": "vqa", "category": "c",
        "condition": "standard", "attack": "a", "prompt": "p", "response": "r", "label": 0,
        "image": {"scene": {"bg": 1, "noise": 3, "objects": []}},
        "reference": {"kind": "organism/count", "key": ["zero"], "answers": ["there are zero shapes."]},
    })
}

fn survives(text: &str) {
    let path = Path::new("m.jsonl");
    if let Ok(samples) = manifest::parse(text.as_bytes(), path) {
        for sample in samples.iter().filter(|sample| sample.image.is_some()) {
            let _ = sample.image();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.jsonl");
        if manifest::write(&path, &samples).is_ok() {
            assert_eq!(manifest::read(&path).unwrap(), samples);
        }
    }
}

#[test]
fn the_right_sample_is_right() {
    assert_eq!(manifest::parse(right().to_string().as_bytes(), Path::new("m")).unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = manifest::parse(&bytes[..], Path::new("m.jsonl"));
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
    fn one_field_replaced(field in prop::sample::select(right().as_object().unwrap().keys().cloned().collect::<Vec<_>>()), value in json()) {
        let mut sample = right();
        sample[field] = value;
        survives(&sample.to_string());
    }

    #[test]
    fn a_line_cut_short(at in 0usize..400) {
        let text = right().to_string();
        let cut: String = text.chars().take(at).collect();
        prop_assert!(cut == text || cut.is_empty() || manifest::parse(cut.as_bytes(), Path::new("m")).is_err());
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
