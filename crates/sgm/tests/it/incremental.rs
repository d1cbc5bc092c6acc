//! Fitting layer by layer: each site is fitted on a model that wears what was fitted before it, and no other.

use sgm::capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm::core::{Intervention, Projection, Site};
use sgm::models::{AutoMllm, Mllm, TokenSelection};
use sgm::organism::{Contrast, OrganismSource};
use sgm::suppress::{Amplify, Glasses, Transport, fit_incrementally};
use sgm::toxic_qa::{EvaluationSplit, Source};

fn examples() -> Vec<Example> {
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap().calibration(0).unwrap();
    let example = |s: &sgm::toxic_qa::Sample| Example {
        id: s.id.clone(),
        prompt: s.as_prompt().unwrap(),
        response: s.response.clone().unwrap(),
        toxic: s.label == Some(true),
        unfinished: false,
    };
    samples.iter().step_by(40).map(example).collect()
}

/// The transport at once, of the model as it is and what it wears.
fn at_once(model: &AutoMllm, capture: &Capture, examples: &[Example], transport: &Transport) -> Intervention {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    capture.run(model, &Examples::from_slice(examples), &path).unwrap();
    transport.intervention(&ActivationStore::open(&path).unwrap()).unwrap()
}

#[test]
fn every_step_is_fitted_on_the_model_that_wears_the_steps_before() {
    let model = sgm::organism::load().unwrap();
    let examples = examples();
    // One sample at a time: batches of a capture are others than those of a fit layer by layer.
    let capture = Capture::new(vec![Pooling { pool: Pool::Mean, tokens: TokenSelection::Text }]);
    let transport = Transport::linear_act();
    let fit = |store: &ActivationStore, sites: &std::collections::BTreeSet<Site>| {
        transport.among(store, "a step", |site, _| sites.contains(&site))
    };
    let fitted = fit_incrementally(&model, &capture, &Examples::from_slice(&examples), Amplify::Refuse, fit).unwrap();
    assert!(model.taps().is_empty());
    assert_eq!(fitted.sites().len(), model.info().sites.len());

    let of = |intervention: &Intervention, layer, projection| intervention.sites()[&Site::new(layer, projection)].clone();
    let plain = at_once(&model, &capture, &examples, &transport);
    assert_eq!(of(&fitted, 0, Projection::Gate), of(&plain, 0, Projection::Gate), "nothing comes before the first step");
    assert_ne!(of(&fitted, 0, Projection::Down), of(&plain, 0, Projection::Down));

    // The last layer's gate sees all layers before it changed; its own down_proj sees its gate and up changed too.
    let last = model.info().sites.iter().map(|info| info.site.layer).max().unwrap();
    let before = fitted.restrict_to(Some(0..=last - 1), None);
    let worn = Glasses::wear(&model, &before, Amplify::Refuse).unwrap();
    let on_the_last = at_once(&model, &capture, &examples, &transport);
    drop(worn);
    assert_eq!(of(&fitted, last, Projection::Up), of(&on_the_last, last, Projection::Up));
    assert_ne!(of(&fitted, last, Projection::Up), of(&plain, last, Projection::Up));
    assert_ne!(of(&fitted, last, Projection::Down), of(&on_the_last, last, Projection::Down));
}
