//! Writes a LLaVA checkpoint of any size with random weights in f16, shard by shard, for memory and speed tests.
//!
//!     cargo run --release -p sgm-experiments --bin random_checkpoint -- --out DIR [--layers 32] [--hidden 4096] ...
//!
//! The defaults have the shape of LLaVA-1.5-7B: 13.5 GB. The tokenizer is a toy.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use half::f16;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Writes a LLaVA checkpoint of any size with random weights in f16, shard by shard, for memory and speed tests.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The directory to write.
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 32)]
    layers: usize,
    #[arg(long, default_value_t = 4096)]
    hidden: usize,
    #[arg(long, default_value_t = 11_008)]
    intermediate: usize,
    #[arg(long, default_value_t = 32)]
    heads: usize,
    #[arg(long, default_value_t = 32_064)]
    vocabulary: usize,
}

/// The vision tower: CLIP's large one.
const VISION_LAYERS: usize = 24;
const VISION_HIDDEN: usize = 1024;
const IMAGE_SIZE: usize = 336;
const PATCH: usize = 14;
/// Words the toy tokenizer knows beyond its special tokens.
const WORDS: [&str; 8] = ["USER:", "ASSISTANT:", "what", "is", "this", "?", "a", "cat"];

fn main() -> Result<()> {
    let a = Arguments::parse();
    std::fs::create_dir_all(&a.out).with_context(|| format!("creating {}", a.out.display()))?;
    for (file, value) in files(&a) {
        std::fs::write(a.out.join(file), serde_json::to_vec_pretty(&value)?)?;
    }
    let shards = shards(&a);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut map = BTreeMap::new();
    for (i, tensors) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        let data: Vec<_> = tensors.iter().map(|(name, shape)| (name, shape, weights(name, shape, &mut rng))).collect();
        let views = data.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F16, (*shape).clone(), bytes)?)));
        safetensors::serialize_to_file(views.collect::<Result<Vec<_>>>()?, None, &a.out.join(&file))?;
        println!("{file}");
        map.extend(tensors.iter().map(|(name, _)| (name.clone(), file.clone())));
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    std::fs::write(a.out.join("model.safetensors.index.json"), serde_json::to_vec_pretty(&index)?)?;
    Ok(())
}

/// Little-endian f16: norms are 1, biases 0, the rest uniform with unit gain.
fn weights(name: &str, shape: &[usize], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let count = shape.iter().product();
    if shape.len() == 1 {
        let value = if name.ends_with("bias") { f16::ZERO } else { f16::ONE };
        return value.to_le_bytes().repeat(count);
    }
    let gain = (3.0 / shape.iter().skip(1).product::<usize>() as f32).sqrt();
    let levels: Vec<[u8; 2]> = (0..=255u8).map(|i| f16::from_f32((f32::from(i) / 127.5 - 1.0) * gain).to_le_bytes()).collect();
    let mut random = vec![0; count];
    rng.fill_bytes(&mut random);
    random.into_iter().flat_map(|byte| levels.get(usize::from(byte)).copied().unwrap_or_default()).collect()
}

type Shapes = Vec<(String, Vec<usize>)>;

/// The tensors of each file: the vision tower with all that is no decoder layer, then layer by layer.
fn shards(a: &Arguments) -> Vec<Shapes> {
    let (h, v) = (a.hidden, VISION_HIDDEN);
    let tensor = |name: String, shape: &[usize]| (name, shape.to_vec());
    let mut first = vec![
        tensor("language_model.model.embed_tokens.weight".into(), &[a.vocabulary, h]),
        tensor("language_model.model.norm.weight".into(), &[h]),
        tensor("language_model.lm_head.weight".into(), &[a.vocabulary, h]),
        tensor("multi_modal_projector.linear_1.weight".into(), &[h, v]),
        tensor("multi_modal_projector.linear_1.bias".into(), &[h]),
        tensor("multi_modal_projector.linear_2.weight".into(), &[h, h]),
        tensor("multi_modal_projector.linear_2.bias".into(), &[h]),
    ];
    let vision = "vision_tower.vision_model";
    let positions = (IMAGE_SIZE / PATCH).pow(2) + 1;
    first.push(tensor(format!("{vision}.embeddings.class_embedding"), &[v]));
    first.push(tensor(format!("{vision}.embeddings.patch_embedding.weight"), &[v, 3, PATCH, PATCH]));
    first.push(tensor(format!("{vision}.embeddings.position_embedding.weight"), &[positions, v]));
    let both = |all: &mut Shapes, name: String, shape: &[usize]| {
        all.push((format!("{name}.weight"), shape.to_vec()));
        all.push((format!("{name}.bias"), shape.iter().take(1).copied().collect()));
    };
    both(&mut first, format!("{vision}.pre_layrnorm"), &[v]);
    for i in 0..VISION_LAYERS {
        let layer = format!("{vision}.encoder.layers.{i}");
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            both(&mut first, format!("{layer}.self_attn.{name}"), &[v, v]);
        }
        both(&mut first, format!("{layer}.mlp.fc1"), &[4 * v, v]);
        both(&mut first, format!("{layer}.mlp.fc2"), &[v, 4 * v]);
        both(&mut first, format!("{layer}.layer_norm1"), &[v]);
        both(&mut first, format!("{layer}.layer_norm2"), &[v]);
    }
    let layer = |i: usize| {
        let name = |part: &str| format!("language_model.model.layers.{i}.{part}.weight");
        let mut tensors: Shapes = ["q", "k", "v", "o"].map(|p| tensor(name(&format!("self_attn.{p}_proj")), &[h, h])).into();
        tensors.extend(["gate", "up"].map(|p| tensor(name(&format!("mlp.{p}_proj")), &[a.intermediate, h])));
        tensors.push(tensor(name("mlp.down_proj"), &[h, a.intermediate]));
        tensors.extend(["input_layernorm", "post_attention_layernorm"].map(|p| tensor(name(p), &[h])));
        tensors
    };
    std::iter::once(first).chain((0..a.layers).map(layer)).collect()
}

fn files(a: &Arguments) -> [(&'static str, Value); 4] {
    let special = ["<unk>", "<s>", "</s>", "<image>"];
    let vocabulary: BTreeMap<&str, usize> = special.into_iter().chain(WORDS).enumerate().map(|(id, word)| (word, id)).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
    });
    let text = json!({
        "model_type": "llama", "vocab_size": a.vocabulary, "hidden_size": a.hidden, "intermediate_size": a.intermediate,
        "num_hidden_layers": a.layers, "num_attention_heads": a.heads, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    });
    let vision = json!({
        "model_type": "clip_vision_model", "hidden_size": VISION_HIDDEN, "intermediate_size": 4 * VISION_HIDDEN,
        "num_hidden_layers": VISION_LAYERS, "num_attention_heads": VISION_HIDDEN / 64, "image_size": IMAGE_SIZE, "patch_size": PATCH,
    });
    let config = json!({
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "torch_dtype": "float16", "image_token_index": 3,
        "text_config": text, "vision_config": vision, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "eos_token_id": 2,
    });
    let tokenizer = json!({
        "version": "1.0", "added_tokens": added.collect::<Vec<_>>(), "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    let images = json!({
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": IMAGE_SIZE},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
    });
    let special = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"});
    [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", special), ("preprocessor_config.json", images)]
}
