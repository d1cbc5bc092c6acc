//! Adaptive glasses: sequences that the probe finds benign keep their bits, the others are those of static glasses, and the cache makes no
//! difference.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod worn;

use std::collections::BTreeMap;

use candle_core::{Device, IndexOp, Tensor};
use sgm::capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm::core::{Dose, Gate, Probe};
use sgm::models::{AutoMllm, EosPolicy, GenerateOptions, Mllm, ModelInputs, Padding, Prompt, TokenKind, TokenMask, generate_tokens};
use sgm::suppress::{AdaptiveGlasses, Amplify, Detector, Error, Glasses, ProbeOptions, Wear, fit_probe, score_prompts};
use sgm::toxic_qa::{Contrast, OrganismSource, Part, Source};
use worn::{bits, difference, glasses, with_patches};

fn prompts() -> Vec<Prompt> {
    ["what colour is the ring?", "you fool. what do you see?", "is there a ring in the picture?", "describe the picture, idiot."]
        .map(|text| Prompt::user(text, None))
        .to_vec()
}

/// A probe of all neurons with weights in both directions.
fn probe(model: &AutoMllm, gate: Gate) -> Probe {
    let mut probe = Probe::new(0.0, gate);
    for info in &model.info().sites {
        let weight = |neuron: usize| if (neuron * 7 + info.site.layer).is_multiple_of(3) { 0.004 } else { -0.002 };
        probe.insert(info.site, (0..info.width).map(weight).collect()).unwrap();
    }
    probe
}

fn logits(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    model.logits(&model.prefill(inputs, &mut model.new_cache()).unwrap()).unwrap()
}

/// The value between the middle ones.
fn between(scores: impl Iterator<Item = f32>) -> f32 {
    let mut scores: Vec<f32> = scores.collect();
    scores.sort_unstable_by(f32::total_cmp);
    let middle = scores.len() / 2;
    assert!(scores[middle - 1] < scores[middle], "{scores:?}");
    (scores[middle - 1] + scores[middle]) / 2.0
}

#[test]
fn benign_sequences_keep_their_bits_and_risky_ones_are_those_of_static_glasses() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let plain = logits(&model, &inputs);
    let scores = {
        let detector = Detector::attach(&model, &probe(&model, Gate::default())).unwrap();
        assert_eq!(bits(&logits(&model, &inputs)), bits(&plain), "a detector changes nothing");
        detector.take_scores()
    };
    let on = between(scores.values().map(|s| s[0]));
    let mut adaptive = with_patches(&model, glasses(&model));
    let still = {
        let _static = Glasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
        logits(&model, &inputs)
    };
    adaptive.probe = Some(probe(&model, Gate { on, off: 0.0, watch: false }));
    let worn = AdaptiveGlasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
    let through = logits(&model, &inputs);
    assert_eq!(worn.take_scores(), scores, "scores are those without glasses");
    let mut risky = 0;
    for row in 0..prompts().len() {
        let same_as = if scores[&row][0] >= on { &still } else { &plain };
        risky += usize::from(scores[&row][0] >= on);
        assert_eq!(bits(&through.i(row).unwrap()), bits(&same_as.i(row).unwrap()), "row {row}");
    }
    assert_eq!(risky, 2);
    assert!(difference(&still, &plain) > 0.01, "the glasses do something");
    drop(worn);
    assert_eq!(bits(&logits(&model, &inputs)), bits(&plain), "dropped");
}

#[test]
fn tokens_behind_an_open_gate_are_those_of_static_glasses_and_behind_a_closed_one_the_plain_models() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let decoded = || {
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        [3, 5, 8].map(|token| bits(&model.decode(&[token; 4], &mut cache).unwrap()))
    };
    let plain = decoded();
    let mut adaptive = with_patches(&model, glasses(&model));
    let still = {
        let _static = Glasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
        decoded()
    };
    assert_ne!(still, plain);
    for (on, expected) in [(0.0, &still), (1.0, &plain)] {
        adaptive.probe = Some(probe(&model, Gate { on, off: 0.0, watch: false }));
        let _worn = AdaptiveGlasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
        assert_eq!(&decoded(), expected, "gate at {on}");
        // Another tap that wants tensors makes no difference.
        let _detector = Detector::attach(&model, &probe(&model, Gate::default())).unwrap();
        assert_eq!(&decoded(), expected, "gate at {on}, beside a detector");
    }
}

