//! Checkpoints of every family whose MLPs have got more neurons: they load, and do what the neurons say.
//!
//! A neuron that is there twice is as strong as one that is scaled by 2, which gives the outside truth: the same weights scaled as they
//! load.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use crate::worn::{bakeable_checkpoints, bits, difference, write_organism};
use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use sgm::bake::{Amplify, Options, ScaledBackend, bake_with};
use sgm::core::{Intervention, Metadata, PatchNeuron, Projection, Site, SiteIntervention};
use sgm::models::{AutoMllm, Checkpoint, Mllm, Padding, Prompt};
use sgm::suppress::Glasses;

/// A neuron of each layer that is doubled, or two.
fn doubled(layer: usize) -> Vec<usize> {
    if layer.is_multiple_of(2) { vec![1, 5] } else { vec![3] }
}

fn logits(model: &AutoMllm) -> Tensor {
    let prompt = Prompt::Raw { text: "what do you see? the red ring.".to_owned(), images: Vec::new() };
    let inputs = model.processor().prompts(&[prompt], Padding::Left).unwrap();
    model.logits(&model.prefill(&inputs, &mut model.new_cache()).unwrap()).unwrap()
}

fn load(checkpoint: &Checkpoint) -> AutoMllm {
    AutoMllm::from_tensors(checkpoint, &checkpoint.tensors().unwrap()).unwrap()
}

/// The weights of the language model's MLPs.
fn mlps(path: &Path) -> BTreeMap<Site, Tensor> {
    let mut mlps = BTreeMap::new();
    let mut add = |name: &str, tensor: &dyn Fn() -> Tensor| {
        let sites = Site::all_in_checkpoint_tensor(name);
        if name.ends_with(".weight") && !sites.is_empty() {
            let parts = tensor().to_dtype(DType::F32).unwrap().chunk(sites.len(), 0).unwrap();
            mlps.extend(sites.into_iter().zip(parts));
        }
    };
    if path.is_file() {
        let mut file = File::open(path).unwrap();
        let content = gguf_file::Content::read(&mut file).unwrap();
        for name in content.tensor_infos.keys() {
            let mut file = File::open(path).unwrap();
            let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            add(name, &|| tensor.dequantize(&Device::Cpu).unwrap());
        }
    } else {
        let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.extension().is_some_and(|e| e == "safetensors")) {
            for (name, tensor) in candle_core::safetensors::load(file, &Device::Cpu).unwrap() {
                add(&name, &|| tensor.clone());
            }
        }
    }
    mlps
}

/// Copies of some neurons of each layer, whose strength is multiplied by `strength`.
fn copies(mlps: &BTreeMap<Site, Tensor>, strength: f32) -> Intervention {
    let mut patched = Intervention::new(Metadata::default());
    for layer in mlps.keys().map(|site| site.layer).collect::<std::collections::BTreeSet<_>>() {
        let row = |projection, neuron: usize| mlps[&Site::new(layer, projection)].get(neuron).unwrap().to_vec1::<f32>().unwrap();
        let down = mlps[&Site::new(layer, Projection::Down)].t().unwrap();
        let copy = |neuron| {
            let down: Vec<f32> = down.get(neuron).unwrap().to_vec1().unwrap();
            PatchNeuron {
                gate: row(Projection::Gate, neuron),
                up: row(Projection::Up, neuron),
                down: down.iter().map(|w| strength * w).collect(),
            }
        };
        patched.insert_patches(layer, doubled(layer).into_iter().map(copy).collect()).unwrap();
    }
    patched
}

/// Relative to the largest logit.
const BOUND: f32 = 1e-5;

