//! Synthetic worlds: their scenes and reference kinds are read, written and scored with the world, and refused without.

use std::path::Path;
use std::sync::Arc;

use mm_toxic_qa::{
    Benchmark, Condition, Error, Evaluation, EvaluationSplit, ImageRef, ManifestSource, Reference, ReferenceScorer, Sample, Scene, Source,
    Split, Task, World, manifest,
};

use crate::greys::{Grey, GreyScorer, Greys};

fn sample(id: &str, level: u8, kind: &str) -> Sample {
    Sample {
        id: id.into(),
        source: "greys".into(),
        split: Split::Dev,
        category: "c".into(),
        condition: Condition::Standard,
        attack: None,
        image: Some(ImageRef::Scene(Arc::new(Grey(level)))),
        prompt: "how grey is it?".into(),
        response: None,
        label: None,
        reference: Some(Reference { kind: kind.into(), key: Some(vec![level.to_string()]), answers: vec![] }),
        task: None,
        subcategory: None,
        request: None,
    }
}

/// The same without its image.
fn blind(sample: Sample) -> Sample {
    Sample { image: None, ..sample }
}

#[test]
fn equal_scenes_have_equal_json() {
    let scene = |level| -> Arc<dyn Scene> { Arc::new(Grey(level)) };
    assert_eq!(ImageRef::Scene(scene(7)), ImageRef::Scene(scene(7)));
    assert_ne!(ImageRef::Scene(scene(7)), ImageRef::Scene(scene(8)));
    let seven = scene(7);
    let any: &dyn std::any::Any = seven.as_ref();
    assert_eq!(any.downcast_ref::<Grey>().map(|grey| grey.0), Some(7));
}

#[test]
fn a_manifest_with_scenes_is_read_with_its_world() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.jsonl");
    let samples = vec![sample("a", 7, "greys/level"), sample("b", 9, "greys/talk")];
    manifest::write_with(&path, &samples, &Greys).unwrap();
    assert_eq!(manifest::read_with(&path, &Greys).unwrap(), samples);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""image":{"scene":{"level":7,"form":"dot"}}"#), "the scene's own text: {text}");
    let source = ManifestSource::open_with(&path, EvaluationSplit::Dev, &Greys).unwrap();
    assert_eq!(source.samples(), samples);
    assert_eq!(source.samples()[0].image().unwrap().unwrap().get_pixel(0, 0).0, [7; 3]);
    let benchmark = Benchmark::with_scorer(source.evaluation().unwrap(), source.scorer()).unwrap();
    assert_eq!(benchmark.prompts().0.len(), 2);
    // Another scene, another hash; the hash needs no world.
    let hash = manifest::sha256(&samples).unwrap();
    assert_ne!(manifest::sha256(&[sample("a", 8, "greys/level"), samples[1].clone()]).unwrap(), hash);
}

#[test]
fn scenes_without_their_world_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.jsonl");
    let open = Sample { reference: None, ..sample("b", 9, "") };
    let samples = [blind(sample("a", 7, "open")), open];
    let samples = samples.map(|s| Sample { reference: None, ..s });
    manifest::write_with(&path, &samples, &Greys).unwrap();
    let error = ManifestSource::open(&path, EvaluationSplit::Dev).unwrap_err();
    assert!(matches!(error, Error::NoWorld { line: 2, .. }), "{error}");
    assert!(error.to_string().contains("`manifest::read_with`"), "{error}");
    let other = folder.path().join("other.jsonl");
    assert!(matches!(manifest::write(&other, &samples), Err(Error::NoWorld { line: 2, .. })));
    assert!(!other.exists());
}

