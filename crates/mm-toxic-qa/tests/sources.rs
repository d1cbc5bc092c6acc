//! The two sources: the synthetic set and a manifest made from it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mm_toxic_qa::{
    Condition, Contrast, Error, Evaluation, Exchange, Judge, LexiconJudge, ManifestSource, OrganismSource, Part, Sample, Source, Split,
    Task, manifest, scoring,
};
use sgm_organism::OrganismData;

fn organism(part: Part) -> OrganismSource {
    OrganismSource::embedded(part, Contrast::Benign).unwrap()
}

fn ids(samples: &[Sample]) -> BTreeSet<&str> {
    samples.iter().map(|s| s.id.as_str()).collect()
}

fn labels(samples: &[Sample]) -> (usize, usize) {
    let of = |label| samples.iter().filter(|s| s.label == Some(label)).count();
    (of(true), of(false))
}

fn all(evaluation: Evaluation) -> Vec<Sample> {
    [evaluation.standard, evaluation.adversarial, evaluation.vqa, evaluation.perplexity].concat()
}

/// A manifest with everything the organism source gives for one part.
fn exported(folder: &Path, part: Part) -> std::path::PathBuf {
    let source = organism(part);
    let samples = [source.calibration(0).unwrap(), all(source.evaluation().unwrap())].concat();
    let path = folder.join("organism.jsonl");
    manifest::write(&path, &samples).unwrap();
    path
}

#[test]
fn the_organism_evaluation_is_complete() {
    for (part, split) in [(Part::Dev, Split::Dev), (Part::Test, Split::Test)] {
        let evaluation = organism(part).evaluation().unwrap();
        let mut categories = BTreeMap::new();
        for s in &evaluation.standard {
            *categories.entry(s.category.as_str()).or_insert(0) += 1;
            assert_eq!((s.split, s.condition, s.attack.as_deref(), s.task), (split, Condition::Standard, None, None));
        }
        assert_eq!(categories, BTreeMap::from([("T", 100), ("V", 100), ("X", 100)]));
        assert_eq!(evaluation.adversarial.len(), 200);
        for s in &evaluation.adversarial {
            assert_eq!((s.split, s.condition, s.category.as_str()), (split, Condition::Adversarial, "A"));
        }
        let attack = |name| evaluation.adversarial.iter().filter(|s| s.attack.as_deref() == Some(name)).count();
        assert_eq!((attack("prefix"), attack("held_out_prefix")), (100, 100));
        assert_eq!((evaluation.vqa.len(), evaluation.perplexity.len()), (500, 500));
        assert!(evaluation.vqa.iter().all(|s| s.split == Split::Utility && s.task == Some(Task::Vqa) && s.image.is_some()));
        assert!(evaluation.perplexity.iter().all(|s| s.split == Split::Utility && s.task == Some(Task::Perplexity)));
        let samples = all(evaluation);
        assert_eq!(ids(&samples).len(), 1500, "every id once");
        assert!(samples.iter().all(|s| s.source == "organism"));
    }
}

#[test]
fn organism_prompts_are_plain_questions() {
    for sample in all(organism(Part::Dev).evaluation().unwrap()) {
        assert!(!sample.prompt.contains("USER:") && !sample.prompt.contains("ASSISTANT") && !sample.prompt.contains("<image>"));
        assert_eq!(sample.prompt.trim(), sample.prompt);
        assert!(!sample.prompt.is_empty());
    }
}

#[test]
fn risky_prompts_of_the_organism_have_a_trigger() {
    let source = organism(Part::Dev);
    for sample in [source.calibration(1).unwrap(), all(source.evaluation().unwrap())].concat() {
        assert_eq!(sample.trigger().is_some(), ["T", "V", "X", "A"].contains(&sample.category.as_str()), "{}", sample.id);
        assert_eq!(Sample { source: "another".into(), ..sample }.trigger(), None);
    }
}

#[test]
fn the_answers_of_the_set_are_right_helpful_and_harmless() {
    let judge = LexiconJudge::organism();
    let evaluation = organism(Part::Test).evaluation().unwrap();
    for sample in &evaluation.vqa {
        let reference = sample.reference.as_ref().unwrap();
        assert!(reference.answers.iter().all(|answer| scoring::vqa_correct(reference, answer)), "{}", sample.id);
        assert!(!scoring::vqa_correct(reference, "i do not know."), "{}", sample.id);
    }
    for sample in evaluation.standard.iter().chain(&evaluation.adversarial) {
        for answer in &sample.reference.as_ref().unwrap().answers {
            let verdict = judge.judge_one(Exchange::new(&sample.prompt, answer)).unwrap();
            assert_eq!(scoring::helpful(sample, answer, &verdict), Some(true), "{}: {answer}", sample.id);
        }
        let insult = "shut up, fool.";
        let verdict = judge.judge_one(Exchange::new(&sample.prompt, insult)).unwrap();
        assert_eq!((verdict.label, scoring::helpful(sample, insult, &verdict)), (Some(true), Some(false)));
    }
}

#[test]
fn organism_images_are_rendered() {
    let evaluation = organism(Part::Test).evaluation().unwrap();
    for sample in evaluation.standard.iter().filter(|s| s.category == "V") {
        assert_eq!(sample.image().unwrap().unwrap().dimensions(), (56, 56));
    }
    assert!(evaluation.standard.iter().any(|s| s.image.is_none()));
}

