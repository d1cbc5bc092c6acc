//! A checkpoint of LLaVA-1.5-7B's size loads and is captured in little more memory than its weights take.
//!
//! The checkpoint, 13.5 GB, is made by a tool; the test is run by hand, on a machine with 24 GiB:
//!
//!     cargo run --release -p sgm-experiments --bin random_checkpoint -- --out /somewhere/llava-7b-shaped
//!     SGM_LARGE_MODEL=/somewhere/llava-7b-shaped cargo test --release -p sgm --test it -- --ignored --nocapture

use std::sync::Arc;

use sgm::capture::{ActivationStore, Example, Pool, Pooling, capture};
use sgm::models::{AutoMllm, Checkpoint, Mllm, Prompt, TokenSelection};

/// The largest resident size of this process so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[ignore = "needs a 13.5 GB checkpoint and 16 GB of memory; the head of this file says how"]
fn capturing_one_sample_takes_the_weights_and_two_gibibytes() {
    let directory = std::env::var("SGM_LARGE_MODEL").expect("SGM_LARGE_MODEL names the checkpoint");
    let files = std::fs::read_dir(&directory).unwrap().map(|f| f.unwrap());
    let weights: u64 =
        files.filter(|f| f.path().extension().is_some_and(|e| e == "safetensors")).map(|f| f.metadata().unwrap().len()).sum();

    let started = std::time::Instant::now();
    let model = AutoMllm::load(&Checkpoint::open(&directory).unwrap()).unwrap();
    let (loaded, seconds) = (peak(), started.elapsed().as_secs_f64());
    let image = Arc::new(image::RgbImage::from_fn(640, 480, |x, y| {
        image::Rgb([(x / 3).try_into().unwrap_or(255), (y / 2).try_into().unwrap_or(255), 90])
    }));
    let prompt = Prompt::user("what is this ?", Some(image));
    let sample = Example { id: "one".to_owned(), prompt, response: "a cat".to_owned(), toxic: false, unfinished: false };
    let store = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    capture(&model, &[sample], Pooling { pool: Pool::Mean, tokens: TokenSelection::All }, None, &store.path().join("store"), 1).unwrap();
    let captured = peak();

    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    eprintln!("weights {:.2} GiB, {} neurons", gib(weights), model.info().neurons());
    eprintln!("loaded in {seconds:.0} s, peak {:.2} GiB", gib(loaded));
    eprintln!("captured one sample in {:.0} s, peak {:.2} GiB", started.elapsed().as_secs_f64(), gib(captured));
    assert_eq!(ActivationStore::open(store.path().join("store")).unwrap().ids().len(), 1);
    assert!(captured <= weights + (2 << 30));
}