#[test]
fn kinds_without_their_scorer_are_refused() {
    let parse = |kind: &str, world: Option<&dyn World>| {
        let line = format!(
            r#"{{"schema": 1, "id": "i", "source": "s", "split": "utility", "task": "vqa", "category": "c", "condition": "standard",
                "prompt": "p", "reference": {{"kind": "{kind}", "key": ["7"], "answers": ["7"]}}}}"#
        )
        .replace('\n', " ");
        match world {
            None => manifest::parse(line.as_bytes(), Path::new("m")),
            Some(world) => manifest::parse_with(line.as_bytes(), Path::new("m"), world),
        }
    };
    assert!(parse("open", None).is_ok() && parse("open", Some(&Greys)).is_ok() && parse("greys/level", Some(&Greys)).is_ok());
    for (kind, world) in [("greys/level", None), ("mars/level", Some(&Greys as &dyn World)), ("mars/level", None)] {
        let error = parse(kind, world).unwrap_err();
        let named = kind.split('/').next().unwrap();
        assert!(matches!(&error, Error::UnknownKind { line: 1, kind: k, world: w, .. } if k == kind && w == named), "{error}");
    }
    assert!(matches!(parse("greys/talk", Some(&Greys)), Err(Error::InvalidField { field: "reference.kind", .. })));
}

#[test]
fn nothing_is_scored_by_the_wrong_rule() {
    let vqa = |kind| Sample { split: Split::Utility, task: Some(Task::Vqa), ..sample("v", 7, kind) };
    let risky = || sample("r", 7, "greys/level");
    for evaluation in [
        Evaluation { standard: vec![risky()], ..Evaluation::default() },
        Evaluation { adversarial: vec![risky()], ..Evaluation::default() },
        Evaluation { vqa: vec![vqa("greys/level")], ..Evaluation::default() },
    ] {
        let error = Benchmark::new(evaluation.clone()).unwrap_err();
        assert!(matches!(&error, Error::NoScorer { kind, world, .. } if kind == "greys/level" && world == "greys"), "{error}");
        assert!(Benchmark::with_scorer(evaluation.clone(), Arc::new(ReferenceScorer)).is_err());
        assert!(Benchmark::with_scorer(evaluation, Arc::new(GreyScorer)).is_ok());
    }
    // A perplexity text is not scored by a reference.
    let text = Sample { split: Split::Utility, task: Some(Task::Perplexity), response: Some("7".into()), ..risky() };
    assert!(Benchmark::new(Evaluation { perplexity: vec![text], ..Evaluation::default() }).is_ok());
    let evaluation = Evaluation { vqa: vec![vqa("mars/level")], ..Evaluation::default() };
    assert!(matches!(Benchmark::with_scorer(evaluation, Arc::new(GreyScorer)), Err(Error::NoScorer { world, .. }) if world == "mars"));
}

#[test]
fn scenes_that_cannot_be_drawn_are_errors() {
    let white = sample("w", 255, "greys/level");
    assert!(matches!(white.image(), Err(Error::Scene { id, .. }) if id == "w"));
    let folder = tempfile::tempdir().unwrap();
    let written = manifest::write_with(&folder.path().join("m.jsonl"), &[white], &Greys);
    assert!(matches!(written, Err(Error::InvalidField { field: "image.scene", line: 1, .. })), "it could not be read again");
}

/// A scene with invalid JSON.
#[derive(Debug)]
struct Broken(&'static str);

impl Scene for Broken {
    fn render(&self) -> Result<image::RgbImage, mm_toxic_qa::BoxError> {
        Err("broken".into())
    }

    fn to_json(&self) -> String {
        self.0.to_owned()
    }
}

#[test]
fn a_scene_is_one_line_of_json() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.jsonl");
    for text in ["", "{", "{\"level\":\n7}", "7 7"] {
        let sample = Sample { image: Some(ImageRef::Scene(Arc::new(Broken(text)))), ..sample("s", 7, "greys/level") };
        let written = manifest::write_with(&path, std::slice::from_ref(&sample), &Greys);
        assert!(matches!(written, Err(Error::InvalidField { field: "image.scene", .. })), "{text:?}");
        assert!(matches!(manifest::sha256(&[sample]), Err(Error::Scene { .. })), "{text:?}");
    }
}
