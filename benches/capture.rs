//! What capture adds to a forward pass of one sample: on the organism, and on a decoder of 8 layers, 1,024 wide.
//!
//! Passes without and with capture alternate, so that a machine that gets slower or faster does so for both. Before each model's
//! figures stands the share of a pass that is spent inside the tap, clocked there; it resolves what the difference
//! of two long times cannot.
//!
//!     RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo bench --bench capture
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use criterion::{Criterion, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use sgm::capture::{Pool, PooledTap, Pooling};
use sgm::core::Site;
use sgm::models::{self, AutoMllm, Checkpoint, Mllm, ModelInputs, Padding, Prompt, Tap, TokenMask, TokenSpans};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A tap with a clock.
struct Clocked {
    tap: PooledTap,
    nanoseconds: AtomicU64,
}

impl Tap for Clocked {
    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> models::Result<Tensor> {
        let start = Instant::now();
        let output = self.tap.apply(site, output, spans);
        self.nanoseconds.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap(), Ordering::Relaxed);
        output
    }
}

fn poolings(pools: &[Pool], masks: &[TokenMask]) -> Vec<Pooling> {
    masks.iter().flat_map(|mask| pools.iter().map(|pool| Pooling { pool: *pool, mask: *mask })).collect()
}

fn measure(c: &mut Criterion, name: &str, model: &AutoMllm, inputs: &ModelInputs, passes: u32) {
    let pass = || {
        let start = Instant::now();
        let hidden = model.prefill(inputs, &mut model.new_cache()).unwrap();
        std::hint::black_box(hidden);
        start.elapsed()
    };
    let captured_pass = |tap: &PooledTap, attach: &dyn Fn() -> models::TapGuard| {
        let start = Instant::now();
        let attached = attach();
        pass();
        std::hint::black_box(tap.take());
        drop(attached);
        start.elapsed()
    };
    let settings = [
        ("max/all", poolings(&[Pool::Max], &[TokenMask::All])),
        ("mean/all", poolings(&[Pool::Mean], &[TokenMask::All])),
        ("mean+max/all", poolings(&[Pool::Mean, Pool::Max], &[TokenMask::All])),
        ("mean+max/all+response", poolings(&[Pool::Mean, Pool::Max], &[TokenMask::All, TokenMask::Response])),
        ("every pool/all+text+response", poolings(&Pool::ALL, &[TokenMask::All, TokenMask::Text, TokenMask::Response])),
    ];
    println!("{name}: {} tokens", inputs.dims().unwrap().1);
    for (poolings, list) in &settings {
        let tap = Arc::new(Clocked { tap: PooledTap::new(list.clone()), nanoseconds: AtomicU64::new(0) });
        let attach = || model.taps().attach(tap.clone());
        captured_pass(&tap.tap, &attach);
        tap.nanoseconds.store(0, Ordering::Relaxed);
        let total: Duration = (0..passes).map(|_| captured_pass(&tap.tap, &attach)).sum();
        let share = tap.nanoseconds.load(Ordering::Relaxed) as f64 / total.as_nanos() as f64;
        println!("  {poolings}: {:.2} % of a pass is spent in the tap", 100.0 * share);
    }
    let mut group = c.benchmark_group(name);
    group.sample_size(20).measurement_time(Duration::from_secs(4));
    group.bench_function("plain", |b| b.iter_custom(|n| (0..n).map(|_| pass()).sum()));
    for (poolings, list) in &settings {
        let tap = Arc::new(PooledTap::new(list.clone()));
        let attach = || model.taps().attach(tap.clone());
        for captured in [false, true] {
            let id =
                format!("{}, alternating with {}", if captured { poolings } else { "plain" }, if captured { "plain" } else { poolings });
            group.bench_function(id, |b| {
                b.iter_custom(|n| {
                    let both = (0..n).map(|_| (pass(), captured_pass(&tap, &attach)));
                    both.map(|(plain, with)| if captured { with } else { plain }).sum()
                });
            });
        }
    }
    group.finish();
}

/// A decoder with random weights and a tokenizer of a few words, as files.
fn write_decoder(directory: &Path, hidden: usize, intermediate: usize, layers: usize, vocabulary: usize) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": hidden / 64,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": 1,
    });
    let tokenizer = json!({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "</s>": 1, "word": 2}, "unk_token": "<unk>"}});
    let tokens = json!({"eos_token": "</s>", "unk_token": "<unk>"});
    for (file, value) in [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", tokens)] {
        std::fs::write(directory.join(file), value.to_string()).unwrap();
    }
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![vocabulary, hidden]), ("model.norm".to_owned(), vec![hidden])];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        shapes.extend(["q", "k", "v", "o"].map(|p| (name(&format!("self_attn.{p}_proj")), vec![hidden, hidden])));
        shapes.extend(["gate", "up"].map(|p| (name(&format!("mlp.{p}_proj")), vec![intermediate, hidden])));
        shapes.push((name("mlp.down_proj"), vec![hidden, intermediate]));
        shapes.extend(["input_layernorm", "post_attention_layernorm"].map(|p| (name(p), vec![hidden])));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut values = |shape: &[usize]| -> Vec<u8> {
        let gain = (3.0 / *shape.last().unwrap() as f32).sqrt();
        (0..shape.iter().product()).flat_map(|_| if shape.len() == 1 { 1.0 } else { rng.random_range(-gain..gain) }.to_le_bytes()).collect()
    };
    let data: Vec<_> = shapes.into_iter().map(|(name, shape)| (format!("{name}.weight"), values(&shape), shape)).collect();
    let views = data.iter().map(|(name, bytes, shape)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &directory.join("model.safetensors")).unwrap();
}

fn organism(c: &mut Criterion) {
    let model = sgm::organism::load().unwrap();
    let image =
        Arc::new(image::RgbImage::from_fn(56, 56, |x, y| image::Rgb([if x < 20 { 200 } else { 30 }, if y < 30 { 60 } else { 220 }, 90])));
    let prompt = Prompt::user("what colour is the ring?", Some(image));
    let inputs = model.processor().responses([(&prompt, "the ring is red, i think.")], Padding::Right).unwrap();
    measure(c, "organism", &model, &inputs, 1000);
}

fn decoder(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    write_decoder(directory.path(), 1024, 2816, 8, 1000);
    let model = AutoMllm::load(&Checkpoint::open(directory.path()).unwrap()).unwrap();
    let prompt = Prompt::Raw { text: vec!["word"; 200].join(" "), images: Vec::new() };
    let response = vec!["word"; 55].join(" ");
    let inputs = model.processor().responses([(&prompt, response.as_str())], Padding::Right).unwrap();
    measure(c, "decoder 1024 wide, 8 layers", &model, &inputs, 10);
}

criterion_group!(benches, organism, decoder);
criterion_main!(benches);
