//! Causal effects, experts and steering on the organism: what they measure, and what they do to the likelihood of answers they have not seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::answers::nll;
use sgm::capture::{AttributionPatching, Capture, Derivative, Example, Examples, Parameter, Pool, Pooling, SampleAttribution};
use sgm::core::{Intervention, Projection, Site, TokenSelection};
use sgm::models::{AutoMllm, Mllm};
use sgm::organism::Contrast;
use sgm::suppress::{
    Amplify, Calibrator, CausalEffect, CausalEffects, CausalExperts, CausalSteering, Component, Error, Glasses, GradientSteering,
};

fn answers(skip: usize, each: usize) -> Vec<Example> {
    crate::answers::examples(Contrast::Matched, skip, each)
}

fn neutral() -> Vec<Example> {
    crate::answers::examples(Contrast::Benign, 100, 60).into_iter().filter(|example| !example.toxic).collect()
}

fn effects(model: &AutoMllm, answers: &[Example]) -> Result<CausalEffects, Error> {
    CausalEffects::of(model, &Examples::from_slice(answers), 4)
}

fn experts(model: &AutoMllm, effects: &CausalEffects, experts: &CausalExperts) -> Result<Intervention, Error> {
    experts.fit(model, effects, &Examples::from_slice(&neutral()), None)
}

fn worn(model: &AutoMllm, glasses: &Intervention, answers: &[Example]) -> [f64; 2] {
    let _worn = Glasses::wear(model, glasses, Amplify::Refuse).unwrap();
    nll(model, answers)
}

#[test]
fn effects_are_covariances_of_verdicts_and_derivatives() {
    let model = sgm::organism::load().unwrap();
    // Classes of unlike size.
    let mut answers = answers(0, 12);
    answers.truncate(20);
    let effects = effects(&model, &answers).unwrap();
    assert_eq!((effects.answers, effects.toxic), (20, 0.6));
    let derivatives = Parameter::ALL.map(|parameter| Derivative { parameter, tokens: TokenSelection::All });
    let mut samples: Vec<SampleAttribution> = Vec::new();
    let keep = |sample| {
        samples.push(sample);
        Ok(())
    };
    AttributionPatching::new(derivatives.to_vec()).for_each(&model, &Examples::from_slice(&answers), keep).unwrap();
    let sites: Vec<Site> = model.info().sites.iter().map(|info| info.site).collect();
    assert!(effects.scales.keys().eq(&sites));
    let outputs: Vec<Site> = sites.iter().copied().filter(|site| site.projection == Projection::Down).collect();
    assert!(effects.shifts.keys().eq(&outputs));
    let check = |which: usize, measured: &BTreeMap<Site, Vec<CausalEffect>>| {
        for (site, effects) in measured {
            for (neuron, effect) in effects.iter().enumerate().step_by(7) {
                let values: Vec<f64> = samples.iter().map(|sample| sample.derivatives[which][site][neuron].into()).collect();
                let all = values.len() as f64;
                let covariance =
                    values.iter().zip(&samples).map(|(g, sample)| g * (f64::from(u8::from(sample.toxic)) - 0.6)).sum::<f64>() / all;
                let square = values.iter().map(|g| g * g).sum::<f64>() / all;
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1e-3 + square.sqrt());
                assert!(
                    near(effect.slope, covariance) && near(effect.square.sqrt(), square.sqrt()),
                    "{site} {neuron}: {effect:?} {covariance} {square}"
                );
                // The standard error of a difference of two means, times the variance of the verdicts.
                let of = |toxic: bool| {
                    let of: Vec<f64> = values.iter().zip(&samples).filter(|(_, s)| s.toxic == toxic).map(|(g, _)| *g).collect();
                    let mean = of.iter().sum::<f64>() / of.len() as f64;
                    of.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (of.len() as f64 - 1.0) / of.len() as f64
                };
                assert!(near(effect.standard_error, 0.24 * (of(true) + of(false)).sqrt()), "{site} {neuron}: {effect:?}");
            }
        }
    };
    check(0, &effects.scales);
    check(1, &effects.shifts);
}

