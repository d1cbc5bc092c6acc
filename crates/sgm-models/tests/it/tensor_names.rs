//! A checkpoint is the same model under the tensor names of the hub and under those of transformers' modules.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use sgm_models::{AutoMllm, Checkpoint, Mllm, Padding, Prompt, load_image};

/// The parts of a checkpoint, as transformers names its modules.
const MODULES: [&str; 5] =
    ["model.language_model.", "lm_head.", "model.vision_tower.", "model.multi_modal_projector.", "model.image_newline"];
/// The same parts as `save_pretrained` names them.
const SAVED: [&str; 5] = ["language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector.", "image_newline"];
/// The same parts in published checkpoints with SigLIP.
const HUB: [&str; 5] =
    ["language_model.model.", "language_model.lm_head.", "vision_tower.vision_model.", "multi_modal_projector.", "image_newline"];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The bits of the logits of a prompt with an image.
fn logits(checkpoint: &Checkpoint, placeholder: &str) -> Vec<u32> {
    let model = AutoMllm::load(checkpoint).unwrap();
    let image = load_image(golden("internvl_qwen2").join("img_a.png")).unwrap();
    let prompt = Prompt::Raw { text: format!("{placeholder}What is this?"), images: vec![image.into()] };
    let inputs = model.processor().prompts([&prompt], Padding::Left).unwrap();
    let logits = model.logits(&model.prefill(&inputs, &mut model.new_cache()).unwrap()).unwrap();
    logits.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn every_layout_of_names_is_the_same_model() {
    for (name, placeholder, given, others) in [
        ("gemma3_hub", "<start_of_image>", HUB, [SAVED, MODULES]),
        ("llava_onevision_modules", "<image>", MODULES, [SAVED, HUB]),
        ("internvl_qwen2", "<IMG_CONTEXT>", SAVED, [MODULES, SAVED]),
        ("internvl_qwen3_modules", "<IMG_CONTEXT>", MODULES, [SAVED, MODULES]),
    ] {
        let expected = logits(&Checkpoint::open(golden(name)).unwrap(), placeholder);
        let tensors: HashMap<String, Tensor> =
            candle_core::safetensors::load(golden(name).join("model.safetensors"), &Device::Cpu).unwrap();
        for other in others {
            let directory = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(golden(name)).unwrap().map(|entry| entry.unwrap().path()) {
                std::fs::copy(&file, directory.path().join(file.file_name().unwrap())).unwrap();
            }
            let renamed = |tensor: &String| {
                let part = given.iter().position(|prefix| tensor.starts_with(prefix)).unwrap_or_else(|| panic!("{name}: {tensor}"));
                format!("{}{}", other[part], &tensor[given[part].len()..])
            };
            let renamed: HashMap<String, Tensor> = tensors.iter().map(|(name, tensor)| (renamed(name), tensor.clone())).collect();
            candle_core::safetensors::save(&renamed, directory.path().join("model.safetensors")).unwrap();
            let same = logits(&Checkpoint::open(directory.path()).unwrap(), placeholder) == expected;
            assert!(same, "{name} as {}", other[0]);
        }
    }
}
