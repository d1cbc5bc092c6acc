//! Capture on the organism: the store depends on the model, the samples and the settings, and on nothing else.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sgm::capture::{ActivationStore, Capture, Error, Example, Examples, NonFinite, Pool, PooledTap, Pooling, StoreDtype, verify};
use sgm::models::{AutoMllm, Checkpoint, Mllm, Prompt, TokenSelection};
use sgm::organism::{Contrast, OrganismSource};
use sgm::toxic_qa::{EvaluationSplit, Source};

fn examples(count: usize) -> Vec<Example> {
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap().calibration(0).unwrap();
    let example = |s: sgm::toxic_qa::Sample| Example {
        prompt: s.as_prompt().unwrap(),
        response: s.response.unwrap_or_default(),
        toxic: s.label == Some(true),
        unfinished: false,
        id: s.id,
    };
    // Of both classes, which follow each other.
    let step = samples.len() / count;
    samples.into_iter().step_by(step).take(count).map(example).collect()
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn settings() -> Capture {
    let poolings =
        vec![Pooling { pool: Pool::Mean, tokens: TokenSelection::Text }, Pooling { pool: Pool::Max, tokens: TokenSelection::All }];
    Capture { batch_size: 3, shard_samples: Some(5), ..Capture::new(poolings) }
}

#[test]
fn workers_threads_and_interruptions_leave_no_trace() {
    let model = sgm::organism::load().unwrap();
    let samples = examples(20);
    let samples = Examples::from_slice(&samples);
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let done = settings().run(&model, &samples, &whole).unwrap();
    // Shards are whole batches: 6, 6, 6 and 2 samples.
    assert_eq!((done.samples, done.written, done.found, done.finished), (20, 4, 0, true));
    assert_eq!(model.taps().len(), 0);

    let shared = dir.path().join("shared");
    for i in [2, 0, 1] {
        let capture = Capture { partition: format!("{i}/3").parse().unwrap(), ..settings() };
        let done = capture.run(&model, &samples, &shared).unwrap();
        assert_eq!(done.finished, i == 1);
    }
    assert_eq!(files(&shared), files(&whole));

    let single = dir.path().join("single");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| settings().run(&model, &samples, &single)).unwrap();
    assert_eq!(files(&single), files(&whole));

    // Shards vanish, as if they had never been written.
    for shard in ["shard-00001", "shard-00003"] {
        std::fs::remove_file(shared.join(format!("{shard}.json"))).unwrap();
    }
    std::fs::rename(shared.join("manifest.json"), shared.join("unfinished.json")).unwrap();
    let done = Capture { resume: true, ..settings() }.run(&model, &samples, &shared).unwrap();
    assert_eq!((done.samples, done.written, done.found), (8, 2, 2));
    assert_eq!(files(&shared), files(&whole));
    assert!(verify(&shared).unwrap().is_sound());
}

#[test]
fn resuming_with_anything_else_names_it() {
    let model = sgm::organism::load().unwrap();
    let some = examples(4);
    let samples = Examples::from_slice(&some);
    let dir = tempfile::tempdir().unwrap();
    settings().run(&model, &samples, dir.path()).unwrap();
    assert!(matches!(settings().run(&model, &samples, dir.path()), Err(Error::Exists { .. })));
    let settings = Capture { resume: true, ..settings() };
    let named = |name: &str, result: sgm::capture::Result<_>| match result {
        Err(Error::Differs { what, .. }) => assert!(what.contains(name), "{what}"),
        other => panic!("{name}: {other:?}"),
    };
    let pooling = Pooling { pool: Pool::Max, tokens: TokenSelection::Response };
    named("poolings", Capture { poolings: vec![pooling], ..settings.clone() }.run(&model, &samples, dir.path()));
    named("dtype", Capture { dtype: StoreDtype::F16, ..settings.clone() }.run(&model, &samples, dir.path()));
    named("batch_size", Capture { batch_size: 2, ..settings.clone() }.run(&model, &samples, dir.path()));
    named("non_finite", Capture { non_finite: NonFinite::Keep, ..settings.clone() }.run(&model, &samples, dir.path()));
    let mut other = some.clone();
    other[3].response.push('!');
    named("samples_sha256", settings.run(&model, &Examples::from_slice(&other), dir.path()));
    let glasses = sgm::suppress::Glasses::wear(&model, &sgm::core::Intervention::default(), sgm::suppress::Amplify::Refuse).unwrap();
    named("taps", settings.run(&model, &samples, dir.path()));
    drop(glasses);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden/llava_mha");
    let another = AutoMllm::load(&Checkpoint::open(golden).unwrap()).unwrap();
    named("weights", settings.run(&another, &samples, dir.path()));
    settings.run(&model, &samples, dir.path()).unwrap();
}

