//! Caches: clones are independent, and retained rows continue unchanged.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use sgm_models::{AutoMllm, Cache, Checkpoint, Mllm, ModelInputs, Padding, Prompt};

/// Models with images in the token sequence, outside of it, and before it.
fn models() -> [AutoMllm; 3] {
    let goldens = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    ["llava_mha", "mllama_saved", "instructblip_saved"].map(|name| AutoMllm::load(&Checkpoint::open(goldens.join(name)).unwrap()).unwrap())
}

fn inputs(model: &AutoMllm) -> ModelInputs {
    let image = |w, h| Arc::new(image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x, y, 7 * x].map(|c| u8::try_from(c % 256).unwrap()))));
    let prompts = [
        Prompt::user("What is this?", Some(image(40, 90))),
        Prompt::user("So?", None),
        Prompt::user("Is it what it was?", Some(image(70, 60))),
    ];
    model.processor().prompts(&prompts, Padding::Left).unwrap()
}

fn decode(model: &AutoMllm, cache: &mut Cache, steps: &[&[u32]]) -> Vec<Vec<f32>> {
    let hidden: Vec<Tensor> = steps.iter().map(|tokens| model.decode(tokens, cache).unwrap()).collect();
    rows(hidden.last().unwrap())
}

fn rows(hidden: &Tensor) -> Vec<Vec<f32>> {
    hidden.squeeze(1).unwrap().to_vec2().unwrap()
}

fn prefilled(model: &AutoMllm) -> Cache {
    let mut cache = model.new_cache();
    model.prefill(&inputs(model), &mut cache).unwrap();
    cache
}

#[test]
fn clones_are_independent() {
    for model in models() {
        let (one, other): ([&[u32]; 2], [&[u32]; 2]) = ([&[7, 8, 9], &[20, 21, 22]], [&[30, 31, 32], &[24, 25, 26]]);
        let alone = [one, other].map(|steps| decode(&model, &mut prefilled(&model), &steps));
        let mut cache = prefilled(&model);
        let mut clone = cache.clone();
        // In turns, so that a shared buffer would be overwritten.
        model.decode(one[0], &mut cache).unwrap();
        model.decode(other[0], &mut clone).unwrap();
        assert_eq!(rows(&model.decode(one[1], &mut cache).unwrap()), alone[0]);
        assert_eq!(rows(&model.decode(other[1], &mut clone).unwrap()), alone[1]);
    }
}

#[test]
fn retained_rows_continue_as_if_none_were_dropped() {
    for model in models() {
        let whole = decode(&model, &mut prefilled(&model), &[&[7, 8, 9], &[20, 21, 22], &[30, 31, 32]]);
        let mut cache = prefilled(&model);
        model.decode(&[7, 8, 9], &mut cache).unwrap();
        cache.retain(&[2, 0]).unwrap();
        let kept = decode(&model, &mut cache, &[&[22, 20], &[32, 30]]);
        for (kept, whole) in kept.iter().zip([&whole[2], &whole[0]]) {
            assert!(kept.iter().zip(whole).all(|(a, b)| (a - b).abs() < 1e-5), "{kept:?}\n{whole:?}");
        }
        assert!(whole[0].iter().zip(&whole[2]).any(|(a, b)| (a - b).abs() > 1e-2), "the rows do not differ");
        assert!(cache.retain(&[2]).is_err());
    }
}
