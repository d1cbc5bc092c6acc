//! AUROC of many columns, exact, in f32 and bf16, on one thread and on all.
#![allow(missing_docs, reason = "criterion makes public items without")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sgm::score::{Response, ScoreOptions, score};

const NEURONS: usize = 1024;

/// Roughly normal responses: the sum of four uniform numbers.
fn responses(samples: usize) -> Array2<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    Array2::from_shape_simple_fn((samples, NEURONS), || (0..4).map(|_| rng.random::<f32>() - 0.5).sum())
}

fn bench<T: Response>(c: &mut Criterion, dtype: &str, convert: impl Fn(f32) -> T) {
    let mut group = c.benchmark_group(format!("auroc/{dtype}"));
    for samples in [1_000usize, 4_000] {
        let responses = responses(samples).mapv(&convert);
        let labels: Vec<bool> = (0..samples).map(|i| i % 2 == 0).collect();
        group.throughput(Throughput::Elements((samples * NEURONS) as u64));
        for threads in [1, rayon::current_num_threads()] {
            let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else { continue };
            group.bench_with_input(BenchmarkId::new(format!("{threads} threads"), samples), &responses, |b, responses| {
                b.iter(|| pool.install(|| score(&responses.view(), &labels, &ScoreOptions::default())));
            });
        }
    }
    group.finish();
}

fn auroc(c: &mut Criterion) {
    bench(c, "f32", |v| v);
    bench(c, "bf16", bf16::from_f32);
}

criterion_group!(benches, auroc);
criterion_main!(benches);
