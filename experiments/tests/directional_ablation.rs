//! Directional ablation on the organism.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use sgm::capture::Example;
use sgm::core::{Projection, Site};
use sgm::models::{Mllm, TappedModel};
use sgm::organism::{Contrast, OrganismSource};
use sgm::toxic_qa::{EvaluationSplit, Source};
use sgm_examples::calibration;
use sgm_experiments::directional_ablation::DirectionalAblation;

fn samples(label: bool) -> impl Iterator<Item = Example> {
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap().calibration(0).unwrap();
    let of = samples.into_iter().filter(move |sample| sample.label == Some(label));
    of.take(12).map(|sample| calibration::example(&sample).unwrap())
}

#[test]
fn nothing_of_the_direction_is_left_after_the_whole_ablation() {
    let model = sgm::organism::load().unwrap();
    let samples: Vec<Example> = samples(true).chain(samples(false)).collect();
    let ablation = DirectionalAblation::fit(&model, &samples, 8).unwrap();
    let sites = model.info().widths().into_keys().filter(|site| site.projection == Projection::Down);
    assert_eq!(ablation.directions().keys().copied().collect::<Vec<_>>(), sites.collect::<Vec<_>>());
    // The cosines of the directions before and after a share is taken away.
    let left = |share| -> BTreeMap<Site, f32> {
        let tapped = TappedModel::new(&model);
        let _attached = tapped.taps().attach(Arc::new(ablation.with_share(share)));
        let left = DirectionalAblation::fit(&tapped, &samples, 8).unwrap();
        let cosine = |(site, direction): (&Site, &Tensor)| {
            let product = (direction * &ablation.directions()[site]).unwrap();
            (*site, product.sum_all().unwrap().to_scalar().unwrap())
        };
        left.directions().iter().map(cosine).collect()
    };
    let (none, all) = (left(0.0), left(1.0));
    assert!(none.len() == 6 && none.values().all(|cosine| (cosine - 1.0).abs() < 1e-5), "{none:?}");
    // Nothing at all is left of the difference of layer 0, whose inputs do not change: its direction is rounding.
    let later: Vec<f32> = all.into_iter().filter(|(site, _)| site.layer > 0).map(|(_, cosine)| cosine).collect();
    assert!(later.len() == 5 && later.iter().all(|cosine| cosine.abs() < 1e-3), "{later:?}");
}

#[test]
fn samples_of_one_class_are_refused() {
    let model = sgm::organism::load().unwrap();
    let error = DirectionalAblation::fit(&model, &samples(true).collect::<Vec<_>>(), 8).err().unwrap();
    assert!(error.to_string().contains("add samples"), "{error}");
}
