//! What suppression costs: the scaling kernel beside a copy of the same bytes and beside candle's `broadcast_mul`, and glasses worn by the
//! organism while it decodes. Scales folded into the weights cost nothing at run time.
//!
//! First come ratios: rounds in which each contender runs in turn, so that a machine that gets slower or faster does so for all; the
//! median of the rounds' ratios, with the smallest and largest. Then criterion's times and throughputs of the same (bytes read and
//! written).
//!
//!     RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo bench --bench suppress
#![allow(missing_docs, clippy::indexing_slicing, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, WithDType};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use sgm::core::{Intervention, Projection, Site, SiteIntervention, TokenSelection};
use sgm::models::{self, AutoMllm, Mllm, Padding, Prompt, Tap, TokenSpans};
use sgm::suppress::{Amplify, Element, Glasses, ScaleLayout, Scaling};

const WIDTHS: [usize; 3] = [4096, 5632, 11_008];
const TOKENS: [usize; 4] = [1, 64, 640, 2048];
const ROUNDS: usize = 15;

/// So close to 1 that responses scaled again and again stay ordinary numbers.
const SCALE: f32 = 1.0 - f32::EPSILON;

/// Scales of which one in `every` is not 1, at places without a pattern.
fn scales(neurons: usize, every: usize) -> Vec<f32> {
    (0..neurons).map(|i| if ((i * 7919 + 13) % neurons).is_multiple_of(every) { SCALE } else { 1.0 }).collect()
}

/// Responses of one shape with all that goes over them.
struct Arena<T> {
    responses: Vec<T>,
    copy: Vec<T>,
    dense: Scaling,
    experts: Scaling,
    tensor: Tensor,
    scale: Tensor,
}

const CONTENDERS: [&str; 4] = ["copy", "dense", "experts", "broadcast_mul"];

impl<T: Element + WithDType> Arena<T> {
    fn new(tokens: usize, neurons: usize) -> Self {
        let responses: Vec<T> = (0..tokens * neurons).map(|i| T::narrow(((i * 31) % 97) as f32 * 0.11 - 5.0)).collect();
        let tensor = Tensor::from_slice(&responses, (tokens, neurons), &Device::Cpu).unwrap();
        let scale = Tensor::new(scales(neurons, 20), &Device::Cpu).unwrap().to_dtype(T::DTYPE).unwrap();
        let dense = Scaling::new(vec![SCALE; neurons], None).unwrap().with_layout(ScaleLayout::Dense);
        let experts = Scaling::new(scales(neurons, 20), None).unwrap().with_layout(ScaleLayout::Sparse);
        Self { copy: responses.clone(), responses, dense, experts, tensor, scale }
    }

    fn run(&mut self, contender: &str) {
        match contender {
            "copy" => std::hint::black_box(&mut self.copy).copy_from_slice(std::hint::black_box(&self.responses)),
            "dense" => self.dense.apply(std::hint::black_box(&mut self.responses)),
            "experts" => self.experts.apply(std::hint::black_box(&mut self.responses)),
            _ => drop(std::hint::black_box(self.tensor.broadcast_mul(&self.scale).unwrap())),
        }
    }

    fn time(&mut self, contender: &str, repeats: u32) -> f64 {
        let start = Instant::now();
        (0..repeats).for_each(|_| self.run(contender));
        start.elapsed().as_secs_f64() / f64::from(repeats)
    }
}

/// The median of some numbers with the smallest and the largest.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2}-{:.2})", values[values.len() / 2], values[0], values[values.len() - 1])
}

fn ratios_of<T: Element + WithDType>(name: &str) {
    println!(
        "{name}: copy in GB/s | dense: share of its bandwidth | experts (5 %) / broadcast_mul | dense / broadcast_mul | experts / dense"
    );
    for neurons in WIDTHS {
        for tokens in TOKENS {
            let mut arena = Arena::<T>::new(tokens, neurons);
            let repeats = u32::try_from((1 << 20) / (tokens * neurons)).unwrap().max(1);
            // Once for the caches and the allocator.
            for contender in CONTENDERS {
                arena.time(contender, repeats);
            }
            let rounds: Vec<_> = (0..ROUNDS).map(|_| CONTENDERS.map(|c| arena.time(c, repeats))).collect();
            let bytes = (2 * size_of::<T>() * tokens * neurons) as f64;
            let of = |f: fn(&[f64; 4]) -> f64| spread(rounds.iter().map(f).collect());
            let copy = spread(rounds.iter().map(|r| bytes / r[0] / 1e9).collect());
            let [dense, experts, against, forms] = [of(|r| r[0] / r[1]), of(|r| r[2] / r[3]), of(|r| r[1] / r[3]), of(|r| r[2] / r[1])];
            println!("  {tokens} x {neurons}: {copy} | {dense} | {experts} | {against} | {forms}");
        }
    }
}

/// Where visiting the changed neurons alone stops paying.
fn crossover_of<T: Element + WithDType>(name: &str) {
    println!("{name}: experts / dense by the share of neurons that change");
    let neurons = 5632;
    for tokens in [1, 64, 2048] {
        let mut arena = Arena::<T>::new(tokens, neurons);
        let repeats = u32::try_from((1 << 20) / (tokens * neurons)).unwrap().max(1);
        let mut line = Vec::new();
        for every in [20, 10, 8, 6, 4, 3, 2] {
            let scaling = |form| Scaling::new(scales(neurons, every), None).unwrap().with_layout(form);
            (arena.dense, arena.experts) = (scaling(ScaleLayout::Dense), scaling(ScaleLayout::Sparse));
            let rounds = (0..ROUNDS).map(|_| arena.time("experts", repeats) / arena.time("dense", repeats));
            line.push(format!("1 in {every}: {}", spread(rounds.collect())));
        }
        println!("  {tokens} x {neurons}: {}", line.join(", "));
    }
}

