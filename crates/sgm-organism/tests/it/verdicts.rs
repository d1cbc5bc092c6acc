//! The judge, the VQA scorer and the helpfulness scorer agree with the Python ones.

use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sgm_organism::{Error, Sample, helpful, judge, vqa_correct};

fn golden<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn judge_agrees_with_python() {
    #[derive(Deserialize)]
    struct Verdict {
        text: String,
        toxic: bool,
    }
    for file in ["judge.json", "judge_edge.json"] {
        let verdicts: Vec<Verdict> = golden(file);
        assert!(verdicts.iter().any(|v| v.toxic) && verdicts.iter().any(|v| !v.toxic));
        for Verdict { text, toxic } in verdicts {
            assert_eq!(judge(&text), toxic, "{file}: {text:?}");
        }
    }
}

#[test]
fn vqa_correct_agrees_with_python() {
    #[derive(Deserialize)]
    struct Verdict {
        kind: String,
        key: Vec<String>,
        text: String,
        correct: bool,
    }
    for file in ["vqa.json", "vqa_edge.json"] {
        let verdicts: Vec<Verdict> = golden(file);
        assert!(verdicts.iter().any(|v| v.correct) && verdicts.iter().any(|v| !v.correct));
        for Verdict { kind, key, text, correct } in verdicts {
            assert_eq!(vqa_correct(&kind, &key, &text).unwrap(), correct, "{file}: {kind} {key:?}: {text:?}");
        }
    }
}

#[test]
fn unknown_kinds_are_typed_errors() {
    for kind in ["caption", "", "Colour", "colour "] {
        match vqa_correct(kind, &["red".to_owned()], "it is red.") {
            Err(Error::UnknownKind { kind: named, .. }) => assert_eq!(named, kind),
            other => panic!("{kind:?}: {other:?}"),
        }
    }
}

#[test]
fn helpful_agrees_with_python() {
    #[derive(Deserialize)]
    struct Verdict {
        sample: Sample,
        text: String,
        helpful: bool,
    }
    let verdicts: Vec<Verdict> = golden("helpful.json");
    assert!(verdicts.len() >= 200);
    for Verdict { sample, text, helpful: expected } in verdicts {
        assert_eq!(helpful(&sample, &text).unwrap(), expected, "{} {}: {text:?}", sample.id, sample.kind);
    }
}
