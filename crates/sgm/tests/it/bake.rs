//! A baked checkpoint of every family is the model whose weights are scaled as they load, and the one that wears glasses.

use std::fs;
use std::path::Path;

use crate::worn::{bakeable_checkpoints, difference, glasses, write_organism};
use candle_core::Tensor;
use sgm::bake::{Amplify, Record, ScaledBackend, bake};
use sgm::models::{AutoMllm, Checkpoint, Mllm, Padding, Prompt};
use sgm::suppress::Glasses;

/// Every third neuron is suppressed a little, every seventh wholly.
fn logits(model: &AutoMllm) -> Tensor {
    let prompt = Prompt::Raw { text: "what do you see? the red ring.".to_owned(), images: Vec::new() };
    let inputs = model.processor().prompts(&[prompt], Padding::Left).unwrap();
    model.logits(&model.prefill(&inputs, &mut model.new_cache()).unwrap()).unwrap()
}

/// Compares a model with its baked copy; GGUF files are dequantised.
fn check(original: &Path, name: &str, bound: f32) -> Record {
    let checkpoint = Checkpoint::open(original).unwrap();
    let load = |checkpoint: &Checkpoint| AutoMllm::from_tensors(checkpoint, &checkpoint.tensors().unwrap()).unwrap();
    let plain = load(&checkpoint);
    let intervention = glasses(&plain);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join(original.file_name().unwrap());
    let record = bake(original, &intervention, Amplify::Refuse, &out).unwrap();
    if let Some(mmproj) = original.parent().map(|p| p.join("mmproj.gguf")).filter(|mmproj| mmproj.exists()) {
        fs::copy(mmproj, dir.path().join("mmproj.gguf")).unwrap();
    }
    let (vb, folded) = ScaledBackend::fold(checkpoint.tensors().unwrap(), &intervention, Amplify::Refuse).unwrap();
    let loaded = logits(&AutoMllm::from_tensors(&checkpoint, &vb).unwrap());
    folded.check_complete().unwrap();
    let baked = logits(&load(&Checkpoint::open(&out).unwrap()));
    let worn = Glasses::wear(&plain, &intervention, Amplify::Refuse).unwrap();
    let apart = difference(&loaded, &logits(&plain));
    drop(worn);
    let (error, effect) = (difference(&baked, &loaded), difference(&baked, &logits(&plain)));
    println!(
        "{name}: {error:.1e} from the model scaled as it loads, which is {apart:.1e} from the one with glasses on, {effect:.1e} from the plain one"
    );
    assert!(apart <= 1e-5, "{name}: {apart}");
    assert!(error <= bound, "{name}: {error}");
    assert!(effect > 10.0 * bound, "{name}: the intervention does little, {effect}");
    record
}

#[test]
fn the_organism_is_baked_as_it_is_folded() {
    let dir = tempfile::tempdir().unwrap();
    let organism = dir.path().join("organism");
    write_organism(&organism);
    // Stored in f16, as the embedded files are.
    check(&organism, "organism", 1e-3);
}

#[test]
fn every_checkpoint_is_baked_as_it_is_folded() {
    for (name, directory) in bakeable_checkpoints() {
        let golden: serde_json::Value = serde_json::from_slice(&fs::read(directory.join("golden.json")).unwrap()).unwrap();
        let gguf = directory.join("model.gguf");
        if gguf.exists() {
            check(&gguf, &name, 1e-3);
            continue;
        }
        // Products are rounded to the stored type once more than those of weights scaled in f32.
        let bound = match golden["disk_dtype"].as_str() {
            Some("float32") => 0.0,
            Some("float16") => 1e-3,
            _ => 1e-2,
        };
        check(&directory, &name, bound);
    }
}
