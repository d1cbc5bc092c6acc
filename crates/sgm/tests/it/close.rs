//! A model on some device and in some dtype holds against the same model in f32 on the CPU: logits, captures, glasses, conditions, and
//! decoding with a cache.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::worn::{glasses, with_patches};
use candle_core::{DType, Device, Tensor};
use sgm::capture::{Pool, PooledTap, Pooling};
use sgm::core::{Condition, Probe, Site, TokenSelection};
use sgm::models::{AutoMllm, Checkpoint, GenerateOptions, Generator, Mllm, ModelInputs, Padding, Prompt, TokenKind};
use sgm::suppress::{Amplify, ConditionalGlasses, Glasses, score_prompts};

/// The dtypes with the differences that are allowed, as shares of the size of what is compared: the errors of ten roundings to 8
/// significant bits (bf16) or 11 (f16), which may add up in models of a few layers; in f32, sums in another order.
#[allow(dead_code, reason = "used on GPUs")]
pub(crate) const F32: (DType, f64) = (DType::F32, 1e-4);
pub(crate) const BF16: (DType, f64) = (DType::BF16, 10.0 / 256.0);
pub(crate) const F16: (DType, f64) = (DType::F16, 10.0 / 2048.0);

/// Opens a golden checkpoint.
pub(crate) fn golden(name: &str) -> Checkpoint {
    Checkpoint::open(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden").join(name)).unwrap()
}

/// Opens the embedded model.
pub(crate) fn organism() -> Checkpoint {
    sgm::organism::checkpoint().unwrap()
}

fn load(checkpoint: Checkpoint, device: &Device, dtype: DType) -> AutoMllm {
    AutoMllm::load(&checkpoint.with_device(device.clone()).with_dtype(dtype).unwrap()).unwrap()
}

/// Two prompts of unlike length, one with an image if the model takes images.
fn prompts(model: &AutoMllm) -> Vec<Prompt> {
    let picture = image::RgbImage::from_fn(61, 47, |x, y| image::Rgb([40, u8::try_from(3 * x).unwrap(), u8::try_from(5 * y).unwrap()]));
    let text = |text: &str| Prompt::Raw { text: text.to_owned(), images: Vec::new() };
    match model.processor().images() {
        Some(_) => vec![Prompt::user("what colour is the ring?", Some(Arc::new(picture))), Prompt::user("hello. what do you see?", None)],
        None => vec![text("hello there"), text("what colour is the ring, and where?")],
    }
}

fn logits(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    model.logits(&model.prefill(inputs, &mut model.new_cache()).unwrap()).unwrap()
}

/// The root of the mean squared difference, as a share of that of the second values themselves.
fn difference(pairs: impl Iterator<Item = (f32, f32)>) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for (a, b) in pairs.map(|(a, b)| (f64::from(a), f64::from(b))) {
        assert!(a.is_finite() && b.is_finite());
        (error, size) = (error + (a - b).powi(2), size + b.powi(2));
    }
    (error / size).sqrt()
}

/// The values of `[batch, tokens, vocabulary]` at the tokens that are no padding.
fn at_tokens(logits: &Tensor, kinds: &[Vec<TokenKind>]) -> Vec<f32> {
    let rows = logits.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap().flatten_to(1).unwrap().to_vec2::<f32>().unwrap();
    rows.into_iter().zip(kinds.iter().flatten()).filter(|(_, kind)| **kind != TokenKind::Padding).flat_map(|(row, _)| row).collect()
}

/// The pooled responses of each sample and site, all poolings one after the other.
fn captured(model: &AutoMllm, inputs: &ModelInputs) -> BTreeMap<(usize, Site), Vec<f32>> {
    let poolings = Pool::ALL.map(|pool| Pooling { pool, tokens: TokenSelection::Text });
    let tap = Arc::new(PooledTap::new(poolings.to_vec()));
    let attached = model.taps().attach(tap.clone());
    model.prefill(inputs, &mut model.new_cache()).unwrap();
    drop(attached);
    let mut all: BTreeMap<_, Vec<f32>> = BTreeMap::new();
    for (id, responses) in tap.take() {
        for (site, values) in responses.into_iter().flatten() {
            all.entry((id, site)).or_default().extend(values);
        }
    }
    all
}

