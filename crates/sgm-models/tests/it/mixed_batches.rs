//! Prompts without images, with one and with several, in one batch, compute what they compute alone.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{IndexOp, Tensor};
use image::RgbImage;
use sgm_models::{AutoMllm, Checkpoint, Mllm, ModelInputs, Padding, Prompt, TokenKind};

fn image(width: u32, height: u32) -> Arc<RgbImage> {
    let channel = |n: u32| u8::try_from(n % 256).unwrap();
    Arc::new(RgbImage::from_fn(width, height, |x, y| image::Rgb([channel(2 * x), channel(3 * y), channel(x * y)])))
}

fn logits(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    model.logits(&model.prefill(inputs, &mut model.new_cache()).unwrap()).unwrap()
}

#[test]
fn rows_of_a_mixed_batch_equal_the_same_rows_alone() {
    for (name, placeholder) in [
        ("gemma3_hub", "<start_of_image>"),
        ("llava_onevision_modules", "<image>"),
        ("internvl_qwen2", "<IMG_CONTEXT>"),
        ("internvl_qwen3_modules", "<IMG_CONTEXT>"),
        ("llava_next_mistral", "<image>"),
    ] {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let model = AutoMllm::load(&Checkpoint::open(directory).unwrap()).unwrap();
        let prompts = [vec![], vec![image(90, 40)], vec![image(30, 31), image(20, 60)], vec![], vec![image(15, 100)]]
            .map(|images| Prompt::Raw { text: format!("{}What is this?", placeholder.repeat(images.len())), images });
        for padding in [Padding::Left, Padding::Right] {
            let together = model.processor().prompts(&prompts, padding).unwrap();
            let all = logits(&model, &together);
            for (row, prompt) in prompts.iter().enumerate() {
                let alone = logits(&model, &model.processor().prompts([prompt], padding).unwrap()).i(0).unwrap();
                let start = together.kinds[row].iter().position(|kind| *kind != TokenKind::Padding).unwrap();
                let same = all.i((row, start..start + alone.dim(0).unwrap())).unwrap();
                let largest = |t: Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                let difference = largest((same - &alone).unwrap()) / largest(alone);
                assert!(difference < 1e-5, "{name}, row {row}, {padding:?}: {difference}");
            }
        }
    }
}
