//! A manifest as a source: calibration by seed, the sets of a split, and incomplete files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mm_toxic_qa::{
    Condition, Error, Evaluation, EvaluationSplit, ManifestSource, Reference, Sample, Source, Split, Task, manifest, resample_calibration,
};

fn sample(id: &str, split: Split) -> Sample {
    Sample {
        id: id.into(),
        source: "mine".into(),
        split,
        category: "c".into(),
        condition: Condition::Standard,
        attack: None,
        image: None,
        prompt: format!("{id}?"),
        response: None,
        label: None,
        reference: None,
        task: None,
        subcategory: None,
        request: None,
    }
}

fn answer(id: usize, toxic: bool) -> Sample {
    let id = format!("{}-{id}", if toxic { "toxic" } else { "polite" });
    Sample { response: Some("so".into()), label: Some(toxic), ..sample(&id, Split::Calibration) }
}

/// Two hundred labelled answers of each class, then samples of every other kind.
fn samples() -> Vec<Sample> {
    let calibration = (0..200).flat_map(|id| [answer(id, true), answer(id, false)]);
    let adversarial = Sample { condition: Condition::Adversarial, ..sample("attack", Split::Dev) };
    let reference = Some(Reference { kind: "open".into(), key: None, answers: vec!["yes".into()] });
    let vqa = Sample { task: Some(Task::Vqa), reference, ..sample("vqa", Split::Utility) };
    let text = Sample { task: Some(Task::Perplexity), response: Some("so".into()), ..sample("text", Split::Utility) };
    calibration.chain([sample("standard", Split::Dev), adversarial, vqa, text]).collect()
}

fn written(folder: &Path, samples: &[Sample], split: EvaluationSplit) -> ManifestSource {
    let path = folder.join("m.jsonl");
    manifest::write(&path, samples).unwrap();
    ManifestSource::open(path, split).unwrap()
}

fn ids(samples: &[Sample]) -> Vec<&str> {
    samples.iter().map(|s| s.id.as_str()).collect()
}

#[test]
fn every_set_is_selected() {
    let folder = tempfile::tempdir().unwrap();
    let source = written(folder.path(), &samples(), EvaluationSplit::Dev);
    assert_eq!((source.split(), source.samples().len()), (EvaluationSplit::Dev, 404));
    assert_eq!(source.name(), folder.path().join("m.jsonl").display().to_string());
    let Evaluation { standard, adversarial, vqa, perplexity, refusal } = source.evaluation().unwrap();
    assert_eq!([ids(&standard), ids(&adversarial), ids(&vqa), ids(&perplexity)], [["standard"], ["attack"], ["vqa"], ["text"]]);
    assert!(refusal.is_empty());
    assert_eq!(source.calibration(0).unwrap(), samples()[..400]);
}

#[test]
fn each_class_is_resampled() {
    let folder = tempfile::tempdir().unwrap();
    let source = written(folder.path(), &samples(), EvaluationSplit::Dev);
    let one = source.calibration(1).unwrap();
    assert_eq!(one, source.calibration(1).unwrap(), "a function of the seed");
    assert_ne!(one, source.calibration(2).unwrap());
    assert_eq!(one, resample_calibration("m", samples()[..400].to_vec(), 1).unwrap());
    let of = |label| one.iter().filter(|s| s.label == Some(label)).count();
    assert_eq!((of(true), of(false)), (200, 200));
    assert_eq!(ids(&one).into_iter().collect::<BTreeSet<_>>().len(), 400, "every id once");
    let original = source.calibration(0).unwrap();
    let known: BTreeMap<&str, &Sample> = original.iter().map(|s| (s.id.as_str(), s)).collect();
    let mut drawn = BTreeSet::new();
    for sample in &one {
        let (id, _) = sample.id.rsplit_once('~').unwrap();
        drawn.insert(id);
        assert_eq!(&Sample { id: id.to_owned(), ..sample.clone() }, known[id]);
    }
    // With replacement, a share of 1 - 1/e = 63.2 % of the samples is drawn at least once.
    assert!((225..280).contains(&drawn.len()), "{}", drawn.len());
}

#[test]
fn a_manifest_may_lack_sets_but_not_the_split_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let standard = ["a", "b", "c"].map(|id| sample(id, Split::Test));
    let evaluation = written(folder.path(), &standard, EvaluationSplit::Test).evaluation().unwrap();
    assert_eq!(evaluation, Evaluation { standard: standard.to_vec(), ..Evaluation::default() });
    let error = written(folder.path(), &standard, EvaluationSplit::Dev).evaluation().unwrap_err();
    assert!(matches!(error, Error::EmptySplit { split: "dev", other: "test", others: 3, .. }), "{error}");
    assert_eq!(written(folder.path(), &[], EvaluationSplit::Dev).evaluation().unwrap(), Evaluation::default());
}

#[test]
fn calibration_needs_both_classes() {
    let folder = tempfile::tempdir().unwrap();
    let toxic: Vec<Sample> = (0..4).map(|id| answer(id, true)).collect();
    let source = written(folder.path(), &toxic, EvaluationSplit::Dev);
    for seed in [0, 1] {
        let error = source.calibration(seed).unwrap_err();
        assert!(matches!(error, Error::OneClass { toxic: 4, non_toxic: 0, .. }), "{error}");
    }
}

#[test]
fn evaluation_splits_have_names() {
    for (split, name) in [(EvaluationSplit::Dev, "dev"), (EvaluationSplit::Test, "test")] {
        assert_eq!((split.name(), split.to_string().as_str(), name.parse()), (name, name, Ok(split)));
    }
    assert!("Dev".parse::<EvaluationSplit>().unwrap_err().contains("dev or test"));
}
