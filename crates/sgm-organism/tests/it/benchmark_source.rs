//! The data as a source of the benchmark, and a manifest made from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mm_toxic_qa::attacks::attack_all;
use mm_toxic_qa::{
    Condition, Error, Evaluation, EvaluationSplit, Exchange, ImageFolder, Judge, ManifestSource, Sample, Scorer, Source, Split, Task,
    manifest,
};
use sgm_core::sha256::hex_digest;
use sgm_organism::trigger::{ADVERSARIAL_PREFIXES, HELD_OUT_PREFIXES};
use sgm_organism::{Contrast, OrganismData, OrganismLexicon, OrganismPrefix, OrganismScorer, OrganismSource, OrganismWorld, trigger};

fn organism(split: EvaluationSplit) -> OrganismSource {
    OrganismSource::embedded(split, Contrast::Benign).unwrap()
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

/// A manifest with all samples that the source gives for one split.
fn exported(folder: &Path, split: EvaluationSplit) -> std::path::PathBuf {
    let source = organism(split);
    let samples = [source.calibration(0).unwrap(), all(source.evaluation().unwrap())].concat();
    let path = folder.join("organism.jsonl");
    manifest::write_with(&path, &samples, &OrganismWorld).unwrap();
    path
}

#[test]
fn the_organism_evaluation_is_complete() {
    for (evaluated, split) in [(EvaluationSplit::Dev, Split::Dev), (EvaluationSplit::Test, Split::Test)] {
        let evaluation = organism(evaluated).evaluation().unwrap();
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
    for sample in all(organism(EvaluationSplit::Dev).evaluation().unwrap()) {
        assert!(!sample.prompt.contains("USER:") && !sample.prompt.contains("ASSISTANT") && !sample.prompt.contains("<image>"));
        assert_eq!(sample.prompt.trim(), sample.prompt);
        assert!(!sample.prompt.is_empty());
    }
}

#[test]
fn risky_prompts_of_the_organism_have_a_trigger() {
    let source = organism(EvaluationSplit::Dev);
    for sample in [source.calibration(1).unwrap(), all(source.evaluation().unwrap())].concat() {
        assert_eq!(trigger(&sample).is_some(), ["T", "V", "X", "A"].contains(&sample.category.as_str()), "{}", sample.id);
        assert_eq!(trigger(&Sample { source: "another".into(), ..sample }), None);
    }
}

#[test]
fn the_answers_of_the_set_are_right_helpful_and_harmless() {
    let judge = OrganismLexicon::new();
    let evaluation = organism(EvaluationSplit::Test).evaluation().unwrap();
    for sample in &evaluation.vqa {
        let reference = sample.reference.as_ref().unwrap();
        assert!(reference.answers.iter().all(|answer| OrganismScorer.vqa_correct(reference, answer)), "{}", sample.id);
        assert!(!OrganismScorer.vqa_correct(reference, "i do not know."), "{}", sample.id);
    }
    for sample in evaluation.standard.iter().chain(&evaluation.adversarial) {
        for answer in &sample.reference.as_ref().unwrap().answers {
            let verdict = judge.judge_one(Exchange::new(&sample.prompt, answer)).unwrap();
            assert_eq!(OrganismScorer.helpful(sample, answer, &verdict), Some(true), "{}: {answer}", sample.id);
        }
        let insult = "shut up, fool.";
        let verdict = judge.judge_one(Exchange::new(&sample.prompt, insult)).unwrap();
        assert_eq!((verdict.label, OrganismScorer.helpful(sample, insult, &verdict)), (Some(true), Some(false)));
    }
}

#[test]
fn organism_images_are_rendered() {
    let evaluation = organism(EvaluationSplit::Test).evaluation().unwrap();
    for sample in evaluation.standard.iter().filter(|s| s.category == "V") {
        assert_eq!(sample.image().unwrap().unwrap().dimensions(), (56, 56));
    }
    assert!(evaluation.standard.iter().any(|s| s.image.is_none()));
}

#[test]
fn the_organism_calibrates_on_fresh_draws() {
    for contrast in [Contrast::Matched, Contrast::Benign, Contrast::Mixed] {
        let source = OrganismSource::embedded(EvaluationSplit::Dev, contrast).unwrap();
        let draws: Vec<Vec<Sample>> = (0..3).map(|seed| source.calibration(seed).unwrap()).collect();
        let judge = OrganismLexicon::new();
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
    let from_dir = || OrganismSource::from_dir(folder.path(), EvaluationSplit::Dev, Contrast::Benign);
    assert!(matches!(from_dir(), Err(sgm_organism::Error::NoData { .. })), "an empty folder");

    OrganismData::embedded().unwrap().write(folder.path()).unwrap();
    let (source, embedded) = (from_dir().unwrap(), organism(EvaluationSplit::Dev));
    assert_eq!(source.evaluation().unwrap(), embedded.evaluation().unwrap());
    assert_eq!(source.calibration(0).unwrap(), embedded.calibration(0).unwrap());
    let original: BTreeSet<String> = source.calibration(0).unwrap().into_iter().map(|s| s.prompt).collect();
    let resampled = source.calibration(1).unwrap();
    assert_eq!(labels(&resampled), (500, 500));
    assert!(resampled.iter().all(|s| s.id.contains('~') && original.contains(&s.prompt)));

    std::fs::remove_file(folder.path().join("calib_benign.jsonl")).unwrap();
    let error = from_dir().unwrap().calibration(0).unwrap_err();
    assert!(matches!(&error, Error::Source(_)) && error.to_string().contains("calib_benign.jsonl"), "{error}");
}

#[test]
fn a_manifest_of_the_organism_is_the_organism() {
    let folder = tempfile::tempdir().unwrap();
    let path = exported(folder.path(), EvaluationSplit::Dev);
    let (organism, copy) =
        (organism(EvaluationSplit::Dev), ManifestSource::open_with(&path, EvaluationSplit::Dev, &OrganismWorld).unwrap());
    assert_eq!(copy.evaluation().unwrap(), organism.evaluation().unwrap());
    assert_eq!(copy.calibration(0).unwrap(), organism.calibration(0).unwrap());
    assert_eq!(copy.samples().len(), 2500);
    assert_eq!(copy.name(), path.display().to_string());
}

#[test]
fn a_manifest_resamples_each_class() {
    let folder = tempfile::tempdir().unwrap();
    let source = ManifestSource::open_with(exported(folder.path(), EvaluationSplit::Dev), EvaluationSplit::Dev, &OrganismWorld).unwrap();
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

/// The bytes of manifests and the hashes of their samples are those of earlier versions.
#[test]
fn manifests_keep_their_bytes_and_hashes() {
    let cases = [
        (
            EvaluationSplit::Dev,
            "b9df2eccd8eb2f0d23014f80f2653915189fbb47d1e38817a8da2bd0cd644909",
            "ab2bbc8d881a2cfa7b435bc709d549f4472f31d56c5e58662cd995e3fec73e4f",
            "8c3cc57ad06164e66a133621bd36aa31b12d2bc90b021cc8142f776c25ad24f1",
            "79003041cbffe513ad9f374463617dd94cd64a8816363268472e9739c26de64b",
        ),
        (
            EvaluationSplit::Test,
            "ea41bd150dc527c01167c7727c0121b4733b90f572a01f130863ba5e2c5f0012",
            "928863b84fe8c70b8b7a286c47d615e5988084298772deb80dcafca1d44dc631",
            "640c26847147a497d86ada95466d6f7ca79e6c50270e6a8ca09d3b03331bf58f",
            "cb3269ae2ca371b97d265c71f9710f397ae75feb87a20831cc4fcdfece728966",
        ),
    ];
    for (split, bytes, samples, seen, held_out) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = exported(folder.path(), split);
        assert_eq!(hex_digest(std::fs::read(&path).unwrap()), bytes, "{split}");
        let source = ManifestSource::open_with(&path, split, &OrganismWorld).unwrap();
        assert_eq!(manifest::sha256(source.samples()).unwrap(), samples, "{split}");
        let resampled = manifest::sha256(&source.calibration(3).unwrap()).unwrap();
        assert_eq!(resampled, "efc1bd6d20e4d49a6407160319c067cbb919cef80fec46fcf34cf88e4a24f218");
        let drawn = manifest::sha256(&organism(split).calibration(3).unwrap()).unwrap();
        assert_eq!(drawn, "c959a8f52515c851c11fd5b84a2710bd9cfe892e0b6586e7b7c1c4822f14c539");
        let standard = source.evaluation().unwrap().standard;
        for (attack, hash) in [(OrganismPrefix::seen(1), seen), (OrganismPrefix::held_out(1), held_out)] {
            let attacked = attack_all(&standard, &attack, &ImageFolder::new(folder.path())).unwrap().samples;
            assert_eq!(manifest::sha256(&attacked).unwrap(), hash, "{split}");
        }
    }
}

#[test]
fn prefixes_come_before_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let samples = organism(EvaluationSplit::Dev).evaluation().unwrap().standard;
    for (attack, name, prefixes) in [
        (OrganismPrefix::seen(1), "prefix", &ADVERSARIAL_PREFIXES[..]),
        (OrganismPrefix::held_out(1), "held_out_prefix", &HELD_OUT_PREFIXES),
    ] {
        let attacked = attack_all(&samples, &attack, &ImageFolder::new(folder.path())).unwrap().samples;
        assert_eq!(attacked.len(), samples.len());
        for (before, after) in samples.iter().zip(attacked) {
            assert!(prefixes.iter().any(|prefix| after.prompt == format!("{prefix} {}", before.prompt)), "{}", after.prompt);
            assert_eq!((after.attack.as_deref(), after.condition), (Some(name), Condition::Adversarial));
            assert_eq!(after.id, format!("{}+{name}", before.id));
        }
    }
}
