//! Causal experts on the organism: few neurons, and what their suppression does to the likelihood of answers they have not seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::answers::nll;
use sgm::capture::{Capture, Example, Examples, Pool, Pooling};
use sgm::core::{Expertise, Intervention, TokenSelection};
use sgm::models::Mllm;
use sgm::organism::Contrast;
use sgm::suppress::{Amplify, Calibrator, CausalExperts, Component, Error, Glasses, GradientSteering, SuppressionRule};

fn answers(skip: usize, each: usize) -> Vec<Example> {
    crate::answers::examples(Contrast::Matched, skip, each)
}

fn experts(most: usize) -> CausalExperts {
    CausalExperts { rule: SuppressionRule::soft(0.5, 2.5), most, batch_size: 4 }
}

fn expertise(model: &impl Mllm) -> Expertise {
    let pooling = Pooling { pool: Pool::Max, tokens: TokenSelection::All };
    Calibrator::capture(model, crate::answers::examples(Contrast::Benign, 0, 60), Capture::new(vec![pooling])).unwrap().expertise().unwrap()
}

fn fit(model: &impl Mllm, expertise: &Expertise, seen: &[Example], most: usize) -> Result<Intervention, Error> {
    let neutral: Vec<Example> = crate::answers::examples(Contrast::Benign, 100, 60).into_iter().filter(|example| !example.toxic).collect();
    experts(most).fit(model, expertise, &Examples::from_slice(seen), &Examples::from_slice(&neutral))
}

#[test]
fn few_neurons_make_toxic_answers_unlikely() {
    let model = sgm::organism::load().unwrap();
    let (seen, unseen, expertise) = (answers(0, 60), answers(200, 60), expertise(&model));
    let fitted = fit(&model, &expertise, &seen, 200).unwrap();
    assert!((10..=200).contains(&fitted.changed_neurons()), "{}", fitted.changed_neurons());
    for (site, change) in fitted.sites() {
        for (scale, auroc) in change.scale.iter().zip(&expertise.sites()[site].auroc) {
            assert!((0.0..=1.0).contains(scale) && (*scale >= 1.0 || *auroc > 0.5), "{site}: {scale} {auroc}");
        }
    }
    // As many of the best detectors, for comparison.
    let mut rule = SuppressionRule::soft(0.5, 2.5);
    rule.selection.top_k = Some(fitted.changed_neurons());
    let detectors = rule.intervention(&expertise).unwrap();
    let before = nll(&model, &unseen);
    let worn = |glasses: &Intervention| {
        let _worn = Glasses::wear(&model, glasses, Amplify::Refuse).unwrap();
        nll(&model, &unseen)
    };
    let (caused, detected) = (worn(&fitted), worn(&detectors));
    println!("nats per token of unseen toxic and polite answers: {before:.3?}, causal {caused:.3?}, detectors {detected:.3?}");
    assert!(caused[0] > before[0] + 0.1 && caused[1] < before[1] - 0.03, "{before:?} {caused:?}");
    // Those make polite answers unlikely too: what tells a provocation is needed for an apology.
    assert!(detected[1] > before[1], "{before:?} {detected:?}");
    // The same to the bit in one thread.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(alone.install(|| fit(&model, &expertise, &seen, 200)).unwrap(), fitted);
}

#[test]
fn what_cannot_be_fitted_is_refused_with_its_reason() {
    let model = sgm::organism::load().unwrap();
    let (few, expertise) = (answers(0, 4), expertise(&model));
    let refused = |answers: &[Example], most: usize| fit(&model, &expertise, answers, most).unwrap_err().to_string();
    let toxic: Vec<Example> = few.iter().filter(|answer| answer.toxic).cloned().collect();
    let polite: Vec<Example> = few.iter().filter(|answer| !answer.toxic).cloned().collect();
    assert!(refused(&toxic, 100).contains("non-toxic answers"));
    assert!(refused(&polite, 100).contains("take toxic answers"));
    assert!(refused(&few, 0).contains("no neuron"));
    let capture = Capture::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
    let calibrator = Calibrator::capture(&model, crate::answers::examples(Contrast::Benign, 0, 12), capture).unwrap();
    let error = calibrator.fit(&model, &Component::Causal(experts(100))).unwrap_err();
    assert!(matches!(&error, Error::Fit { reason } if reason.contains("with_judge")), "{error}");
}

#[test]
fn the_judge_is_asked_once_for_experts_and_steering() {
    let model = sgm::organism::load().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let capture = Capture::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
    let calibrator = Calibrator::capture(&model, crate::answers::examples(Contrast::Benign, 0, 40), capture).unwrap();
    let calibrator = calibrator.with_judge(move |answers| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(answers.iter().map(|answer| Some(sgm::organism::judge(&answer.response))).collect())
    });
    let fitted = calibrator.fit(&model, &Component::Causal(experts(1000))).unwrap();
    let steering = GradientSteering { at_once: true, ..GradientSteering::default() };
    calibrator.steer(&model, &steering, &fitted).unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // Another judge has other verdicts: nothing that was fitted to the first ones is kept.
    let nothing_toxic = calibrator.with_judge(|answers| Ok(vec![Some(false); answers.len()]));
    let error = nothing_toxic.fit(&model, &Component::Causal(experts(1000))).unwrap_err().to_string();
    assert!(error.contains("take toxic answers"), "{error}");
}