#[test]
fn the_weights_of_a_model_are_told_apart() {
    let copy = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden/llava_mha");
    for entry in std::fs::read_dir(&golden).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let weights = |path: &Path| AutoMllm::load(&Checkpoint::open(path).unwrap()).unwrap().info().weights.clone().unwrap();
    assert_eq!(weights(copy.path()), weights(&golden));
    let file = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_ne!(weights(copy.path()), weights(&golden));
}

#[test]
fn samples_are_pooled_alone_as_in_a_batch_and_in_every_dtype() {
    let model = sgm::organism::load().unwrap();
    let some = examples(7);
    let samples = Examples::from_slice(&some);
    let dir = tempfile::tempdir().unwrap();
    let poolings: Vec<_> = Pool::ALL.into_iter().map(|pool| Pooling { pool, tokens: TokenSelection::Response }).collect();
    let run = |name: &str, capture: Capture| {
        capture.run(&model, &samples, &dir.path().join(name)).unwrap();
        ActivationStore::open(dir.path().join(name)).unwrap()
    };
    let alone = run("alone", Capture::new(poolings.clone()));
    let batched = run("batched", Capture { batch_size: 7, ..Capture::new(poolings.clone()) });
    let half = run("half", Capture { dtype: StoreDtype::F16, ..Capture::new(poolings.clone()) });
    let of_pool = |store: &ActivationStore, pooling: &str| store.clone().with_pooling(pooling).unwrap();
    for pooling in &poolings {
        let of = |store: &ActivationStore| of_pool(store, &pooling.to_string());
        for site in alone.sites().keys() {
            let (a, b, c) = (of(&alone).read(*site).unwrap(), of(&batched).read(*site).unwrap(), of(&half).read(*site).unwrap());
            // Padding is not pooled; sums of other shapes of batches round differently, by parts of the largest value.
            let largest = of_pool(&alone, "maxabs/response").read(*site).unwrap().into_iter().fold(0f32, f32::max);
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 3e-6 * largest), "{pooling} {site}");
            assert!(a.iter().zip(&c).all(|(a, c)| half::f16::from_f32(*a).to_f32() == *c), "{pooling} {site}");
        }
    }
}

