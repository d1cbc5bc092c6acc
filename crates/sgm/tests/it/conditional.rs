//! Conditional glasses: sequences that the probe finds benign keep their bits, the others are those of static glasses, and the cache makes
//! no difference.

use crate::worn::{bits, difference, glasses, with_patches};
use candle_core::{Device, IndexOp, Tensor};
use sgm::capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm::core::{Condition, Probe};
use sgm::models::{AutoMllm, EosPolicy, GenerateOptions, Mllm, ModelInputs, Padding, Prompt, TokenKind, TokenSelection, generate_tokens};
use sgm::organism::{Contrast, OrganismSource};
use sgm::score::{ProbeOptions, fit_probe};
use sgm::suppress::{Amplify, ConditionalGlasses, Detector, Error, Glasses, score_prompts};
use sgm::toxic_qa::{EvaluationSplit, Source};

fn prompts() -> Vec<Prompt> {
    ["what colour is the ring?", "you fool. what do you see?", "is there a ring in the picture?", "describe the picture, idiot."]
        .map(|text| Prompt::user(text, None))
        .to_vec()
}

/// A probe of all neurons with weights in both directions.
fn probe(model: &AutoMllm) -> Probe {
    let mut probe = Probe::new(0.0);
    for info in &model.info().sites {
        let weight = |neuron: usize| if (neuron * 7 + info.site.layer).is_multiple_of(3) { 0.004 } else { -0.002 };
        probe.insert(info.site, (0..info.width).map(weight).collect()).unwrap();
    }
    probe
}

fn condition(model: &AutoMllm, threshold: f32) -> Option<Condition> {
    Some(Condition { probe: probe(model), threshold })
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
        let detector = Detector::attach(&model, &probe(&model)).unwrap();
        assert_eq!(bits(&logits(&model, &inputs)), bits(&plain), "a detector changes nothing");
        detector.take_scores()
    };
    let threshold = between(scores.values().map(|s| s[0]));
    let mut conditional = with_patches(&model, glasses(&model));
    let still = {
        let _static = Glasses::wear(&model, &conditional, Amplify::Refuse).unwrap();
        logits(&model, &inputs)
    };
    conditional.condition = condition(&model, threshold);
    let worn = ConditionalGlasses::wear(&model, &conditional, Amplify::Refuse).unwrap();
    let through = logits(&model, &inputs);
    let prompt_scores = scores.iter().map(|(id, scores)| (*id, scores[0])).collect();
    assert_eq!(worn.take_scores(), prompt_scores, "scores are those without glasses");
    let mut risky = 0;
    for row in 0..prompts().len() {
        let same_as = if scores[&row][0] >= threshold { &still } else { &plain };
        risky += usize::from(scores[&row][0] >= threshold);
        assert_eq!(bits(&through.i(row).unwrap()), bits(&same_as.i(row).unwrap()), "row {row}");
    }
    assert_eq!(risky, 2);
    assert!(difference(&still, &plain) > 0.01, "the glasses do something");
    drop(worn);
    assert_eq!(bits(&logits(&model, &inputs)), bits(&plain), "dropped");
}

#[test]
fn tokens_are_those_of_static_glasses_where_the_condition_holds_and_the_plain_models_elsewhere() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let decoded = || {
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        [3, 5, 8].map(|token| bits(&model.decode(&[token; 4], &mut cache).unwrap()))
    };
    let plain = decoded();
    let mut conditional = with_patches(&model, glasses(&model));
    let still = {
        let _static = Glasses::wear(&model, &conditional, Amplify::Refuse).unwrap();
        decoded()
    };
    assert_ne!(still, plain);
    for (threshold, expected) in [(0.0, &still), (1.0, &plain)] {
        conditional.condition = condition(&model, threshold);
        let _worn = ConditionalGlasses::wear(&model, &conditional, Amplify::Refuse).unwrap();
        assert_eq!(&decoded(), expected, "threshold {threshold}");
        // Another tap that wants tensors makes no difference.
        let _detector = Detector::attach(&model, &probe(&model)).unwrap();
        assert_eq!(&decoded(), expected, "threshold {threshold}, beside a detector");
    }
}

#[test]
fn scores_come_in_the_order_of_the_prompts() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let probe = probe(&model);
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
fn cached_equals_recomputed() {
    const STEPS: usize = 8;
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let before = inputs.kinds[0].len();
    let options = GenerateOptions { max_new_tokens: STEPS, eos: EosPolicy::Ignore, ..Default::default() };
    let scores = {
        let detector = Detector::attach(&model, &probe(&model)).unwrap();
        generate_tokens(&model, &inputs, &options).unwrap();
        detector.take_scores()
    };
    assert!(scores.values().all(|s| s.len() == STEPS), "the last token is not read");
    let threshold = between(scores.values().map(|s| s[0]));
    let mut conditional = with_patches(&model, glasses(&model));
    conditional.condition = condition(&model, threshold);
    let worn = ConditionalGlasses::wear(&model, &conditional, Amplify::Refuse).unwrap();
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
    assert!(gap <= 1e-5, "{gap}");
    let holds = step_by_step.values().filter(|score| **score >= threshold).count();
    assert!(holds > 0 && holds < step_by_step.len(), "the condition holds for some");
    assert!(step_by_step.iter().all(|(id, score)| (score - at_once[id]).abs() <= 1e-4), "{step_by_step:?} {at_once:?}");
}

#[test]
fn a_probe_fitted_to_the_prompts_end_tells_unseen_prompts_apart() {
    let model = sgm::organism::load().unwrap();
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap().calibration(0).unwrap();
    let step = samples.len() / 240;
    let examples: Vec<Example> = samples
        .into_iter()
        .step_by(step)
        .map(|s| Example {
            prompt: s.as_prompt().unwrap(),
            response: s.response.unwrap_or_default(),
            toxic: s.label == Some(true),
            unfinished: false,
            id: s.id,
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    Capture::new(vec![Pooling { pool: Pool::Last, tokens: TokenSelection::Prompt }])
        .run(&model, &Examples::from_slice(&examples), &path)
        .unwrap();
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
    let mut conditional = with_patches(&model, glasses(&model));
    conditional.condition = Some(Condition { probe: Probe::new(1.0), threshold: 0.7 });
    let still = {
        let _static = Glasses::wear(&model, &conditional, Amplify::Refuse).unwrap();
        logits(&model, &inputs)
    };
    let worn = ConditionalGlasses::wear(&model, &conditional, Amplify::Refuse).unwrap();
    assert_eq!(bits(&logits(&model, &inputs)), bits(&still), "it always acts");
    let expected = 1.0 / (1.0 + (-1f32).exp());
    assert!(worn.take_scores().values().all(|score| (score - expected).abs() < 1e-6));
}

#[test]
fn what_cannot_be_worn_is_refused() {
    let model = sgm::organism::load().unwrap();
    assert!(matches!(ConditionalGlasses::wear(&model, &glasses(&model), Amplify::Refuse), Err(Error::NoCondition)));
    let mut wrong = with_patches(&model, glasses(&model));
    wrong.condition = condition(&model, 1.5);
    assert!(matches!(ConditionalGlasses::wear(&model, &wrong, Amplify::Refuse), Err(Error::Core(_))));
    let mut elsewhere = Probe::default();
    elsewhere.insert("lm.layers.99.mlp.up_proj".parse().unwrap(), vec![1.0]).unwrap();
    assert!(matches!(Detector::attach(&model, &elsewhere), Err(Error::Core(_))));
    assert_eq!(model.taps().len(), 0);
}