/// Bakes a model with neurons twice, and compares it with the same neurons scaled by 2.
fn check(original: &Path, name: &str, biased: bool) {
    let checkpoint = Checkpoint::open(original).unwrap();
    let plain = load(&checkpoint);
    let before = logits(&plain);
    let mlps = mlps(original);
    let dir = tempfile::tempdir().unwrap();
    let baked = |intervention: &Intervention, alignment: u64| {
        let out = dir.path().join(alignment.to_string()).join(original.file_name().unwrap());
        let record = bake_with(original, intervention, Options { alignment, ..Options::default() }, &out).unwrap();
        if let Some(mmproj) = original.parent().map(|p| p.join("mmproj.gguf")).filter(|mmproj| mmproj.exists()) {
            fs::copy(mmproj, out.with_file_name("mmproj.gguf")).unwrap();
        }
        let model = load(&Checkpoint::open(&out).unwrap());
        let added = usize::try_from(record.widened.unwrap().added).unwrap();
        for (old, new) in plain.info().sites.iter().zip(&model.info().sites) {
            let more = if old.site.projection == Projection::Down { 0 } else { added };
            assert_eq!((new.site, new.width), (old.site, old.width + more), "{name}");
        }
        (logits(&model), record.tensors.iter().map(|tensor| tensor.added_relative_error).fold(0.0, f64::max))
    };
    // Neurons with nothing to say change nothing but, at most, the order of sums.
    let silent = difference(&baked(&copies(&mlps, 0.0), 1).0, &before);
    let (wider, stored) = baked(&copies(&mlps, 1.0), 64);

    let mut twice = Intervention::new(Metadata::default());
    for info in plain.info().sites.iter().filter(|info| info.site.projection == Projection::Up) {
        let strong = doubled(info.site.layer);
        let scale = (0..info.width).map(|neuron| if strong.contains(&neuron) { 2.0 } else { 1.0 }).collect();
        twice.insert(info.site, SiteIntervention::from_scale(scale)).unwrap();
    }
    let (vb, folded) = ScaledBackend::fold(checkpoint.tensors().unwrap(), &twice, Amplify::Allow).unwrap();
    let wanted = logits(&AutoMllm::from_tensors(&checkpoint, &vb).unwrap());
    folded.check_complete().unwrap();
    // Worn, they do the same, and leave the model as it was.
    let worn = Glasses::wear(&plain, &copies(&mlps, 1.0), Amplify::Refuse).unwrap();
    let live = difference(&logits(&plain), &wider);
    drop(worn);
    assert_eq!(bits(&logits(&plain)), bits(&before), "{name}");
    let (error, effect) = (difference(&wider, &wanted), difference(&wanted, &before));
    println!(
        "{name}: {error:.1e} from the model with neurons scaled by 2, {live:.1e} from neurons worn, {effect:.1e} from the plain one; silent neurons {silent:.1e}, stored {stored:.1e}"
    );
    assert!(silent <= 1e-6, "{name}: {silent}");
    // Blocks of GGUF files hold the copies' three weights not quite, and the change that they make is wrong by as much.
    #[allow(clippy::cast_possible_truncation, reason = "a bound")]
    let bound = BOUND + 3.0 * stored as f32 * effect;
    assert!(live <= bound, "{name}: {live}");
    // A copy has no bias.
    assert!(biased || error <= bound, "{name}: {error}");
    assert!(effect > 3.0 * BOUND, "{name}: doubling does little, {effect}");
}

/// Mixtures of experts have no MLP of one width.
fn refuse(model: &Path) {
    let sites = load(&Checkpoint::open(model).unwrap()).info().widths();
    let hidden = sites[&Site::new(0, Projection::Down)];
    let mut patched = Intervention::new(Metadata::default());
    patched.insert_patches(0, vec![PatchNeuron { gate: vec![0.1; hidden], up: vec![0.1; hidden], down: vec![0.1; hidden] }]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let error = bake_with(model, &patched, Options::default(), &dir.path().join("out")).unwrap_err();
    assert!(matches!(&error, sgm::bake::Error::Widen { reason, .. } if reason.contains("mixture of experts")), "{error}");
}

#[test]
fn neurons_added_to_the_organism_are_neurons() {
    let dir = tempfile::tempdir().unwrap();
    let organism = dir.path().join("organism");
    write_organism(&organism);
    check(&organism, "organism", false);
}

#[test]
fn neurons_added_to_every_checkpoint_are_neurons() {
    for (name, directory) in bakeable_checkpoints() {
        let gguf = directory.join("model.gguf");
        if gguf.exists() {
            check(&gguf, &name, false);
            continue;
        }
        let config = fs::read_to_string(directory.join("config.json")).unwrap();
        if config.contains("num_experts_per_tok") {
            refuse(&directory);
            continue;
        }
        check(&directory, &name, config.contains("\"mlp_bias\": true"));
    }
}
