//! InstructBLIP beyond its goldens: given responses, prompts without an image, padding, invalid inputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, IndexOp, Tensor};
use sgm_models::{AutoMllm, Checkpoint, Error, Mllm, ModelInputs, Padding, Prompt, TokenKind};

const QUERIES: usize = 3;

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/instructblip_saved")
}

fn open(directory: &Path) -> AutoMllm {
    AutoMllm::load(&Checkpoint::open(directory).unwrap()).unwrap()
}

fn image(width: u32, height: u32) -> Arc<image::RgbImage> {
    let channel = |n: u32| u8::try_from(n % 256).unwrap();
    Arc::new(image::RgbImage::from_fn(width, height, |x, y| image::Rgb([channel(2 * x), channel(3 * y), channel(x * y)])))
}

fn prompts() -> [Prompt; 3] {
    [
        Prompt::user("What is this?", Some(image(90, 40))),
        Prompt::user("What is that, the other?", None),
        Prompt::user("So?", Some(image(30, 31))),
    ]
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max(0).unwrap().to_vec0().unwrap()
}

#[test]
fn a_given_response_equals_a_decoded_one() {
    let model = open(&golden());
    let prompts = prompts();
    let examples: Vec<_> = prompts.iter().zip(["That is it.", "So?", "What is it? So, this."]).collect();
    let together = model.processor().responses(examples.iter().copied(), Padding::Right).unwrap();
    let hidden = model.prefill(&together, &mut model.new_cache()).unwrap();
    let ids = together.input_ids.to_vec2::<u32>().unwrap();
    for (row, (prompt, _)) in examples.into_iter().enumerate() {
        let inputs = model.processor().prompts([prompt], Padding::Left).unwrap();
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        let response = |kind: &TokenKind| *kind == TokenKind::Response;
        let (start, end) =
            (together.kinds[row].iter().position(response).unwrap(), together.kinds[row].iter().rposition(response).unwrap());
        // In a batch of its own, a prompt without an image has no padding in front.
        let in_front = if prompt.images().is_empty() { QUERIES } else { 0 };
        assert_eq!(start, inputs.kinds[0].len() + in_front);
        for (at, id) in ids[row].iter().enumerate().take(end + 1).skip(start) {
            let decoded = model.decode(&[*id], &mut cache).unwrap().i((0, 0)).unwrap();
            assert!(difference(&decoded, &hidden.i((row, at)).unwrap()) < 2e-5, "row {row}, token {at}");
        }
    }
}

#[test]
fn rows_without_an_image_have_padding_in_front() {
    let model = open(&golden());
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let front: Vec<_> = inputs.kinds.iter().map(|row| row[..QUERIES].to_vec()).collect();
    assert_eq!(front, [TokenKind::Image, TokenKind::Padding, TokenKind::Image].map(|kind| vec![kind; QUERIES]));
    assert_eq!(inputs.tensors["pixel_values"].dim(0).unwrap(), 2);
    assert_eq!(inputs.tensors["qformer_input_ids"].dim(0).unwrap(), 2);
    let text = model.processor().prompts(&prompts()[1..2], Padding::Left).unwrap();
    assert!(text.tensors.is_empty());
    let last = |inputs: &ModelInputs, row: usize| {
        let hidden = model.prefill(inputs, &mut model.new_cache()).unwrap();
        hidden.i((row, hidden.dim(1).unwrap() - 1)).unwrap()
    };
    assert!(difference(&last(&inputs, 1), &last(&text, 0)) < 1e-5);
}

#[test]
fn the_padding_side_of_the_first_tokenizer_overrides_that_of_the_second() {
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("qformer_tokenizer")).unwrap();
    let files = ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"];
    for file in files.into_iter().chain(["qformer_tokenizer/tokenizer.json", "qformer_tokenizer/tokenizer_config.json"]) {
        std::fs::copy(golden().join(file), copy.path().join(file)).unwrap();
    }
    let first_padded = |directory: &Path| {
        let inputs = open(directory).processor().prompts([&prompts()[2], &prompts()[0]], Padding::Left).unwrap();
        let mask = inputs.tensors["qformer_attention_mask"].to_vec2::<i64>().unwrap();
        (mask[0][0] == 0, mask[0].last() == Some(&0))
    };
    assert_eq!(first_padded(copy.path()), (true, false));
    let settings = copy.path().join("tokenizer_config.json");
    let text = std::fs::read_to_string(&settings).unwrap().replace("\"padding_side\"", "\"other_side\"");
    std::fs::write(&settings, text).unwrap();
    assert_eq!(first_padded(copy.path()), (false, true));

    std::fs::remove_file(copy.path().join("qformer_tokenizer/tokenizer.json")).unwrap();
    let error = AutoMllm::load(&Checkpoint::open(copy.path()).unwrap()).unwrap_err();
    assert!(matches!(error, Error::MissingFile { .. }) && error.to_string().contains("qformer_tokenizer"), "{error}");
}

#[test]
fn inputs_that_contradict_each_other_are_refused() {
    let model = open(&golden());
    let good = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let refused = |change: &dyn Fn(&mut ModelInputs)| {
        let mut inputs = good.clone();
        change(&mut inputs);
        let error = model.prefill(&inputs, &mut model.new_cache()).unwrap_err();
        assert!(matches!(error, Error::Inputs { .. }), "{error}");
    };
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::I64, &Device::Cpu).unwrap();
    for name in ["qformer_input_ids", "qformer_attention_mask", "pixel_values"] {
        refused(&|i| drop(i.tensors.remove(name)));
        refused(&|i| drop(i.tensors.insert(name.to_owned(), ones(&[1, 5]))));
    }
    refused(&|i| drop(i.tensors.insert("pixel_values".to_owned(), ones(&[2, 3, 8, 9]))));
    // More tokens than the Q-Former has positions.
    refused(&|i| {
        for name in ["qformer_input_ids", "qformer_attention_mask"] {
            i.tensors.insert(name.to_owned(), ones(&[2, 33]));
        }
    });
    let two = Prompt::Raw { text: "So?".to_owned(), images: vec![image(9, 9), image(9, 9)] };
    assert!(matches!(model.processor().check(&two, None), Err(Error::ImageCount { images: 2, .. })));
}
