//! Llama 3.2 Vision beyond its goldens: given responses, and inputs that contradict each other.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Tensor};
use sgm_models::{AutoMllm, Checkpoint, Error, Mllm, ModelInputs, Padding, Prompt, TokenKind};

fn model() -> AutoMllm {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mllama_saved");
    AutoMllm::load(&Checkpoint::open(golden).unwrap()).unwrap()
}

fn image(width: u32, height: u32) -> Arc<image::RgbImage> {
    let channel = |n: u32| u8::try_from(n % 256).unwrap();
    Arc::new(image::RgbImage::from_fn(width, height, |x, y| image::Rgb([channel(2 * x), channel(3 * y), channel(x * y)])))
}

fn prompts() -> [Prompt; 2] {
    [Prompt::user("What is this?", Some(image(90, 40))), Prompt::user("So?", Some(image(30, 31)))]
}

#[test]
fn a_given_response_equals_a_decoded_one() {
    let model = model();
    let [first, second] = prompts();
    let examples = [(&first, "That is it."), (&second, "What is it? So, this.")];
    let together = model.processor().responses(examples, Padding::Right).unwrap();
    let hidden = model.prefill(&together, &mut model.new_cache()).unwrap();
    let ids = together.input_ids.to_vec2::<u32>().unwrap();
    for (row, (prompt, _)) in examples.into_iter().enumerate() {
        let inputs = model.processor().prompts([prompt], Padding::Left).unwrap();
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        let start = inputs.kinds[0].len();
        assert_eq!(together.kinds[row].iter().position(|k| *k == TokenKind::Response), Some(start));
        let end = together.kinds[row].iter().rposition(|k| *k == TokenKind::Response).unwrap();
        for (at, id) in ids[row].iter().enumerate().take(end + 1).skip(start) {
            let decoded = model.decode(&[*id], &mut cache).unwrap().i((0, 0)).unwrap();
            let given = hidden.i((row, at)).unwrap();
            let difference = (decoded - given).unwrap().abs().unwrap().max(0).unwrap().to_vec0::<f32>().unwrap();
            assert!(difference < 2e-5, "row {row}, token {at}: {difference}");
        }
    }
}

#[test]
fn text_alone_skips_cross_attention_layers() {
    let model = model();
    let text = [Prompt::user("So?", None)];
    let inputs = model.processor().prompts(&text, Padding::Left).unwrap();
    assert!(inputs.tensors.is_empty());
    let seen = Arc::new(Layers::default());
    let attached = model.taps().attach(seen.clone());
    let mut cache = model.new_cache();
    model.prefill(&inputs, &mut cache).unwrap();
    model.decode(&[5], &mut cache).unwrap();
    assert_eq!(std::mem::take(&mut *seen.0.lock().unwrap()), [0, 2].into());
    model.prefill(&model.processor().prompts(&prompts(), Padding::Left).unwrap(), &mut model.new_cache()).unwrap();
    drop(attached);
    assert_eq!(*seen.0.lock().unwrap(), [0, 1, 2, 3].into());
    assert_eq!(model.info().sites.len(), 4 * 3);
}

/// A tap that records the layers of the sites it sees.
#[derive(Default)]
struct Layers(std::sync::Mutex<std::collections::BTreeSet<usize>>);

impl sgm_models::Tap for Layers {
    fn apply(&self, site: sgm_core::Site, output: Tensor, _: &sgm_models::TokenSpans) -> sgm_models::Result<Tensor> {
        self.0.lock().unwrap().insert(site.layer);
        Ok(output)
    }
}

#[test]
fn inputs_that_contradict_each_other_are_refused() {
    let model = model();
    let good = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let (batch, tokens) = good.dims().unwrap();
    let refused = |change: &dyn Fn(&mut ModelInputs)| {
        let mut inputs = good.clone();
        change(&mut inputs);
        let error = model.prefill(&inputs, &mut model.new_cache()).unwrap_err();
        assert!(matches!(error, Error::Inputs { .. }), "{error}");
    };
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::I64, &Device::Cpu).unwrap();
    for name in ["aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask"] {
        refused(&|i| drop(i.tensors.remove(name)));
        refused(&|i| drop(i.tensors.insert(name.to_owned(), ones(&[batch]))));
    }
    refused(&|i| drop(i.tensors.insert("cross_attention_mask".to_owned(), ones(&[batch, tokens + 1, 1, 4]))));
    refused(&|i| drop(i.tensors.insert("cross_attention_mask".to_owned(), ones(&[batch, tokens, 2, 4]))));
    refused(&|i| drop(i.tensors.insert("cross_attention_mask".to_owned(), ones(&[batch, 0, 1, 4]))));
    refused(&|i| drop(i.tensors.insert("pixel_values".to_owned(), ones(&[batch, 1, 4, 3, 8, 9]))));
    refused(&|i| drop(i.tensors.insert("pixel_values".to_owned(), ones(&[batch, 1, 3, 3, 8, 8]))));
    refused(&|i| {
        for (name, shape) in [("pixel_values", &[1, 2, 4, 3, 8, 8][..]), ("aspect_ratio_ids", &[1, 2]), ("aspect_ratio_mask", &[1, 2, 4])] {
            i.tensors.insert(name.to_owned(), ones(shape));
        }
    });
    let mut no_such_arrangement = good.clone();
    no_such_arrangement.tensors.insert("aspect_ratio_ids".to_owned(), (ones(&[batch, 1]) * 9.0).unwrap());
    assert!(model.prefill(&no_such_arrangement, &mut model.new_cache()).is_err());

    let shows_another = model.processor().responses([(&prompts()[0], "It is <|image|>.")], Padding::Right);
    assert!(matches!(shows_another, Err(Error::Prompt { prompt: 0, .. })));
}