#[test]
fn few_neurons_make_toxic_answers_unlikely() {
    let model = sgm::organism::load().unwrap();
    let (seen, unseen) = (answers(0, 60), answers(200, 60));
    let effects = effects(&model, &seen).unwrap();
    let fitted = experts(&model, &effects, &CausalExperts::default()).unwrap();
    assert!((10..1000).contains(&fitted.changed_neurons()), "{}", fitted.changed_neurons());
    let mut falls = 0.0;
    for (site, change) in fitted.sites() {
        for (scale, effect) in change.scale.iter().zip(&effects.scales[site]) {
            assert!((0.0..=1.0).contains(scale) && (*scale >= 1.0 || effect.slope > 0.0), "{site}: {scale} {effect:?}");
            falls += f64::from(1.0 - scale) * effect.slope;
        }
    }
    assert!((falls - CausalExperts::default().change).abs() < 1e-3, "to first order, the probability of a toxic answer falls by {falls}");
    let before = nll(&model, &unseen);
    let after = worn(&model, &fitted.with_strength(0.5).unwrap(), &unseen);
    println!("nats per token of unseen toxic and polite answers: {before:.3?}, worn {after:.3?}");
    assert!(after[0] > before[0] + 0.1 && after[1] < before[1] - 0.03, "{before:?} {after:?}");
    // Fewer for a smaller rate of false discoveries; all silenced for a change that is out of reach.
    let strict = experts(&model, &effects, &CausalExperts { false_discovery_rate: 1e-4, ..CausalExperts::default() }).unwrap();
    assert!((1..fitted.changed_neurons()).contains(&strict.changed_neurons()), "{}", strict.changed_neurons());
    let silenced = experts(&model, &effects, &CausalExperts { change: 1e6, ..CausalExperts::default() }).unwrap();
    let scales = || silenced.sites().values().flat_map(|site| &site.scale);
    assert_eq!(scales().filter(|scale| **scale < 1.0).count(), fitted.changed_neurons());
    assert!(scales().all(|scale| *scale <= 0.0 || *scale >= 1.0));
    // The same to the bit in one thread.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let again = alone.install(|| experts(&model, &self::effects(&model, &seen).unwrap(), &CausalExperts::default()));
    assert_eq!(again.unwrap(), fitted);
}

#[test]
fn shifts_make_toxic_answers_unlikely_and_polite_ones_likely() {
    let model = sgm::organism::load().unwrap();
    let (seen, unseen) = (answers(0, 60), answers(200, 60));
    let effects = effects(&model, &seen).unwrap();
    let fitted = CausalSteering { change: 0.5 }.fit(&model, &effects, None).unwrap();
    assert!(fitted.sites().keys().eq(effects.shifts.keys()));
    let shifts = || fitted.sites().iter().map(|(site, change)| (change.shift.as_ref().unwrap(), &effects.shifts[site]));
    let falls: f64 =
        shifts().flat_map(|(shift, effects)| shift.iter().zip(effects)).map(|(shift, effect)| f64::from(*shift) * effect.slope).sum();
    assert!((falls + 0.5).abs() < 1e-5, "{falls}");
    let before = nll(&model, &unseen);
    let after = worn(&model, &fitted, &unseen);
    println!("nats per token of unseen toxic and polite answers: {before:.3?}, steered {after:.3?}");
    assert!(after[0] > before[0] + 0.1 && after[1] < before[1] - 0.03, "{before:?} {after:?}");
    assert_eq!(nll(&model, &unseen), before);
}

