//! Views of one model, each with taps of its own.

use std::sync::Arc;

use candle_core::Tensor;
use sgm::core::{Intervention, SiteIntervention};
use sgm::models::{AutoMllm, GenerateOptions, Generation, Generator, Mllm, Padding, Prompt, TappedModel};
use sgm::suppress::{Amplify, Glasses};

fn prompts() -> Vec<Prompt> {
    let image =
        Arc::new(image::RgbImage::from_fn(56, 56, |x, y| image::Rgb([u8::try_from(4 * x).unwrap(), u8::try_from(3 * y).unwrap(), 9])));
    let questions = ["what do you see?", "name the shape.", "hello.", "tell me a story."];
    questions.iter().flat_map(|question| [Prompt::user(*question, Some(image.clone())), Prompt::user(*question, None)]).collect()
}

fn glasses(model: &impl Mllm, scale: f32) -> Intervention {
    let mut glasses = Intervention::default();
    for info in &model.info().sites {
        glasses.insert(info.site, SiteIntervention::from_scale(vec![scale; info.width])).unwrap();
    }
    glasses
}

fn options() -> GenerateOptions {
    GenerateOptions { max_new_tokens: 16, batch_size: 3, ..Default::default() }
}

fn bits(model: &impl Mllm) -> Vec<u32> {
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let mut cache = model.new_cache();
    let prefilled = model.prefill(&inputs, &mut cache).unwrap();
    let decoded = model.decode(&vec![5; prompts().len()], &mut cache).unwrap();
    let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
    [bits(&prefilled), bits(&decoded)].concat()
}

/// The bits, and the answers, of the model with glasses attached to itself.
fn alone(model: &AutoMllm, scale: Option<f32>) -> (Vec<u32>, Vec<Generation>) {
    let _worn = scale.map(|scale| Glasses::wear(model, &glasses(model, scale), Amplify::Refuse).unwrap());
    (bits(model), model.generate(&prompts(), &options()).unwrap())
}

#[test]
fn a_view_has_its_taps_and_the_model_its_own() {
    let model = sgm::organism::load().unwrap();
    let (bare, half) = (alone(&model, None), alone(&model, Some(0.5)));
    assert_ne!(bare, half);
    let view = TappedModel::new(&model);
    assert_eq!((bits(&view), view.generate(&prompts(), &options()).unwrap()), bare, "without taps a view is the model");
    let worn = Glasses::wear(&view, &glasses(&view, 0.5), Amplify::Refuse).unwrap();
    assert!(model.taps().is_empty() && view.taps().len() == 1);
    assert_eq!((bits(&view), view.generate(&prompts(), &options()).unwrap()), half);
    assert_eq!((bits(&model), model.generate(&prompts(), &options()).unwrap()), bare, "the model goes without");
    drop(worn);
    assert_eq!(bits(&view), bare.0);
}

#[test]
fn taps_of_model_and_views_add_up() {
    let model = sgm::organism::load().unwrap();
    let view = TappedModel::new(&model);
    let inner = TappedModel::new(&view);
    let twice = {
        let _first = Glasses::wear(&model, &glasses(&model, 0.5), Amplify::Refuse).unwrap();
        let _second = Glasses::wear(&model, &glasses(&model, 0.25), Amplify::Refuse).unwrap();
        let _third = Glasses::wear(&model, &glasses(&model, 0.75), Amplify::Refuse).unwrap();
        bits(&model)
    };
    let _first = Glasses::wear(&model, &glasses(&model, 0.5), Amplify::Refuse).unwrap();
    let _second = Glasses::wear(&view, &glasses(&model, 0.25), Amplify::Refuse).unwrap();
    let _third = Glasses::wear(&inner, &glasses(&model, 0.75), Amplify::Refuse).unwrap();
    assert_eq!(bits(&inner), twice);
    assert_ne!(bits(&view), twice);
}

#[test]
fn a_prefill_in_parts_keeps_the_order_of_the_taps() {
    let model = sgm::organism::load().unwrap();
    let view = TappedModel::new(&model);
    let inner = TappedModel::new(&view);
    // A scale and a shift do not commute.
    let mut shifts = Intervention::default();
    for info in &model.info().sites {
        let shift = Some(vec![0.5; info.width]);
        shifts.insert(info.site, SiteIntervention { shift, ..SiteIntervention::from_scale(vec![1.0; info.width]) }).unwrap();
    }
    let _first = Glasses::wear(&view, &shifts, Amplify::Refuse).unwrap();
    let _second = Glasses::wear(&inner, &glasses(&model, 0.5), Amplify::Refuse).unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let whole = inner.prefill(&inputs, &mut inner.new_cache()).unwrap();
    let begun = inner.continue_prefill(&inner.begin_prefill(&inputs).unwrap(), 2).unwrap();
    let parts = inner.finish_prefill(&begun).unwrap();
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&parts), values(&whole));
}

#[test]
fn views_run_at_the_same_time() {
    let model = sgm::organism::load().unwrap();
    let scales = [None, Some(0.5), Some(0.25), None];
    let expected: Vec<Vec<Generation>> = scales.iter().map(|scale| alone(&model, *scale).1).collect();
    let views: Vec<TappedModel<'_, AutoMllm>> = scales.iter().map(|_| TappedModel::new(&model)).collect();
    let worn =
        views.iter().zip(scales).filter_map(|(view, scale)| Some(Glasses::wear(view, &glasses(view, scale?), Amplify::Refuse).unwrap()));
    let _worn: Vec<Glasses> = worn.collect();
    for _ in 0..3 {
        let answers: Vec<Vec<Generation>> = std::thread::scope(|threads| {
            let running: Vec<_> = views.iter().map(|view| threads.spawn(|| view.generate(&prompts(), &options()).unwrap())).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(answers, expected);
    }
}