#[test]
fn scores_come_in_the_order_of_the_prompts() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let probe = probe(&model, Gate::default());
    let detector = Detector::attach(&model, &probe).unwrap();
    logits(&model, &inputs);
    let expected = detector.take_scores();
    drop(detector);
    // Batches put the prompts in another order, and pad them less.
    let scores = score_prompts(&model, &probe, &prompts(), 2).unwrap();
    assert_eq!(scores.len(), prompts().len());
    assert!(scores.iter().enumerate().all(|(row, score)| (score - expected[&row][0]).abs() < 1e-6), "{scores:?} {expected:?}");
    assert!(model.taps().is_empty());
}

#[test]
fn the_dose_follows_the_log_odds_of_the_prompt() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let scores = {
        let detector = Detector::attach(&model, &probe(&model, Gate::default())).unwrap();
        logits(&model, &inputs);
        detector.take_scores()
    };
    let log_odds = |row: usize| (scores[&row][0] / (1.0 - scores[&row][0])).ln();
    let all: Vec<f32> = (0..prompts().len()).map(log_odds).collect();
    let (low, high) = (all.iter().copied().fold(f32::MAX, f32::min), all.iter().copied().fold(f32::MIN, f32::max));
    let dose = Dose { least: 0.25, from: low + (high - low) / 4.0, full: high - (high - low) / 4.0 };
    let mut adaptive = with_patches(&model, glasses(&model));
    let mut gated = probe(&model, Gate { on: 0.0, off: 0.0, watch: false });
    gated.dose = Some(dose);
    adaptive.probe = Some(gated);
    let dosed = {
        let _worn = AdaptiveGlasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
        logits(&model, &inputs)
    };
    let rows: BTreeMap<usize, f32> = all.iter().map(|z| dose.strength(f64::from(*z))).enumerate().collect();
    assert!(rows.values().any(|s| *s == 0.25) && rows.values().any(|s| *s == 1.0), "{rows:?}");
    let _worn = Glasses::wear_with(&model, &adaptive, Wear { rows, ..Wear::default() }).unwrap();
    let by_hand = logits(&model, &inputs);
    // Log-odds from rounded scores differ in the last digits.
    assert!(difference(&dosed, &by_hand) <= 1e-5);
}

#[test]
fn cached_equals_recomputed_whatever_switches_when() {
    const STEPS: usize = 8;
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let before = inputs.kinds[0].len();
    let options = GenerateOptions { max_new_tokens: STEPS, eos: EosPolicy::Ignore, ..Default::default() };
    let scores = {
        let detector = Detector::attach(&model, &probe(&model, Gate::default())).unwrap();
        generate_tokens(&model, &inputs, &options).unwrap();
        detector.take_scores()
    };
    assert!(scores.values().all(|s| s.len() == STEPS), "the last token is not read");
    let prompts_only = between(scores.values().map(|s| s[0]));
    for (watch, middle) in [(false, prompts_only), (true, between(scores.values().flatten().copied()))] {
        let gate = Gate { on: middle, off: middle * 0.98, watch };
        let mut adaptive = with_patches(&model, glasses(&model));
        adaptive.probe = Some(probe(&model, gate));
        let worn = AdaptiveGlasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
        let answers = generate_tokens(&model, &inputs, &options).unwrap();
        worn.take_scores();
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        let steps: Vec<Vec<u32>> = (0..STEPS).map(|step| answers.iter().map(|(tokens, _)| tokens[step]).collect()).collect();
        let decoded: Vec<_> = steps.iter().map(|step| model.logits(&model.decode(step, &mut cache).unwrap()).unwrap()).collect();
        let step_by_step = worn.take_scores();
        let rows: Vec<Vec<u32>> = answers.iter().map(|(tokens, _)| tokens.clone()).collect();
        let mut longer = inputs.clone();
        longer.input_ids = Tensor::cat(&[&inputs.input_ids, &Tensor::new(rows, &Device::Cpu).unwrap()], 1).unwrap();
        longer.kinds.iter_mut().for_each(|row| row.extend([TokenKind::Response; STEPS]));
        let whole = logits(&model, &longer).narrow(1, before, STEPS).unwrap();
        let at_once = worn.take_scores();
        let gap = difference(&Tensor::cat(&decoded, 1).unwrap(), &whole);
        assert!(gap <= 1e-5, "watch {watch}: {gap}");
        let switched = |scores: &Vec<f32>| {
            let on = |score: &f32| *score >= middle;
            scores.iter().any(on) && !scores.iter().all(on)
        };
        let all = step_by_step.values().flatten().copied().collect();
        assert!(if watch { step_by_step.values().any(switched) } else { switched(&all) }, "something switches");
        for (row, scores) in &step_by_step {
            assert_eq!((scores.len(), at_once[row].len()), if watch { (STEPS + 1, STEPS + 1) } else { (1, 1) });
            assert!(scores.iter().zip(&at_once[row]).all(|(a, b)| (a - b).abs() <= 1e-4), "row {row}: {scores:?} {:?}", at_once[row]);
        }
    }
}

