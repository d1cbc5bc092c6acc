//! GradientSteering on the organism: what it does to the likelihood of answers it has not seen.

use crate::answers::nll;
use sgm::capture::{Capture, Example, Examples};
use sgm::core::{Intervention, Projection};
use sgm::models::{Mllm, TappedModel};
use sgm::organism::Contrast;
use sgm::suppress::{Amplify, Calibrator, ConditionalPatches, Error, Glasses, GradientSteering, Preset};

fn examples(skip: usize, each: usize) -> Vec<Example> {
    crate::answers::examples(Contrast::Matched, skip, each)
}

fn fit(model: &impl Mllm, examples: &[Example]) -> Intervention {
    GradientSteering { strength: 0.4, ..GradientSteering::default() }.fit(model, &Examples::from_slice(examples), None).unwrap()
}

#[test]
fn polite_answers_get_likelier_and_toxic_ones_unlikely() {
    let model = sgm::organism::load().unwrap();
    let (seen, unseen) = (examples(0, 60), examples(200, 60));
    let fitted = fit(&model, &seen);
    let layers = model.info().sites.iter().filter(|info| info.site.projection == Projection::Down).count();
    assert_eq!(fitted.sites().len(), layers);
    for (site, change) in fitted.sites() {
        assert_eq!(site.projection, Projection::Down);
        assert!(change.scale.iter().all(|scale| (*scale - 1.0).abs() < f32::EPSILON));
    }
    let before = nll(&model, &unseen);
    let worn = Glasses::wear(&model, &fitted, Amplify::Refuse).unwrap();
    let after = nll(&model, &unseen);
    drop(worn);
    println!("nats per token of unseen toxic and polite answers: {before:.3?}, steered {after:.3?}");
    assert!(after[0] > before[0] + 0.1 && after[1] < before[1] - 0.05, "{before:?} {after:?}");
    assert_eq!(nll(&model, &unseen), before);
    // The same to the bit in one thread.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(alone.install(|| fit(&model, &seen)), fitted);
}

#[test]
fn it_is_fitted_through_what_is_worn() {
    let model = sgm::organism::load().unwrap();
    let seen = examples(0, 20);
    let plain = fit(&model, &seen);
    let sentinels = ConditionalPatches { layers: Some(4..=5), ..ConditionalPatches::default() }
        .fit(&model, &Examples::from_slice(&seen), None)
        .unwrap();
    let view = TappedModel::new(&model);
    let worn = Glasses::wear(&view, &sentinels, Amplify::Refuse).unwrap();
    assert_ne!(fit(&view, &seen), plain);
    drop(worn);
    assert_eq!(fit(&view, &seen), plain);
}

#[test]
fn answers_of_the_models_own_need_a_judge() {
    let model = sgm::organism::load().unwrap();
    let few = crate::answers::examples(Contrast::Benign, 0, 12);
    let calibrated = || Calibrator::capture(&model, few.clone(), Capture::new(vec![Preset::TEXT])).unwrap();
    let steered = |calibrated: &Calibrator| calibrated.steer(&model, &GradientSteering::default(), &Intervention::default());
    let message = steered(&calibrated()).unwrap_err().to_string();
    assert!(message.contains("with_judge"), "{message}");
    let verdicts =
        |verdict: fn(&Example) -> Option<bool>| steered(&calibrated().with_judge(move |answers| Ok(answers.iter().map(verdict).collect())));
    assert!(verdicts(|answer| Some(sgm::organism::judge(&answer.response))).is_ok());
    for (none_of, verdict) in
        [("non-toxic", (|_| Some(true)) as fn(&Example) -> Option<bool>), ("toxic", |_| Some(false)), ("toxic", |_| None)]
    {
        let error = verdicts(verdict).unwrap_err();
        assert!(matches!(error, Error::Fit { .. }) && error.to_string().contains(none_of), "{error}");
    }
    let short = calibrated().with_judge(|_| Ok(vec![Some(true)]));
    assert!(steered(&short).unwrap_err().to_string().contains("1 verdicts"));
    let failing = calibrated().with_judge(|_| Err("no connection".into()));
    assert!(matches!(steered(&failing).unwrap_err(), Error::Judge(reason) if reason.to_string() == "no connection"));
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let model = sgm::organism::load().unwrap();
    let examples = examples(0, 2);
    let refused = |steering: GradientSteering, examples: &[Example]| {
        matches!(steering.fit(&model, &Examples::from_slice(examples), None), Err(Error::Fit { .. }))
    };
    assert!(refused(GradientSteering::default(), &examples[..2]) && refused(GradientSteering::default(), &examples[2..]));
    assert!(refused(GradientSteering { strength: f64::NAN, ..GradientSteering::default() }, &examples));
    assert!(refused(GradientSteering { against: f64::INFINITY, ..GradientSteering::default() }, &examples));
}
