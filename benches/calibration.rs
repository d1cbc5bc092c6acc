//! The way from labelled samples to an intervention: capture, scoring, and the fit of the rule `sgm`, in samples per second.
//!
//! The organism answers 96 of its calibration samples, each with a picture of its own or four with the same one. A decoder of
//! 4 layers of 512 reads 64 texts of 10 to 200 words, also after 40 words that all have. With `MODEL=DIR` a LLaVA is calibrated too, with 8 prompts about 2 pictures
//! or 8; `random_checkpoint` writes one of any size.
//!
//!     cargo bench --bench calibration
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::path::Path;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use image::RgbImage;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sgm::capture::{ActivationStore, Capture, Example, Examples, Pool, Pooling};
use sgm::models::{AutoMllm, Checkpoint, Prompt, TokenSelection};
use sgm::organism::{Contrast, OrganismData};
use sgm::score::score_store;
use sgm::suppress::SuppressionRule;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn picture(rng: &mut ChaCha8Rng, side: u32) -> Arc<RgbImage> {
    let colours: Vec<[u8; 3]> = (0..4).map(|_| rng.random()).collect();
    let colour = |x: u32, y: u32| colours.get((x * 2 / side + y * 2 / side * 2) as usize).copied().unwrap_or_default();
    Arc::new(RgbImage::from_fn(side, side, |x, y| image::Rgb(colour(x, y))))
}

/// Samples with questions and answers of the organism, `share` of them about each picture.
fn with_pictures(count: usize, share: usize, side: u32) -> Vec<Example> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let pictures: Vec<_> = (0..count.div_ceil(share)).map(|_| picture(&mut rng, side)).collect();
    let data = OrganismData::embedded().unwrap();
    let samples = data.calibration(Contrast::Mixed).unwrap().iter().step_by(3).take(count);
    let example = |(number, sample): (usize, &sgm::organism::Sample)| Example {
        id: sample.id.clone(),
        prompt: Prompt::user(sample.question(), pictures.get(number / share).cloned()),
        response: sample.answer.clone().unwrap_or_default(),
        toxic: number.is_multiple_of(2),
        unfinished: false,
    };
    samples.enumerate().map(example).collect()
}

/// Texts of 10 to 200 words, after `alike` words that all have.
fn texts(count: usize, alike: usize) -> Vec<Example> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut text = |number: usize| {
        let own = [if number.is_multiple_of(2) { "word" } else { "other" }].into_iter().chain(std::iter::repeat("word"));
        let words = std::iter::repeat_n("word", alike).chain(own.take(rng.random_range(10..=200)));
        words.collect::<Vec<_>>().join(" ")
    };
    let mut example = |number: usize| Example {
        id: number.to_string(),
        prompt: Prompt::Raw { text: text(number), images: Vec::new() },
        response: "word".to_owned(),
        toxic: number.is_multiple_of(2),
        unfinished: false,
    };
    (0..count).map(&mut example).collect()
}

/// Captures into a new store of a model that has seen no image yet.
fn capture(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, load: &dyn Fn() -> AutoMllm, examples: &[Example], batch_size: usize) {
    let pooling = Pooling { pool: Pool::Max, tokens: TokenSelection::All };
    let capture = Capture { batch_size, ..Capture::new(vec![pooling]) };
    let samples = Examples::from_slice(examples);
    group.throughput(Throughput::Elements(samples.len() as u64));
    group.bench_function(format!("capture, {name}, batches of {batch_size}"), |b| {
        let run = |(model, directory): (AutoMllm, tempfile::TempDir)| {
            capture.run(&model, &samples, &directory.path().join("store")).unwrap();
            (model, directory)
        };
        b.iter_batched(|| (load(), tempfile::tempdir().unwrap()), run, BatchSize::PerIteration);
    });
}

fn score_and_fit(group: &mut BenchmarkGroup<'_, WallTime>, model: &AutoMllm, examples: &[Example], directory: &Path) {
    let pooling = Pooling { pool: Pool::Max, tokens: TokenSelection::All };
    Capture { batch_size: 8, ..Capture::new(vec![pooling]) }.run(model, &Examples::from_slice(examples), directory).unwrap();
    let store = ActivationStore::open(directory).unwrap();
    group.throughput(Throughput::Elements(examples.len() as u64));
    group.bench_function("score", |b| b.iter(|| score_store(&store).unwrap()));
    let expertise = score_store(&store).unwrap();
    group.bench_function("fit", |b| b.iter(|| SuppressionRule::sgm().intervention(&expertise).unwrap()));
}

fn calibration(c: &mut Criterion) {
    let mut group = c.benchmark_group("calibration");
    group.sample_size(10);
    let organism = || sgm::organism::load().unwrap();
    for (name, share) in [("organism, own pictures", 1), ("organism, four prompts about a picture", 4)] {
        for batch_size in [1, 8] {
            capture(&mut group, name, &organism, &with_pictures(96, share, 56), batch_size);
        }
    }
    let directory = tempfile::tempdir().unwrap();
    score_and_fit(&mut group, &organism(), &with_pictures(96, 4, 56), &directory.path().join("store"));
    let decoder = || sgm_benches::random_decoder(512, 1408, 4, 1000).unwrap();
    for (name, alike) in [("decoder, texts", 0), ("decoder, texts after a system prompt", 40)] {
        for batch_size in [1, 8] {
            capture(&mut group, name, &decoder, &texts(64, alike), batch_size);
        }
    }
    if let Some(model) = std::env::var_os("MODEL") {
        let load = || AutoMllm::load(&Checkpoint::open(Path::new(&model)).unwrap()).unwrap();
        for (name, share) in [("own pictures", 1), ("four prompts about a picture", 4)] {
            capture(&mut group, &format!("MODEL, {name}"), &load, &with_pictures(8, share, 336), 1);
        }
    }
    group.finish();
}

criterion_group!(benches, calibration);
criterion_main!(benches);