#[test]
fn tokens_that_all_samples_begin_with_are_pooled_as_if_every_sample_had_run_them() {
    let model = sgm::organism::load().unwrap();
    let some: Vec<Example> = examples(9)
        .into_iter()
        .zip(["hello.", "thank you.", "tell me a story about a fox."].into_iter().cycle())
        .map(|(example, question)| {
            let text = format!("hello. what colour is the ring? tell me a story about a fox. {question}");
            Example { prompt: Prompt::Raw { text, images: Vec::new() }, ..example }
        })
        .collect();
    let poolings: Vec<_> = [TokenSelection::All, TokenSelection::Prompt]
        .into_iter()
        .flat_map(|tokens| Pool::ALL.map(|pool| Pooling { pool, tokens }))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, batch_size: usize| {
        let capture = Capture { batch_size, ..Capture::new(poolings.clone()) };
        let summary = capture.run(&model, &Examples::from_slice(&some), &dir.path().join(name)).unwrap();
        (ActivationStore::open(dir.path().join(name)).unwrap(), summary.shared_tokens)
    };
    let (shared, tokens) = run("shared", 1);
    assert!(tokens > 8, "{tokens}");
    let (batched, tokens_of_batches) = run("batched", 4);
    assert_eq!(tokens_of_batches, tokens);
    // A tap of someone else may act on whole prompts.
    let attached = model.taps().attach(Arc::new(PooledTap::new(Vec::new())));
    let (whole, none) = run("whole", 1);
    drop(attached);
    assert_eq!(none, 0);
    for pooling in &poolings {
        let of = |store: &ActivationStore| store.clone().with_pooling(&pooling.to_string()).unwrap();
        let largest = whole.clone().with_pooling("maxabs/all").unwrap();
        for site in whole.sites().keys() {
            let (a, b, c) = (of(&whole).read(*site).unwrap(), of(&shared).read(*site).unwrap(), of(&batched).read(*site).unwrap());
            let largest = largest.read(*site).unwrap().into_iter().fold(0f32, f32::max);
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 3e-6 * largest), "{pooling} {site}");
            assert!(a.iter().zip(&c).all(|(a, c)| (a - c).abs() <= 3e-6 * largest), "{pooling} {site}");
        }
    }
}

#[test]
fn samples_that_cannot_be_made_are_named_and_the_rest_stays() {
    let model = sgm::organism::load().unwrap();
    let some = examples(6);
    let dir = tempfile::tempdir().unwrap();
    let broken = Examples::new(6, "hash".to_owned(), |n| if n == 4 { Err("its image is gone".into()) } else { Ok(some[n].clone()) });
    let capture = Capture { batch_size: 1, shard_samples: Some(2), ..settings() };
    let error = capture.run(&model, &broken, dir.path()).unwrap_err();
    assert!(matches!(error, Error::Source { number: 4, .. }) && error.to_string().contains("its image is gone"), "{error}");
    let whole = Examples::new(6, "hash".to_owned(), |n| Ok(some[n].clone()));
    let done = Capture { resume: true, ..capture }.run(&model, &whole, dir.path()).unwrap();
    assert_eq!((done.found, done.written, done.finished), (2, 1, true));
}

#[test]
fn numbers_that_overflow_are_kept_and_counted_if_asked_for() {
    let copy = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden/llava_mha");
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let start = &json["language_model.model.layers.1.mlp.down_proj.weight"]["data_offsets"][0];
    let start = header + usize::try_from(start.as_u64().unwrap()).unwrap();
    bytes[start..start + 4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    std::fs::write(file, bytes).unwrap();
    let model = AutoMllm::load(&Checkpoint::open(copy.path()).unwrap()).unwrap();
    let example =
        Example { id: "a".to_owned(), prompt: Prompt::user("hello?", None), response: "hello.".to_owned(), toxic: true, unfinished: false };
    let samples = [example];
    let samples = Examples::from_slice(&samples);
    // The maximum alone would hide a negative infinity.
    let capture = Capture::new(vec![Pooling { pool: Pool::Last, tokens: TokenSelection::All }]);
    let error = capture.run(&model, &samples, &copy.path().join("refused")).unwrap_err();
    assert!(matches!(&error, Error::NotFinite { site, neuron: 0, .. } if site == "lm.layers.1.mlp.down_proj"), "{error}");
    let kept = copy.path().join("kept");
    Capture { non_finite: NonFinite::Keep, ..capture }.run(&model, &samples, &kept).unwrap();
    let counts = ActivationStore::open(&kept).unwrap().non_finite().clone();
    assert!(counts[&"lm.layers.1.mlp.down_proj".parse().unwrap()] > 1, "{counts:?}");
    assert!(!counts.contains_key(&"lm.layers.0.mlp.up_proj".parse().unwrap()), "{counts:?}");
}
