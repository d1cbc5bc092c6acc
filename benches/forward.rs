//! The organism's forward pass: plain, with the capture tap, and with glasses on.
//!
//! Larger models are measured beside torch and llama.cpp by `tools/peers/forward.sh`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sgm::capture::{Pool, PooledTap, Pooling};
use sgm::core::{Intervention, Metadata, SiteIntervention};
use sgm::models::{Mllm, Padding, Prompt, TokenSelection};
use sgm::suppress::{Amplify, Glasses};

fn forward(c: &mut Criterion) {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts([&Prompt::user("tell me a story about a fox.", None)], Padding::Left).unwrap();
    let tokens = inputs.dims().unwrap().1;
    let mut intervention = Intervention::new(Metadata::default());
    for info in &model.info().sites {
        intervention.insert(info.site, SiteIntervention::from_scale(vec![0.5; info.width])).unwrap();
    }
    let prefill = || model.prefill(&inputs, &mut model.new_cache()).unwrap();
    let mut group = c.benchmark_group("forward");
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function("plain", |b| b.iter(prefill));
    let tap = Arc::new(PooledTap::new(vec![Pooling { pool: Pool::Max, tokens: TokenSelection::All }]));
    let attached = model.taps().attach(tap.clone());
    group.bench_function("captured", |b| {
        b.iter(|| {
            prefill();
            tap.take()
        });
    });
    drop(attached);
    let worn = Glasses::wear(&model, &intervention, Amplify::Refuse).unwrap();
    group.bench_function("every neuron scaled", |b| b.iter(prefill));
    drop(worn);
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