/// Holds logits, with glasses and without, captures, and decoding with a cache against f32 on the CPU.
pub(crate) fn hold(open: impl Fn() -> Checkpoint, device: &Device, (dtype, allowed): (DType, f64)) {
    let (exact, model) = (load(open(), &Device::Cpu, DType::F32), load(open(), device, dtype));
    let name = format!("{} in {dtype:?}", exact.info().architecture);
    assert_eq!(model.info().dtype, dtype.as_str());
    let inputs = exact.processor().prompts(&prompts(&exact), Padding::Left).unwrap();
    let close = |a: &Tensor, b: &Tensor, kinds: &[Vec<TokenKind>], what: &str| {
        assert!(a.dtype() == dtype && a.device().same_device(device), "{name}, {what}");
        let gap = difference(at_tokens(a, kinds).into_iter().zip(at_tokens(b, kinds)));
        assert!(gap <= allowed, "{name}, {what}: {gap}");
    };
    let plain = [&model, &exact].map(|model| logits(model, &inputs));
    close(&plain[0], &plain[1], &inputs.kinds, "plain");
    let pooled = [&model, &exact].map(|model| captured(model, &inputs));
    assert!(pooled[0].keys().eq(pooled[1].keys()) && !pooled[0].is_empty());
    let gap = difference(pooled[0].values().flatten().copied().zip(pooled[1].values().flatten().copied()));
    assert!(gap <= allowed, "{name}, captured: {gap}");

    // At all tokens, at some, and in the passes of a cache.
    for tokens in [TokenSelection::All, TokenSelection::Text] {
        let mut intervention = with_patches(&exact, glasses(&exact));
        intervention.tokens = tokens;
        let worn = [&model, &exact].map(|model| Glasses::wear(model, &intervention, Amplify::Refuse).unwrap());
        let worn_logits = [&model, &exact].map(|model| logits(model, &inputs));
        close(&worn_logits[0], &worn_logits[1], &inputs.kinds, "worn");
        assert!(difference(at_tokens(&worn_logits[0], &inputs.kinds).into_iter().zip(at_tokens(&plain[0], &inputs.kinds))) > 0.0);
        let steps = [[5u32, 6], [7, 5], [6, 6]];
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        let decoded = steps.map(|step| model.logits(&model.decode(&step, &mut cache).unwrap()).unwrap());
        let longer = with_responses(&inputs, &steps);
        let whole = logits(&exact, &longer).narrow(1, inputs.kinds[0].len(), steps.len()).unwrap();
        close(&Tensor::cat(&decoded, 1).unwrap(), &whole, &vec![vec![TokenKind::Response; steps.len()]; 2], "decoded with a cache");
        drop(worn);
    }
    // Taken off, the glasses leave every bit.
    assert_eq!(at_tokens(&logits(&model, &inputs), &inputs.kinds), at_tokens(&plain[0], &inputs.kinds), "{name}");
    let answers = model.generate(&prompts(&exact), &GenerateOptions { max_new_tokens: 3, ..Default::default() }).unwrap();
    assert_eq!(answers.len(), 2);
}

/// The inputs with further tokens of a response for each row.
fn with_responses(inputs: &ModelInputs, steps: &[[u32; 2]]) -> ModelInputs {
    let appended: Vec<Vec<u32>> = (0..2).map(|row| steps.iter().map(|step| step[row]).collect()).collect();
    let mut longer = inputs.clone();
    longer.input_ids = Tensor::cat(&[&inputs.input_ids, &Tensor::new(appended, &Device::Cpu).unwrap()], 1).unwrap();
    longer.kinds.iter_mut().for_each(|row| row.extend(vec![TokenKind::Response; steps.len()]));
    longer
}

/// Holds the scores of a probe on the embedded model against f32 on the CPU, and that a condition changes the risky prompt only.
pub(crate) fn hold_condition(device: &Device, (dtype, allowed): (DType, f64)) {
    let (exact, model) = (load(organism(), &Device::Cpu, DType::F32), load(organism(), device, dtype));
    let mut probe = Probe::new(0.0);
    for info in &exact.info().sites {
        let weight = |neuron: usize| if (neuron * 7 + info.site.layer).is_multiple_of(3) { 0.004 } else { -0.002 };
        probe.insert(info.site, (0..info.width).map(weight).collect()).unwrap();
    }
    let prompts = prompts(&exact);
    let [scores, expected] = [&model, &exact].map(|model| score_prompts(model, &probe, &prompts, 2).unwrap());
    for (a, b) in scores.iter().zip(&expected) {
        assert!(f64::from(a - b).abs() <= allowed, "{dtype:?}: {scores:?} {expected:?}");
    }
    let inputs = model.processor().prompts(&prompts, Padding::Left).unwrap();
    let plain = logits(&model, &inputs);
    let mut intervention = with_patches(&model, glasses(&model));
    let (benign, risky) = if scores[0] < scores[1] { (0, 1) } else { (1, 0) };
    intervention.condition = Some(Condition { probe, threshold: f32::midpoint(scores[benign], scores[risky]) });
    let worn = ConditionalGlasses::wear(&model, &intervention, Amplify::Refuse).unwrap();
    let conditional = logits(&model, &inputs);
    for (a, b) in worn.take_scores().values().zip(&scores) {
        assert!(f64::from(a - b).abs() <= allowed, "{dtype:?}: {scores:?}");
    }
    let row = |logits: &Tensor, row: usize| at_tokens(&logits.narrow(0, row, 1).unwrap(), &inputs.kinds[row..=row]);
    assert_eq!(row(&conditional, benign), row(&plain, benign), "{dtype:?}: the benign prompt keeps its bits");
    assert_ne!(row(&conditional, risky), row(&plain, risky), "{dtype:?}");
}
