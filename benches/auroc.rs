//! AUROC of many columns: the exact engine on one thread and on all.
#![allow(missing_docs, reason = "criterion makes public items without")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use sgm::score::auroc_columns;

fn auroc(c: &mut Criterion) {
    let mut group = c.benchmark_group("auroc");
    for samples in [1_000u32, 4_000] {
        let neurons = 512u32;
        // Any numbers without ties will do: a Weyl sequence.
        let value = |(i, j): (usize, usize)| ((i * 7919 + j * 104_729 + 1) as f32 * 0.618_034).fract();
        let responses = Array2::from_shape_fn((samples as usize, neurons as usize), value);
        let labels: Vec<bool> = (0..samples).map(|i| i % 3 == 0).collect();
        group.throughput(Throughput::Elements(u64::from(samples) * u64::from(neurons)));
        for threads in [1, rayon::current_num_threads()] {
            let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else { continue };
            group.bench_with_input(BenchmarkId::new(format!("{threads} threads"), samples), &responses, |b, responses| {
                b.iter(|| pool.install(|| auroc_columns(responses.view(), &labels)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, auroc);
criterion_main!(benches);
