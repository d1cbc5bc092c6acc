//! ConditionalPatches on the organism: what their gates notice, and what they do to what the model says.

use crate::answers::nll;
use sgm::capture::{Capture, Example, Examples, MlpTokens};
use sgm::core::Intervention;
use sgm::models::{AutoMllm, TokenKind};
use sgm::organism::Contrast;
use sgm::suppress::{Amplify, ConditionalPatches, Error, Glasses};

const LAYER: usize = 4;

fn examples(skip: usize, each: usize) -> Vec<Example> {
    crate::answers::examples(Contrast::Benign, skip, each)
}

fn patches() -> ConditionalPatches {
    ConditionalPatches { false_positive_rate: 0.1, layers: Some(2..=5), ..ConditionalPatches::default() }
}

fn fit(model: &AutoMllm, examples: &[Example]) -> Intervention {
    patches().fit(model, &Examples::from_slice(examples), None).unwrap()
}

#[test]
fn toxic_answers_get_unlikely_and_others_stay() {
    let model = sgm::organism::load().unwrap();
    let (seen, unseen) = (examples(0, 150), examples(150, 100));
    let fitted = fit(&model, &seen);
    assert_eq!(fitted.patches().keys().copied().collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!((fitted.added_neurons(), fitted.changed_neurons()), (4, 0));
    let before = nll(&model, &unseen);
    let worn = Glasses::wear(&model, &fitted, Amplify::Refuse).unwrap();
    let after = nll(&model, &unseen);
    drop(worn);
    println!("nats per token of unseen toxic and other answers: {before:.3?}, with patches {after:.3?}");
    assert!(after[0] > before[0] + 0.3, "{before:?} {after:?}");
    assert!(after[1] < before[1] + 0.02, "{before:?} {after:?}");
    assert_eq!(nll(&model, &unseen), before);
    // The same to the bit in one thread.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(alone.install(|| fit(&model, &seen)), fitted);
    // And in a file.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("patches.sgm.safetensors");
    fitted.save(&path).unwrap();
    assert_eq!(Intervention::load(&path).unwrap(), fitted);
}

#[test]
fn a_gate_notices_as_many_non_toxic_tokens_as_it_may() {
    let model = sgm::organism::load().unwrap();
    let examples = examples(0, 100);
    let only = ConditionalPatches { layers: Some(LAYER..=LAYER), image_stride: 4, ..patches() };
    let fitted = only.fit(&model, &Examples::from_slice(&examples), None).unwrap();
    let neuron = &fitted.patches()[&LAYER][0];
    let all = |_, kind, _, place: usize| kind != TokenKind::Image || place.is_multiple_of(4);
    let capture = Capture { batch_size: 8, ..Capture::new(Vec::new()) };
    let examples = Examples::from_slice(&examples);
    let mut samples = capture.layerwise(&model, &examples).unwrap();
    samples.advance_to(&model, LAYER).unwrap();
    let samples = samples.mlp_tokens(&model, all).unwrap();
    let dot = |w: &[f32], x: &[f32]| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
    let gates = |toxic: bool| {
        let tokens = samples.iter().filter(move |s| s.toxic == toxic).flat_map(MlpTokens::tokens);
        tokens.filter(move |(kind, end, ..)| !toxic || *end || *kind == TokenKind::Response).map(|(_, _, x, _)| dot(&neuron.gate, x))
    };
    let share = |toxic: bool| gates(toxic).filter(|gate| *gate > 0.0).count() as f64 / gates(toxic).count() as f64;
    // The threshold is exact, but for what stands in for the constant 1: its spread is a tenth.
    println!("noticed: {:.3} of toxic, {:.3} of other tokens", share(true), share(false));
    assert!((0.07..0.13).contains(&share(false)) && share(true) > 0.8);
    let ones: Vec<f64> = samples.iter().flat_map(MlpTokens::tokens).map(|(_, _, x, _)| dot(&neuron.up, x)).collect();
    let mean = ones.iter().sum::<f64>() / ones.len() as f64;
    assert!((0.9..1.1).contains(&mean), "{mean}");
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let model = sgm::organism::load().unwrap();
    let examples = examples(0, 3);
    let refused = |patches: ConditionalPatches, examples: &[Example]| {
        matches!(patches.fit(&model, &Examples::from_slice(examples), None), Err(Error::Fit { .. }))
    };
    assert!(refused(patches(), &examples[..3]) && refused(patches(), &examples[3..]) && refused(patches(), &[]));
    assert!(refused(ConditionalPatches { false_positive_rate: 1.0, ..patches() }, &examples));
    assert!(refused(ConditionalPatches { strength: f64::NAN, ..patches() }, &examples));
}
