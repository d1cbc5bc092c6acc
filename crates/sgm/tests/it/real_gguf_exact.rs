//! The published language model of `real_gguf.rs` with its matrices dequantised: our logits are those of candle's own model.

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use sgm::models::{AutoMllm, Checkpoint, Matrices, Mllm, Padding, Prompt};

#[test]
fn dequantised_logits_are_candles_own() {
    if std::env::var_os("SGM_REAL_GGUF").is_none() {
        eprintln!("skipped: SGM_REAL_GGUF names no file");
        return;
    }
    // candle takes this setting from the environment alone: the comparison runs in a process of its own.
    let mut comparison = std::process::Command::new(std::env::current_exe().unwrap());
    comparison.args(["--exact", "real_gguf_exact::compared", "--ignored", "--nocapture"]).env("CANDLE_DEQUANTIZE_ALL", "1");
    assert!(comparison.status().unwrap().success());
}

#[test]
#[ignore = "the test above runs it with CANDLE_DEQUANTIZE_ALL set"]
fn compared() {
    let file = std::env::var_os("SGM_REAL_GGUF").unwrap();
    assert_eq!(std::env::var("CANDLE_DEQUANTIZE_ALL").as_deref(), Ok("1"));
    let ours = AutoMllm::load(&Checkpoint::open(&file).unwrap().with_matrices(Matrices::Widen)).unwrap();
    let mut reader = std::io::BufReader::new(std::fs::File::open(file).unwrap());
    let content = Content::read(&mut reader).unwrap();
    let mut candle = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    for text in ["The capital of France is", "def fibonacci(n):\n    if n <", "Once upon a time there was a small red boat"] {
        let inputs = ours.processor().prompts(&[Prompt::Raw { text: text.to_owned(), images: vec![] }], Padding::Left).unwrap();
        let hidden = ours.prefill(&inputs, &mut ours.new_cache()).unwrap();
        let last = hidden.narrow(1, hidden.dim(1).unwrap() - 1, 1).unwrap().contiguous().unwrap();
        let values = |logits: Tensor| logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (ours, theirs) = (values(ours.logits(&last).unwrap()), values(candle.forward(&inputs.input_ids, 0).unwrap()));
        let largest = theirs.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let difference = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / largest;
        eprintln!("{text:?}: relative difference {difference:e}");
        assert_eq!(ours.len(), theirs.len());
        assert!(difference <= 1e-5, "{text}: {difference}");
    }
}
