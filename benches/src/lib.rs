//! A decoder of any size with random weights, for benchmarks on layers wider than the organism's.

use std::path::Path;

use anyhow::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use sgm::models::{AutoMllm, Checkpoint};

/// A decoder with random weights, and a tokenizer of a few words.
///
/// # Errors
///
/// Those of temporary files.
pub fn random_decoder(hidden: usize, intermediate: usize, layers: usize, vocabulary: usize) -> Result<AutoMllm> {
    let directory = tempfile::tempdir()?;
    write_random_decoder(directory.path(), hidden, intermediate, layers, vocabulary)?;
    Ok(AutoMllm::load(&Checkpoint::open(directory.path())?)?)
}

/// The same as a checkpoint in a directory.
///
/// # Errors
///
/// Those of writing the files.
pub fn write_random_decoder(directory: &Path, hidden: usize, intermediate: usize, layers: usize, vocabulary: usize) -> Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": hidden / 64,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": 1,
    });
    let tokenizer = json!({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "</s>": 1, "word": 2}, "unk_token": "<unk>"}});
    let tokens = json!({"eos_token": "</s>", "unk_token": "<unk>"});
    for (file, value) in [("config.json", config), ("tokenizer.json", tokenizer), ("tokenizer_config.json", tokens)] {
        std::fs::write(directory.join(file), value.to_string())?;
    }
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![vocabulary, hidden]), ("model.norm".to_owned(), vec![hidden])];
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        shapes.extend(["q", "k", "v", "o"].map(|p| (name(&format!("self_attn.{p}_proj")), vec![hidden, hidden])));
        shapes.extend(["gate", "up"].map(|p| (name(&format!("mlp.{p}_proj")), vec![intermediate, hidden])));
        shapes.push((name("mlp.down_proj"), vec![hidden, intermediate]));
        shapes.extend(["input_layernorm", "post_attention_layernorm"].map(|p| (name(p), vec![hidden])));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut values = |shape: &[usize]| -> Vec<u8> {
        let gain = (3.0 / shape.last().copied().unwrap_or(1) as f32).sqrt();
        (0..shape.iter().product()).flat_map(|_| if shape.len() == 1 { 1.0 } else { rng.random_range(-gain..gain) }.to_le_bytes()).collect()
    };
    let data: Vec<_> = shapes.into_iter().map(|(name, shape)| (format!("{name}.weight"), values(&shape), shape)).collect();
    let views = data.iter().map(|(name, bytes, shape)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)));
    Ok(safetensors::serialize_to_file(views.collect::<Result<Vec<_>>>()?, None, &directory.join("model.safetensors"))?)
}