#[test]
fn what_cannot_be_fitted_is_refused_with_its_reason() {
    let model = sgm::organism::load().unwrap();
    let few = answers(0, 4);
    let of = |toxic: bool| few.iter().filter(|answer| answer.toxic == toxic).cloned().collect::<Vec<_>>();
    let refused = |answers: &[Example]| effects(&model, answers).unwrap_err().to_string();
    assert!(refused(&of(true)).contains("0 of the model's own answers are non-toxic"));
    assert!(refused(&of(false)).contains("0 of the model's own answers are toxic"));
    assert!(refused(&[of(true), of(false)[..1].to_vec()].concat()).contains("1 of the model's own answers are non-toxic"));
    assert!(refused(&[]).contains("are toxic"));
    // No neuron has an effect on a verdict that knows nothing of the answer.
    let mut tossed = answers(0, 10);
    for (number, answer) in tossed.iter_mut().enumerate() {
        answer.toxic = number % 2 == 0;
    }
    let tossed = effects(&model, &tossed).unwrap();
    let strict = CausalExperts { false_discovery_rate: 1e-6, ..CausalExperts::default() };
    let error = experts(&model, &tossed, &strict).unwrap_err().to_string();
    assert!(error.contains("no neuron") && error.contains("give more risky prompts"), "{error}");
    for rate in [0.0, 1.0, f64::NAN] {
        let experts_at = CausalExperts { false_discovery_rate: rate, ..CausalExperts::default() };
        assert!(matches!(experts(&model, &tossed, &experts_at), Err(Error::Fit { reason }) if reason.contains("false-discovery rate")));
    }
    for change in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let experts_at = CausalExperts { change, ..CausalExperts::default() };
        assert!(matches!(experts(&model, &tossed, &experts_at), Err(Error::Fit { reason }) if reason.contains("change")), "{change}");
        let steering = CausalSteering { change };
        assert!(matches!(steering.fit(&model, &tossed, None), Err(Error::Fit { reason }) if reason.contains("change")), "{change}");
    }
    let nothing = CausalExperts::default().fit(&model, &tossed, &Examples::from_slice(&[]), None).unwrap_err().to_string();
    assert!(nothing.contains("neutral texts"), "{nothing}");
    let capture = Capture::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
    let calibrator = Calibrator::capture(&model, crate::answers::examples(Contrast::Benign, 0, 12), capture).unwrap();
    for component in [Component::CausalExperts(CausalExperts::default()), Component::CausalSteering(CausalSteering::default())] {
        let error = calibrator.fit(&model, &component).unwrap_err();
        assert!(matches!(&error, Error::Fit { reason } if reason.contains("with_judge")), "{error}");
    }
}

#[test]
fn few_prompts_are_answered_several_times_and_the_judge_is_asked_once() {
    let model = sgm::organism::load().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let judged = asked.clone();
    let capture = Capture::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
    let calibrator = Calibrator::capture(&model, crate::answers::examples(Contrast::Benign, 0, 40), capture).unwrap();
    let calibrator = calibrator.with_judge(move |answers| {
        judged.fetch_add(answers.len(), Ordering::SeqCst);
        Ok(answers.iter().map(|answer| Some(sgm::organism::judge(&answer.response))).collect())
    });
    let fitted = calibrator.fit(&model, &Component::CausalExperts(CausalExperts::default())).unwrap();
    calibrator.fit(&model, &Component::CausalSteering(CausalSteering::default())).unwrap();
    calibrator.steer(&model, &GradientSteering { layers: Some(5..=5), ..GradientSteering::default() }, &fitted).unwrap();
    // Forty risky prompts, eight answers of each; some may be empty.
    let asked = asked.load(Ordering::SeqCst);
    assert!((300..=320).contains(&asked), "{asked}");
    // Another judge has other verdicts: nothing that was fitted to the first ones is kept.
    let nothing_toxic = calibrator.with_judge(|answers| Ok(vec![Some(false); answers.len()]));
    let error = nothing_toxic.fit(&model, &Component::CausalExperts(CausalExperts::default())).unwrap_err().to_string();
    assert!(error.contains("0 of the model's own answers are toxic"), "{error}");
}
