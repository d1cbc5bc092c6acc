//! The scaling kernel beside a copy of the same bytes.
#![allow(missing_docs, reason = "criterion makes public items without")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sgm::suppress::scale_rows;

fn suppress(c: &mut Criterion) {
    let mut group = c.benchmark_group("suppress");
    for (tokens, neurons) in [(1usize, 11_008usize), (64, 11_008), (640, 11_008)] {
        let mut responses = vec![0.5f32; tokens * neurons];
        let mut copy = responses.clone();
        let scale: Vec<f32> = (0..neurons).map(|i| if i % 20 == 0 { 0.3 } else { 1.0 }).collect();
        group.throughput(Throughput::Bytes((tokens * neurons * size_of::<f32>()) as u64));
        group.bench_function(BenchmarkId::new("scale_rows f32", format!("{tokens}x{neurons}")), |b| {
            b.iter(|| scale_rows(&mut responses, &scale))
        });
        group.bench_function(BenchmarkId::new("memcpy", format!("{tokens}x{neurons}")), |b| b.iter(|| copy.copy_from_slice(&responses)));
    }
    group.finish();
}

criterion_group!(benches, suppress);
criterion_main!(benches);
