//! What capture adds to a forward pass of one sample: on the organism, and on a decoder of 8 layers, 1,024 wide.
//!
//! Passes without and with capture alternate, so that a machine that gets slower or faster does so for both. Before each model's
//! figures stands the share of a pass that is spent inside the tap, clocked there; it resolves what the difference
//! of two long times cannot.
//!
//!     RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo bench --bench capture
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use criterion::{Criterion, criterion_group, criterion_main};
use sgm::capture::{Pool, PooledTap, Pooling};
use sgm::core::Site;
use sgm::models::{self, AutoMllm, Mllm, ModelInputs, Padding, Prompt, Tap, TokenSelection, TokenSpans};

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

fn poolings(pools: &[Pool], masks: &[TokenSelection]) -> Vec<Pooling> {
    masks.iter().flat_map(|tokens| pools.iter().map(|pool| Pooling { pool: *pool, tokens: *tokens })).collect()
}

fn measure(c: &mut Criterion, name: &str, model: &AutoMllm, inputs: &ModelInputs, passes: u32) {
    let shown = Cell::new(0.0);
    // A model keeps the features of images that it has seen, so every pass shows one that differs in the last digits.
    let never_seen = || {
        let mut inputs = inputs.clone();
        shown.set(shown.get() + 1e-6);
        if let Some(pixels) = inputs.tensors.get_mut("pixel_values") {
            *pixels = (&*pixels * (1.0 + shown.get())).unwrap();
        }
        inputs
    };
    let pass = || {
        let inputs = never_seen();
        let start = Instant::now();
        let hidden = model.prefill(&inputs, &mut model.new_cache()).unwrap();
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
        ("max/all", poolings(&[Pool::Max], &[TokenSelection::All])),
        ("mean/all", poolings(&[Pool::Mean], &[TokenSelection::All])),
        ("mean+max/all", poolings(&[Pool::Mean, Pool::Max], &[TokenSelection::All])),
        ("mean+max/all+response", poolings(&[Pool::Mean, Pool::Max], &[TokenSelection::All, TokenSelection::Response])),
        ("every pool/all+text+response", poolings(&Pool::ALL, &[TokenSelection::All, TokenSelection::Text, TokenSelection::Response])),
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

fn organism(c: &mut Criterion) {
    let model = sgm::organism::load().unwrap();
    let image =
        Arc::new(image::RgbImage::from_fn(56, 56, |x, y| image::Rgb([if x < 20 { 200 } else { 30 }, if y < 30 { 60 } else { 220 }, 90])));
    let prompt = Prompt::user("what colour is the ring?", Some(image));
    let inputs = model.processor().responses([(&prompt, "the ring is red, i think.")], Padding::Right).unwrap();
    measure(c, "organism", &model, &inputs, 1000);
}

fn wide(c: &mut Criterion) {
    let model = sgm_benches::random_decoder(1024, 2816, 8, 1000).unwrap();
    let prompt = Prompt::Raw { text: vec!["word"; 200].join(" "), images: Vec::new() };
    let response = vec!["word"; 55].join(" ");
    let inputs = model.processor().responses([(&prompt, response.as_str())], Padding::Right).unwrap();
    measure(c, "decoder 1024 wide, 8 layers", &model, &inputs, 10);
}

criterion_group!(benches, organism, wide);
criterion_main!(benches);
