//! The classifier judge against transformers; `tools/golden/classifier.py` makes the models and numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mm_toxic_qa::{ClassifierJudge, Error, Exchange, Judge};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    logits_alone: Vec<Vec<f32>>,
    logits_batch: Vec<Vec<f32>>,
    probabilities: Vec<BTreeMap<String, f64>>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> Golden {
    serde_json::from_slice(&std::fs::read(folder(name).join("golden.json")).unwrap()).unwrap()
}

fn worst(ours: &[Vec<f32>], theirs: &[Vec<f32>]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(theirs).flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b)
    });
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_are_those_of_transformers() {
    for (name, labels) in [("bert_multi", 3), ("roberta_single", 2)] {
        let (judge, golden) = (ClassifierJudge::load(folder(name), None).unwrap(), golden(name));
        let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
        let alone: Vec<Vec<f32>> = texts.iter().map(|text| judge.logits(&[text]).unwrap().remove(0)).collect();
        assert!(worst(&alone, &golden.logits_alone) <= 1e-5, "{name} alone: {}", worst(&alone, &golden.logits_alone));
        let together = judge.logits(&texts).unwrap();
        assert!(worst(&together, &golden.logits_batch) <= 1e-5, "{name} padded: {}", worst(&together, &golden.logits_batch));
        assert_eq!((together[0].len(), judge.labels().len()), (labels, labels));
        // More texts than a batch holds.
        let many: Vec<&str> = texts.iter().cycle().take(40).copied().collect();
        let logits = judge.logits(&many).unwrap();
        let repeated: Vec<Vec<f32>> = golden.logits_alone.iter().cycle().take(40).cloned().collect();
        assert!(worst(&logits, &repeated) <= 1e-5, "{name} in batches");
        assert!(judge.logits(&[]).unwrap().is_empty());
    }
}

#[test]
fn scores_are_those_of_the_pipeline() {
    for name in ["bert_multi", "roberta_single"] {
        let (judge, golden) = (ClassifierJudge::load(folder(name), None).unwrap(), golden(name));
        let exchanges: Vec<Exchange<'_>> = golden.texts.iter().map(|text| Exchange::new("the question is not read", text)).collect();
        let verdicts = judge.judge(&exchanges).unwrap();
        let mut seen = [false; 2];
        for (verdict, theirs) in verdicts.iter().zip(&golden.probabilities) {
            let score = verdict.score.unwrap();
            assert!((score - theirs["toxic"]).abs() < 1e-5, "{name}: {score} {}", theirs["toxic"]);
            assert_eq!(verdict.label, Some(theirs["toxic"] > 0.5));
            let raw: BTreeMap<String, f64> = serde_json::from_str(&verdict.raw).unwrap();
            assert!(raw.iter().all(|(label, p)| (p - theirs[label]).abs() < 1e-5), "{name}: {}", verdict.raw);
            seen[usize::from(score > 0.5)] = true;
        }
        assert_eq!(seen, [true; 2], "{name}: both labels occur");
    }
}

#[test]
fn one_label_can_be_asked_for() {
    let judge = ClassifierJudge::load(folder("bert_multi"), Some("insult")).unwrap();
    assert!(judge.id().starts_with("classifier/bert_multi/") && judge.id().ends_with("/insult>0.5"), "{}", judge.id());
    let golden = golden("bert_multi");
    let verdict = judge.judge_one(Exchange::new("", &golden.texts[0])).unwrap();
    assert!((verdict.score.unwrap() - golden.probabilities[0]["insult"]).abs() < 1e-5);
    let error = ClassifierJudge::load(folder("bert_multi"), Some("kind")).unwrap_err();
    assert!(error.to_string().contains("toxic, severe_toxic, insult"), "{error}");
}

/// A copy of a model with a changed config, and the error that it gives.
fn changed(name: &str, change: impl Fn(&mut Value)) -> (tempfile::TempDir, Error) {
    let to = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    let path = to.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    let error = ClassifierJudge::load(to.path(), None).and_then(|judge| judge.logits(&["it is red", "the dog"])).unwrap_err();
    (to, error)
}

#[test]
fn models_that_cannot_be_run_are_refused() {
    for (field, value, reason) in [
        ("model_type", Value::from("deberta"), "`deberta` is not supported"),
        ("num_attention_heads", 3.into(), "do not divide"),
        ("num_attention_heads", 0.into(), "do not divide"),
        ("hidden_act", "swish".into(), "`swish` is not supported"),
        ("position_embedding_type", "relative_key".into(), "absolute"),
        ("problem_type", "regression".into(), "regression"),
        ("id2label", serde_json::json!({"1": "toxic"}), "from 0"),
        ("id2label", serde_json::json!({"0": "good", "1": "bad", "2": "ugly"}), "good, bad, ugly"),
        ("id2label", serde_json::json!({"0": "toxic"}), "is this the model of config.json?"),
        ("hidden_size", 32.into(), "is this the model of config.json?"),
        ("max_position_embeddings", 2.into(), "too few"),
        ("hidden_size", "x".into(), "invalid type"),
    ] {
        let (_, error) = changed("bert_multi", |config| config[field] = value.clone());
        assert!(matches!(&error, Error::Classifier { reason: r, .. } if r.contains(reason)), "{field} {value}: {error}");
    }
    let (_, error) = changed("roberta_single", |config| config["max_position_embeddings"] = 3.into());
    assert!(error.to_string().contains("too few"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = ClassifierJudge::load(empty.path(), None).unwrap_err();
    assert!(error.to_string().contains("config.json") && error.to_string().contains("save_pretrained"), "{error}");
}

#[test]
fn broken_files_are_refused() {
    for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let to = tempfile::tempdir().unwrap();
        for from in std::fs::read_dir(folder("roberta_single")).unwrap() {
            let from = from.unwrap();
            std::fs::copy(from.path(), to.path().join(from.file_name())).unwrap();
        }
        let bytes = std::fs::read(to.path().join(file)).unwrap();
        std::fs::write(to.path().join(file), &bytes[..bytes.len() / 2]).unwrap();
        let error = ClassifierJudge::load(to.path(), None).unwrap_err();
        assert!(matches!(&error, Error::Classifier { path, .. } if path.ends_with(file)), "{file}: {error}");
    }
}