fn ratios(_: &mut Criterion) {
    println!("{} threads", rayon::current_num_threads());
    ratios_of::<f32>("f32");
    ratios_of::<bf16>("bf16");
    ratios_of::<f16>("f16");
    crossover_of::<f32>("f32");
    crossover_of::<bf16>("bf16");
    crossover_of::<f16>("f16");
}

fn kernel_of<T: Element + WithDType>(c: &mut Criterion, name: &str) {
    let mut group = c.benchmark_group(format!("suppress {name}"));
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    for neurons in WIDTHS {
        for tokens in TOKENS {
            let mut arena = Arena::<T>::new(tokens, neurons);
            group.throughput(Throughput::Bytes((2 * size_of::<T>() * tokens * neurons) as u64));
            for contender in CONTENDERS {
                group.bench_function(BenchmarkId::new(contender, format!("{tokens}x{neurons}")), |b| b.iter(|| arena.run(contender)));
            }
        }
    }
    group.finish();
}

fn kernel(c: &mut Criterion) {
    kernel_of::<f32>(c, "f32");
    kernel_of::<bf16>(c, "bf16");
    kernel_of::<f16>(c, "f16");
}

/// Two taps, one before the glasses and one after, that clock what is between them.
struct Clock {
    start: Instant,
    at: AtomicU64,
    total: AtomicU64,
}

struct Before(Arc<Clock>);
struct After(Arc<Clock>);

impl Clock {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }
}

impl Tap for Before {
    fn apply(&self, _: Site, output: Tensor, _: &TokenSpans) -> models::Result<Tensor> {
        self.0.at.store(self.0.now(), Ordering::Relaxed);
        Ok(output)
    }
}

impl Tap for After {
    fn apply(&self, _: Site, output: Tensor, _: &TokenSpans) -> models::Result<Tensor> {
        let spent = self.0.now() - self.0.at.load(Ordering::Relaxed);
        self.0.total.fetch_add(spent, Ordering::Relaxed);
        Ok(output)
    }
}

/// Glasses on some projections of the first layers, of which one neuron in `every` changes.
fn glasses(model: &AutoMllm, every: usize, layers: usize, projections: &[Projection], tokens: TokenSelection) -> Intervention {
    let mut intervention = Intervention::default();
    intervention.tokens = tokens;
    for info in model.info().sites.iter().filter(|i| i.site.layer < layers && projections.contains(&i.site.projection)) {
        let scale = (0..info.width).map(|i| if i % every == 0 { 0.3 } else { 1.0 }).collect();
        intervention.insert(info.site, SiteIntervention::from_scale(scale)).unwrap();
    }
    intervention
}

fn decode(_: &mut Criterion) {
    const STEPS: usize = 48;
    let model = sgm::organism::load().unwrap();
    let picture = Arc::new(image::RgbImage::from_fn(56, 56, |x, _| image::Rgb([if x < 20 { 200 } else { 30 }, 60, 90])));
    let [gate_up, all] = [&[Projection::Gate, Projection::Up][..], &Projection::ALL[..]];
    let worn = [
        ("nothing between the clocks", None),
        ("5 % of gate and up, layers 0-4", Some(glasses(&model, 20, 5, gate_up, TokenSelection::All))),
        ("the same, response only", Some(glasses(&model, 20, 5, gate_up, TokenSelection::Response))),
        ("every neuron of every site", Some(glasses(&model, 1, 6, all, TokenSelection::All))),
    ];
    for batch in [1, 8] {
        let prompts = vec![Prompt::user("what colour is the ring?", Some(picture.clone())); batch];
        let inputs = model.processor().prompts(&prompts, Padding::Left).unwrap();
        println!("organism, decoding {STEPS} tokens in a batch of {batch}: share of a pass, in %");
        let clock = Arc::new(Clock { start: Instant::now(), at: AtomicU64::new(0), total: AtomicU64::new(0) });
        // Rounds over all settings, not one setting after the other.
        let mut shares = vec![Vec::new(); worn.len()];
        let mut steps = Vec::new();
        for _ in 0..ROUNDS {
            for ((_, intervention), shares) in worn.iter().zip(&mut shares) {
                let before = model.taps().attach(Arc::new(Before(clock.clone())));
                let glasses = intervention.as_ref().map(|i| Glasses::wear(&model, i, Amplify::Refuse).unwrap());
                let after = model.taps().attach(Arc::new(After(clock.clone())));
                let mut cache = model.new_cache();
                model.prefill(&inputs, &mut cache).unwrap();
                clock.total.store(0, Ordering::Relaxed);
                let start = Instant::now();
                for _ in 0..STEPS {
                    std::hint::black_box(model.decode(&vec![5; batch], &mut cache).unwrap());
                }
                let all = start.elapsed().as_nanos() as f64;
                shares.push(100.0 * clock.total.load(Ordering::Relaxed) as f64 / all);
                steps.push(all / STEPS as f64 / 1e3);
                drop((before, glasses, after));
            }
        }
        println!("  a pass takes {} microseconds", spread(steps));
        for ((name, _), shares) in worn.iter().zip(shares) {
            println!("  {name}: {}", spread(shares));
        }
    }
}

criterion_group!(benches, ratios, decode, kernel);
criterion_main!(benches);