#[test]
fn a_probe_fitted_to_the_prompts_end_tells_unseen_prompts_apart() {
    let model = sgm::organism::load().unwrap();
    let samples = OrganismSource::embedded(Part::Dev, Contrast::Benign).unwrap().calibration(0).unwrap();
    let step = samples.len() / 240;
    let examples: Vec<Example> = samples
        .into_iter()
        .step_by(step)
        .map(|s| Example {
            prompt: s.as_prompt().unwrap(),
            response: s.response.unwrap_or_default(),
            toxic: s.label == Some(true),
            id: s.id,
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    Capture::new(vec![Pooling { pool: Pool::Last, mask: TokenMask::Prompt }]).run(&model, &Examples::from_slice(&examples), &path).unwrap();
    let store = ActivationStore::open(&path).unwrap();
    let fitted = fit_probe(&store, ProbeOptions::default(), |site, _| site.layer >= 3).unwrap();
    assert!(fitted.probe.weights().values().flatten().any(|w| *w != 0.0));
    let auroc = sgm::score::auroc(&fitted.unseen, store.labels()).unwrap();
    assert!(auroc > 0.9, "{auroc}");
    // The probe reads the same in the running model as from the store.
    let prompt = examples.first().unwrap();
    let stored: Vec<f32> = fitted.probe.weights().keys().flat_map(|site| store.read(*site).unwrap().row(0).to_vec()).collect();
    let weights: Vec<f32> = fitted.probe.weights().values().flatten().copied().collect();
    let log_odds = f64::from(fitted.probe.bias) + stored.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(w)).sum::<f64>();
    let detector = Detector::attach(&model, &fitted.probe).unwrap();
    let inputs = model.processor().responses([(&prompt.prompt, prompt.response.as_str())], Padding::Right).unwrap();
    model.prefill(&inputs, &mut model.new_cache()).unwrap();
    let score = f64::from(detector.take_scores()[&0][0]);
    assert!((score - 1.0 / (1.0 + (-log_odds).exp())).abs() < 1e-4, "{score}");
}

#[test]
fn what_a_probe_does_not_read_adds_nothing_to_its_bias() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let mut adaptive = with_patches(&model, glasses(&model));
    adaptive.probe = Some(Probe::new(1.0, Gate { on: 0.7, off: 0.2, watch: false }));
    let still = {
        let _static = Glasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
        logits(&model, &inputs)
    };
    let worn = AdaptiveGlasses::wear(&model, &adaptive, Amplify::Refuse).unwrap();
    assert_eq!(bits(&logits(&model, &inputs)), bits(&still), "always on");
    let expected = 1.0 / (1.0 + (-1f32).exp());
    assert!(worn.take_scores().values().all(|scores| (scores[0] - expected).abs() < 1e-6));
}

#[test]
fn what_cannot_be_worn_is_refused() {
    let model = sgm::organism::load().unwrap();
    assert!(matches!(AdaptiveGlasses::wear(&model, &glasses(&model), Amplify::Refuse), Err(Error::NoProbe)));
    let mut wrong = with_patches(&model, glasses(&model));
    wrong.probe = Some(probe(&model, Gate { on: 0.2, off: 0.4, watch: false }));
    assert!(matches!(AdaptiveGlasses::wear(&model, &wrong, Amplify::Refuse), Err(Error::Core(_))));
    let mut elsewhere = Probe::default();
    elsewhere.insert("lm.layers.99.mlp.up_proj".parse().unwrap(), vec![1.0]).unwrap();
    assert!(matches!(Detector::attach(&model, &elsewhere), Err(Error::Core(_))));
    assert_eq!(model.taps().len(), 0);
}
