//! Causal effects, experts and steering on the organism: what they measure, and what they do to the likelihood of answers they have not seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::answers::nll;
use sgm::capture::{AttributionPatching, Capture, Derivative, Example, Examples, Parameter, Pool, Pooling, SampleAttribution};
use sgm::core::{Intervention, PatchNeuron, Projection, Site, SiteIntervention, TokenSelection};
use sgm::defend::ModelWithGlasses;
use sgm::models::{AutoMllm, Mllm, response_divergence};
use sgm::organism::Contrast;
use sgm::suppress::{
    Amplify, Calibrator, CausalEffect, CausalEffects, CausalExperts, CausalSteering, Component, ConditionalPatches, Error, Glasses,
};

fn answers(skip: usize, each: usize) -> Vec<Example> {
    crate::answers::examples(Contrast::Matched, skip, each)
}

fn neutral() -> Vec<Example> {
    crate::answers::examples(Contrast::Benign, 100, 60).into_iter().filter(|example| !example.toxic).collect()
}

fn effects(model: &AutoMllm, answers: &[Example]) -> Result<CausalEffects, Error> {
    let sites = model.info().sites.iter().map(|info| info.site).collect();
    CausalEffects::of(model, &sites, &Examples::from_slice(answers), 4)
}

fn experts(model: &AutoMllm, effects: &CausalEffects, experts: &CausalExperts) -> Result<Intervention, Error> {
    experts.fit(model, effects, &[Examples::from_slice(&neutral())], None)
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
fn entropies_are_differentiated_by_scales_and_shifts() {
    let model = sgm::organism::load().unwrap();
    let answers = answers(0, 10);
    let effects = effects(&model, &answers).unwrap();
    let texts: Vec<_> = answers.iter().map(|answer| (answer.prompt.clone(), answer.response.clone())).collect();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let mean_entropy = |change: SiteIntervention, site: Site| {
        let mut glasses = Intervention::default();
        glasses.insert(site, change).unwrap();
        let worn = ModelWithGlasses::new(&model, &glasses, Amplify::Allow).unwrap();
        let answers = response_divergence(worn.model(), worn.model(), &texts, 8).unwrap();
        mean(&answers.iter().map(|tokens| mean(&tokens.iter().map(|token| token.entropy).collect::<Vec<_>>())).collect::<Vec<_>>())
    };
    let largest = |effects: &BTreeMap<Site, Vec<CausalEffect>>| {
        let all = effects.iter().flat_map(|(site, effects)| effects.iter().enumerate().map(|(at, effect)| (*site, at, effect.entropy)));
        all.max_by(|a, b| a.2.abs().total_cmp(&b.2.abs())).unwrap()
    };
    let difference = |site: Site, step: f32, moved: &dyn Fn(f32) -> SiteIntervention| {
        (mean_entropy(moved(step), site) - mean_entropy(moved(-step), site)) / f64::from(2.0 * step)
    };
    let widths = model.info().widths();
    let (site, neuron, derivative) = largest(&effects.scales);
    let scaled = |by: f32| {
        let mut scale = vec![1.0; widths[&site]];
        scale[neuron] += by;
        SiteIntervention::from_scale(scale)
    };
    let measured = difference(site, 0.02, &scaled);
    assert!((measured / derivative - 1.0).abs() < 0.02, "{site} {neuron}: {derivative}, by difference {measured}");
    let (site, neuron, derivative) = largest(&effects.shifts);
    let shifted = |by: f32| {
        let mut shift = vec![0.0; widths[&site]];
        shift[neuron] = by;
        SiteIntervention { shift: Some(shift), ..SiteIntervention::from_scale(vec![1.0; widths[&site]]) }
    };
    let measured = difference(site, 0.01, &shifted);
    assert!((measured / derivative - 1.0).abs() < 0.02, "{site} {neuron}: {derivative}, by difference {measured}");
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
fn predictions_do_not_become_less_certain() {
    let model = sgm::organism::load().unwrap();
    let effects = effects(&model, &answers(0, 60)).unwrap();
    // Insults are uncertain here: without them the entropy falls, which is as it should be. Seen the other way round, it rises.
    let with_entropies = |factor: f64| {
        let mut changed = effects.clone();
        let all = changed.scales.values_mut().chain(changed.shifts.values_mut()).flatten();
        all.for_each(|effect| effect.entropy *= factor);
        changed
    };
    let (none, opposed) = (with_entropies(0.0), with_entropies(-1.0));
    let steered = |effects: &CausalEffects| CausalSteering::default().fit(&model, effects, None).unwrap();
    // So little that no expert is silenced.
    let suppressed =
        |effects: &CausalEffects| experts(&model, effects, &CausalExperts { change: 1e-4, ..CausalExperts::default() }).unwrap();
    assert_eq!(steered(&effects), steered(&none));
    assert_eq!(suppressed(&effects), suppressed(&none));
    // The change of the entropy, and the sum of the sizes of its parts, to first order.
    let sums = |parts: Vec<f64>| (parts.iter().sum::<f64>(), parts.iter().map(|part| part.abs()).sum::<f64>());
    let of_shifts = |glasses: &Intervention| {
        let shifts = glasses.sites().iter().map(|(site, change)| (change.shift.as_ref().unwrap(), &opposed.shifts[site]));
        sums(shifts.flat_map(|(shift, effects)| shift.iter().zip(effects)).map(|(s, e)| f64::from(*s) * e.entropy).collect())
    };
    let of_scales = |glasses: &Intervention| {
        let scales = glasses.sites().iter().map(|(site, change)| (&change.scale, &opposed.scales[site]));
        sums(scales.flat_map(|(scale, effects)| scale.iter().zip(effects)).map(|(s, e)| f64::from(s - 1.0) * e.entropy).collect())
    };
    let ((rise, of), (left, of_left)) = (of_shifts(&steered(&none)), of_shifts(&steered(&opposed)));
    assert!(rise > 0.1 * of && left.abs() < 1e-5 * of_left, "{rise} of {of}, {left} of {of_left}");
    let ((rise, of), (left, of_left)) = (of_scales(&suppressed(&none)), of_scales(&suppressed(&opposed)));
    assert!(rise > 0.1 * of && left.abs() < 1e-3 * of_left, "{rise} of {of}, {left} of {of_left}");
}

#[test]
fn no_kept_texts_become_less_likely() {
    let model = sgm::organism::load().unwrap();
    let effects = effects(&model, &answers(0, 60)).unwrap();
    // Insults and polite replies: more than one would ask for.
    let unseen = answers(200, 40);
    let of = |toxic: bool| unseen.iter().filter(|answer| answer.toxic == toxic).cloned().collect::<Vec<_>>();
    let (insults, polite, neutral) = (of(true), of(false), neutral());
    let little = CausalExperts { change: 0.05, ..CausalExperts::default() };
    let fitted = |kept: &[&Vec<Example>]| {
        let kept: Vec<Examples<'_>> = kept.iter().map(|texts| Examples::from_slice(texts)).collect();
        little.fit(&model, &effects, &kept, None).unwrap()
    };
    let patching = AttributionPatching::new(vec![Derivative { parameter: Parameter::Scale, tokens: TokenSelection::All }]);
    // The fall of the mean log-likelihood of texts, and the sum of the sizes of its parts, to first order.
    let fall = |glasses: &Intervention, texts: &[Example]| {
        let classes = patching.means(&model, &Examples::from_slice(texts)).unwrap();
        let class = classes.iter().find(|class| class.samples > 0).unwrap();
        let derivatives = class.derivatives.values().next().unwrap();
        let parts = glasses.sites().iter().flat_map(|(site, change)| {
            change.scale.iter().zip(&derivatives[site].mean).map(|(scale, derivative)| f64::from(1.0 - scale) * derivative)
        });
        parts.fold((0.0, 0.0), |(sum, sizes), part| (sum + part, sizes + part.abs()))
    };
    let free = fitted(&[&neutral]);
    let (lost, of_lost) = fall(&free, &insults);
    assert!(lost > 0.3 * of_lost, "{lost} of {of_lost}");
    let bound = fitted(&[&neutral, &insults, &polite]);
    for texts in [&neutral, &insults, &polite] {
        let (lost, of_lost) = fall(&bound, texts);
        assert!(lost < 1e-3 * of_lost, "{lost} of {of_lost}");
    }
    assert_ne!(free, bound);
}

#[test]
fn what_cannot_be_fitted_is_refused_with_its_reason() {
    let model = sgm::organism::load().unwrap();
    let few = answers(0, 4);
    let of = |toxic: bool| few.iter().filter(|answer| answer.toxic == toxic).cloned().collect::<Vec<_>>();
    let refused = |answers: &[Example]| match effects(&model, answers) {
        Err(error @ Error::NoCausalEffects { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(&of(true)).contains("0 of the model's own 4 answers are non-toxic"));
    assert!(refused(&of(false)).contains("0 of the model's own 4 answers are toxic"));
    assert!(refused(&[of(true), of(false)[..1].to_vec()].concat()).contains("1 of the model's own 5 answers are non-toxic"));
    assert!(refused(&[]).contains("are toxic"));
    // No neuron has an effect on a verdict that knows nothing of the answer.
    let mut tossed = answers(0, 10);
    for (number, answer) in tossed.iter_mut().enumerate() {
        answer.toxic = number % 2 == 0;
    }
    let tossed = effects(&model, &tossed).unwrap();
    let strict = CausalExperts { false_discovery_rate: 1e-6, ..CausalExperts::default() };
    let error = experts(&model, &tossed, &strict).unwrap_err();
    assert!(matches!(error, Error::NoCausalEffects { .. }) && error.to_string().contains("no neuron"), "{error}");
    assert!(error.to_string().contains("give more risky prompts"), "{error}");
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
    let nothing = CausalExperts::default().fit(&model, &tossed, &[Examples::from_slice(&[])], None).unwrap_err().to_string();
    assert!(nothing.contains("neutral texts"), "{nothing}");
    let capture = Capture::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
    let calibrator = Calibrator::capture(&model, crate::answers::examples(Contrast::Benign, 0, 12), capture).unwrap();
    let patches = Component::CausalPatches(ConditionalPatches::default(), CausalSteering::default());
    for component in [Component::CausalExperts(CausalExperts::default()), Component::CausalSteering(CausalSteering::default()), patches] {
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
    calibrator.fit(&model, &Component::CausalExperts(CausalExperts::default())).unwrap();
    calibrator.fit(&model, &Component::CausalSteering(CausalSteering::default())).unwrap();
    // Forty risky prompts, eight answers of each; some may be empty.
    let asked = asked.load(Ordering::SeqCst);
    assert!((300..=320).contains(&asked), "{asked}");
    // Another judge has other verdicts: nothing that was fitted to the first ones is kept.
    let nothing_toxic = calibrator.with_judge(|answers| Ok(vec![Some(false); answers.len()]));
    let error = nothing_toxic.fit(&model, &Component::CausalExperts(CausalExperts::default())).unwrap_err().to_string();
    assert!(error.contains("0 of the model's own") && error.contains("are toxic"), "{error}");
}

#[test]
fn the_judge_answers_for_its_verdicts() {
    let model = sgm::organism::load().unwrap();
    let capture = Capture::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
    let calibrated = || Calibrator::capture(&model, crate::answers::examples(Contrast::Benign, 0, 12), capture.clone()).unwrap();
    let steered = |calibrated: Calibrator| calibrated.fit(&model, &Component::CausalSteering(CausalSteering::default()));
    // Answers without a verdict are left out.
    let error = steered(calibrated().with_judge(|answers| Ok(vec![None; answers.len()]))).unwrap_err().to_string();
    assert!(error.contains("0 of the model's own 0 answers"), "{error}");
    let short = calibrated().with_judge(|_| Ok(vec![Some(true)]));
    assert!(steered(short).unwrap_err().to_string().contains("1 verdicts"));
    let failing = calibrated().with_judge(|_| Err("no connection".into()));
    assert!(matches!(steered(failing).unwrap_err(), Error::Judge(reason) if reason.to_string() == "no connection"));
}

#[test]
fn causal_patches_move_detected_tokens_as_causal_steering_does() {
    let model = sgm::organism::load().unwrap();
    let capture = Capture::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]);
    let calibrator = Calibrator::capture(&model, crate::answers::examples(Contrast::Benign, 0, 40), capture).unwrap();
    let calibrator =
        calibrator.with_judge(|answers| Ok(answers.iter().map(|answer| Some(sgm::organism::judge(&answer.response))).collect()));
    let steering = CausalSteering { change: 0.5 };
    let patches = ConditionalPatches { layers: Some(3..=4), ..ConditionalPatches::default() };
    let shifts = calibrator.fit(&model, &Component::CausalSteering(steering.clone())).unwrap();
    let causal = calibrator.fit(&model, &Component::CausalPatches(patches.clone(), steering)).unwrap();
    let differences = calibrator.fit(&model, &Component::ConditionalPatches(patches)).unwrap();
    let neurons = |glasses: &Intervention| -> Vec<PatchNeuron> { glasses.patches().values().flatten().cloned().collect() };
    let (causal, differences) = (neurons(&causal), neurons(&differences));
    assert_eq!((causal.len(), differences.len()), (2, 2));
    // The first neurons see the same tokens; the second ones those that the first have changed.
    assert_eq!((&causal[0].gate, &causal[0].up), (&differences[0].gate, &differences[0].up));
    assert_ne!(causal[0].down, differences[0].down);
    for (layer, neuron) in [3, 4].into_iter().zip(&causal) {
        let shift = shifts.sites()[&Site::new(layer, Projection::Down)].shift.as_ref().unwrap();
        let factor = neuron.down[0] / shift[0];
        assert!(factor > 0.0);
        assert!(neuron.down.iter().zip(shift).all(|(down, shift)| (down - factor * shift).abs() <= 1e-5 * factor * shift.abs().max(1e-3)));
    }
}
