//! The published language model of `real_gguf.rs` baked in its quantised type, Q4_1, and run by candle's own quantised model.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sgm::bake::{Amplify, ScaledBackend, bake};
use sgm::core::{Intervention, Metadata, Projection, SiteIntervention};
use sgm::models::{AutoMllm, Checkpoint, Mllm, Padding, Prompt};

/// One neuron in fifty of gate and up is suppressed, each by a scale of its own.
fn glasses(model: &AutoMllm) -> Intervention {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut intervention = Intervention::new(Metadata::default());
    for info in model.info().sites.iter().filter(|info| info.site.projection != Projection::Down) {
        let scale = (0..info.width).map(|_| if rng.random_bool(0.02) { rng.random() } else { 1.0 }).collect();
        intervention.insert(info.site, SiteIntervention::from_scale(scale)).unwrap();
    }
    intervention
}

fn values(logits: &Tensor) -> Vec<f32> {
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// Logits of the token after each text, from a model of ours that is exact.
fn exact(model: &AutoMllm, ids: &[Tensor]) -> Vec<Vec<f32>> {
    let last = |ids: &Tensor| {
        let inputs = model.processor().tokens(ids, &ids.ones_like().unwrap(), Default::default()).unwrap();
        let hidden = model.prefill(&inputs, &mut model.new_cache()).unwrap();
        values(&model.logits(&hidden.narrow(1, hidden.dim(1).unwrap() - 1, 1).unwrap().contiguous().unwrap()).unwrap())
    };
    ids.iter().map(last).collect()
}

/// The same from candle's model, which multiplies quantised matrices with inputs rounded to 8 bits.
fn candle(file: &Path, ids: &[Tensor]) -> Vec<Vec<f32>> {
    let mut reader = BufReader::new(File::open(file).unwrap());
    let content = Content::read(&mut reader).unwrap();
    let mut model = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    ids.iter().map(|ids| values(&model.forward(ids, 0).unwrap())).collect()
}

fn change(from: &[Vec<f32>], to: &[Vec<f32>]) -> Vec<f64> {
    from.iter().flatten().zip(to.iter().flatten()).map(|(a, b)| f64::from(*b) - f64::from(*a)).collect()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

fn rms(x: &[f64]) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64).sqrt()
}

#[test]
fn candles_quantised_model_runs_the_baked_file_as_the_fold_in_f32_says() {
    let Some(file) = std::env::var_os("SGM_REAL_GGUF") else {
        eprintln!("skipped: SGM_REAL_GGUF names no file");
        return;
    };
    let file = Path::new(&file);
    let dir = tempfile::tempdir().unwrap();
    let baked = dir.path().join("baked.gguf");
    let load = |file: &Path| {
        let checkpoint = Checkpoint::open(file).unwrap();
        AutoMllm::from_tensors(&checkpoint, &checkpoint.tensors().unwrap()).unwrap()
    };
    let original = load(file);
    let intervention = glasses(&original);
    let record = bake(file, &intervention, Amplify::Refuse, &baked).unwrap();
    assert_eq!(record.tensors.len(), 60);
    assert_eq!(record.tensors.iter().map(|t| t.changed_rows).sum::<u64>(), intervention.changed_neurons() as u64);

    let texts = ["The capital of France is", "def fibonacci(n):\n    if n <", "The sun rises in the east and sets in the"];
    let prompt = |text: &&str| Prompt::Raw { text: (*text).to_owned(), images: vec![] };
    let ids: Vec<Tensor> =
        texts.iter().map(|text| original.processor().prompts(&[prompt(text)], Padding::Left).unwrap().input_ids).collect();
    let plain = exact(&original, &ids);
    drop(original);
    let checkpoint = Checkpoint::open(file).unwrap();
    let (vb, folded) = ScaledBackend::fold(checkpoint.tensors().unwrap(), &intervention, Amplify::Refuse).unwrap();
    let fold = exact(&AutoMllm::from_tensors(&checkpoint, &vb).unwrap(), &ids);
    folded.check_complete().unwrap();
    drop(vb);
    let dequantised = exact(&load(&baked), &ids);
    let (served_plain, served_baked) = (candle(file, &ids), candle(&baked, &ids));

    let effect = rms(&change(&plain, &fold));
    let rounding = rms(&change(&fold, &dequantised)) / effect;
    let (noise, noise_baked) = (rms(&change(&plain, &served_plain)), rms(&change(&fold, &served_baked)));
    eprintln!("the fold in f32 changes logits by {effect:.3} (root mean square)");
    eprintln!("the baked file, dequantised, is {rounding:.1e} of that from it");
    eprintln!("candle's quantised model is {noise:.3} from the exact logits with the original file, {noise_baked:.3} with the baked one");
    // The scales of blocks are rounded to f16, which has 11 bits.
    assert!(rounding <= 2e-3, "{rounding}");
    assert!(noise_baked <= 1.5 * noise && effect > 2.0 * noise, "{noise_baked} {noise} {effect}");
    for (text, (wanted, served)) in texts.iter().zip(fold.iter().zip(&served_baked)) {
        assert_eq!(argmax(served), argmax(wanted), "{text}");
    }
}