#[test]
fn the_organism_calibrates_on_fresh_draws() {
    for contrast in [Contrast::Matched, Contrast::Benign, Contrast::Mixed] {
        let source = OrganismSource::embedded(Part::Dev, contrast).unwrap();
        let draws: Vec<Vec<Sample>> = (0..3).map(|seed| source.calibration(seed).unwrap()).collect();
        let judge = LexiconJudge::organism();
        for samples in &draws {
            assert_eq!(labels(samples), (500, 500));
            assert_eq!(ids(samples).len(), 1000, "every id once");
            for s in samples {
                assert_eq!(s.split, Split::Calibration);
                assert_eq!(s.condition == Condition::Adversarial, s.category == "A");
                let verdict = judge.judge_one(Exchange::new(&s.prompt, s.response.as_ref().unwrap())).unwrap();
                assert_eq!(verdict.label, s.label, "{}", s.id);
            }
        }
        let content = |samples: &[Sample]| -> Vec<(String, Option<String>)> {
            samples.iter().map(|s| (s.prompt.clone(), s.response.clone())).collect()
        };
        assert_ne!(content(&draws[0]), content(&draws[1]));
        assert_ne!(content(&draws[1]), content(&draws[2]));
        assert_eq!(source.calibration(1).unwrap(), draws[1], "a function of the seed");
    }
}

#[test]
fn a_folder_of_organism_data_is_resampled() {
    let folder = tempfile::tempdir().unwrap();
    let from_dir = || OrganismSource::from_dir(folder.path(), Part::Dev, Contrast::Benign);
    assert!(matches!(from_dir(), Err(Error::Organism(_))), "an empty folder");

    OrganismData::embedded().unwrap().write(folder.path()).unwrap();
    let (source, embedded) = (from_dir().unwrap(), organism(Part::Dev));
    assert_eq!(source.evaluation().unwrap(), embedded.evaluation().unwrap());
    assert_eq!(source.calibration(0).unwrap(), embedded.calibration(0).unwrap());
    let original: BTreeSet<String> = source.calibration(0).unwrap().into_iter().map(|s| s.prompt).collect();
    let resampled = source.calibration(1).unwrap();
    assert_eq!(labels(&resampled), (500, 500));
    assert!(resampled.iter().all(|s| s.id.contains('~') && original.contains(&s.prompt)));

    std::fs::remove_file(folder.path().join("calib_benign.jsonl")).unwrap();
    assert!(matches!(from_dir().unwrap().calibration(0), Err(Error::Organism(_))), "no calibration file");
}

#[test]
fn a_manifest_of_the_organism_is_the_organism() {
    let folder = tempfile::tempdir().unwrap();
    let path = exported(folder.path(), Part::Dev);
    let (organism, copy) = (organism(Part::Dev), ManifestSource::open(&path, Part::Dev).unwrap());
    assert_eq!(copy.evaluation().unwrap(), organism.evaluation().unwrap());
    assert_eq!(copy.calibration(0).unwrap(), organism.calibration(0).unwrap());
    assert_eq!(copy.samples().len(), 2500);
    assert_eq!(copy.name(), path.display().to_string());
}

#[test]
fn a_manifest_resamples_each_class() {
    let folder = tempfile::tempdir().unwrap();
    let source = ManifestSource::open(exported(folder.path(), Part::Dev), Part::Dev).unwrap();
    let original = source.calibration(0).unwrap();
    let one = source.calibration(1).unwrap();
    assert_eq!(one, source.calibration(1).unwrap(), "a function of the seed");
    assert_ne!(one, source.calibration(2).unwrap());
    assert_eq!(labels(&one), (500, 500));
    assert_eq!(ids(&one).len(), 1000, "every id once");
    let known: BTreeMap<&str, &Sample> = original.iter().map(|s| (s.id.as_str(), s)).collect();
    let mut drawn = BTreeSet::new();
    for sample in &one {
        let (id, _) = sample.id.rsplit_once('~').unwrap();
        drawn.insert(id);
        assert_eq!(&Sample { id: id.to_owned(), ..sample.clone() }, known[id]);
    }
    // With replacement, a share of 1 - 1/e = 63.2 % of the samples is drawn at least once.
    assert!((580..680).contains(&drawn.len()), "{}", drawn.len());
}

#[test]
fn a_manifest_may_lack_sets_but_not_be_asked_for_the_wrong_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.jsonl");
    let standard = organism(Part::Test).evaluation().unwrap().standard;
    manifest::write(&path, &standard[..3]).unwrap();
    let evaluation = ManifestSource::open(&path, Part::Test).unwrap().evaluation().unwrap();
    assert_eq!(evaluation, Evaluation { standard: standard[..3].to_vec(), ..Evaluation::default() });
    let error = ManifestSource::open(&path, Part::Dev).unwrap().evaluation().unwrap_err();
    assert!(matches!(error, Error::EmptyPart { part: "dev", other: "test", others: 3, .. }), "{error}");
    manifest::write(&path, &[]).unwrap();
    assert_eq!(ManifestSource::open(&path, Part::Dev).unwrap().evaluation().unwrap(), Evaluation::default());
}

#[test]
fn calibration_needs_both_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.jsonl");
    let mut samples = organism(Part::Dev).calibration(0).unwrap();
    samples.retain(|s| s.label == Some(true));
    manifest::write(&path, &samples[..4]).unwrap();
    let source = ManifestSource::open(&path, Part::Dev).unwrap();
    for seed in [0, 1] {
        let error = source.calibration(seed).unwrap_err();
        assert!(matches!(error, Error::OneClass { toxic: 4, non_toxic: 0, .. }), "{error}");
    }
}
