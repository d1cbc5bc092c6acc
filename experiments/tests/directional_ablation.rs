//! Directional ablation on the organism.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::sync::Arc;

use sgm::capture::Example;
use sgm::core::{Projection, Site};
use sgm::models::{Mllm, TappedModel};
use sgm::organism::{Contrast, OrganismSource};
use sgm::toxic_qa::{EvaluationSplit, Sample, Source};
use sgm_experiments::directional_ablation::DirectionalAblation;

fn samples() -> Vec<Example> {
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap().calibration(0).unwrap();
    let of = |label| samples.iter().filter(move |sample| sample.label == Some(label)).take(12);
    let example = |sample: &Sample| Example {
        id: sample.id.clone(),
        prompt: sample.as_prompt().unwrap(),
        response: sample.response.clone().unwrap(),
        toxic: sample.label == Some(true),
        unfinished: false,
    };
    of(true).chain(of(false)).map(example).collect()
}

/// The directions of a site before and after a share of them is taken away, multiplied.
fn product(share: f32, site: Site) -> f32 {
    let (model, samples) = (sgm::organism::load().unwrap(), samples());
    let ablation = DirectionalAblation::fit(&model, &samples, 8).unwrap();
    let sites = model.info().widths().keys().filter(|site| site.projection == Projection::Down).count();
    assert_eq!(ablation.directions().len(), sites);
    let tapped = TappedModel::new(&model);
    let attached = tapped.taps().attach(Arc::new(ablation.with_share(share)));
    let left = DirectionalAblation::fit(&tapped, &samples, 8).unwrap();
    drop(attached);
    (&ablation.directions()[&site] * &left.directions()[&site]).unwrap().sum_all().unwrap().to_scalar().unwrap()
}

#[test]
fn nothing_of_the_direction_is_left_after_the_whole_ablation() {
    // Nothing at all is left of the difference of layer 0, whose inputs do not change.
    for layer in 1..=5 {
        let site = Site::new(layer, Projection::Down);
        let (before, after) = (product(0.0, site), product(1.0, site));
        assert!((before - 1.0).abs() < 1e-5 && after.abs() < 1e-3, "{site}: {before} {after}");
    }
}
