//! GGUF files of the golden checkpoints, as gguf-py writes them. (The facade holds them to the golden values.)

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use sgm_models::{AutoMllm, Checkpoint, Matrices, Mllm, ModelInputs, Padding, Prompt, TokenKind};

use crate::gguf_bytes::{GgufBytes, i32_value, text_value};
use crate::warnings::warnings_of;

fn converted(name: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/gguf").join(name).join(file)
}

fn load(path: &Path) -> AutoMllm {
    AutoMllm::load(&Checkpoint::open(path).unwrap()).unwrap()
}

fn logits_of(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    model.logits(&model.prefill(inputs, &mut model.new_cache()).unwrap()).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let largest = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest(&(a - b).unwrap()) / largest(b)
}

fn text_logits(model: &AutoMllm) -> Tensor {
    let prompt = Prompt::Raw { text: "What is this?".to_owned(), images: Vec::new() };
    logits_of(model, &model.processor().prompts(&[prompt], Padding::Left).unwrap())
}

#[test]
fn gemma2_equals_transformers() {
    let golden = candle_core::safetensors::load(converted("text_gemma2", "logits.safetensors"), &candle_core::Device::Cpu).unwrap();
    let input_ids = golden["input_ids"].to_dtype(candle_core::DType::U32).unwrap();
    let tokens = input_ids.dim(1).unwrap();
    let inputs = ModelInputs { input_ids, kinds: vec![vec![TokenKind::PromptText; tokens]], ids: vec![0], tensors: Default::default() };
    let logits = logits_of(&load(&converted("text_gemma2", "model.gguf")), &inputs).narrow(1, tokens - 6, 6).unwrap();
    let difference = difference(&logits, &golden["logits"]);
    assert!(difference <= 1e-5, "{difference}");
}

#[test]
fn gemma2_has_the_tokens_of_its_checkpoint() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/text_gemma2");
    let ids = |path: &Path| {
        let model = load(path);
        let prompt = Prompt::user("What is the boat?\n\nCaf\u{e9}", None);
        model.processor().prompts(&[prompt], Padding::Left).unwrap().input_ids.to_vec2::<u32>().unwrap()
    };
    assert_eq!(ids(&converted("text_gemma2", "model.gguf")), ids(&golden));
}

#[test]
fn kept_matrices_give_the_same_results() {
    for name in ["text_phi3_longrope", "qwen2_5_vl_hub", "smolvlm_hub"] {
        let open = || Checkpoint::open(converted(name, "")).unwrap();
        let kept = AutoMllm::load(&open().with_matrices(Matrices::Keep)).unwrap();
        let widened = AutoMllm::load(&open()).unwrap();
        assert!(difference(&text_logits(&kept), &text_logits(&widened)) <= 1e-6, "{name}");
    }
}

#[test]
fn mistral3_is_llama_under_another_name() {
    let llama = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_llama/model.gguf");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let renamed = GgufBytes::read(&llama).renamed("llama", "mistral3");
    std::fs::write(&path, renamed.bytes()).unwrap();
    let model = load(&path);
    assert_eq!(model.info().architecture, "MistralForCausalLM");
    assert_eq!(difference(&text_logits(&model), &text_logits(&load(&llama))), 0.0);
    std::fs::write(
        &path,
        renamed.with("mistral3.attention.temperature_scale", [&6u32.to_le_bytes()[..], &0.1f32.to_le_bytes()].concat()).bytes(),
    )
    .unwrap();
    let message = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(message.contains("mistral3 with attention temperatures") && message.contains("gemma2"), "{message}");
}

#[test]
fn the_language_model_of_a_multimodal_one_runs_alone() {
    for name in ["qwen2_vl_hub", "qwen2_5_vl_hub", "smolvlm_hub"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::copy(converted(name, "model.gguf"), &path).unwrap();
        let alone = load(&path);
        assert!(alone.processor().images().is_none());
        let whole = load(&converted(name, "model.gguf"));
        assert!(whole.processor().images().is_some());
        assert!(difference(&text_logits(&alone), &text_logits(&whole)) <= 1e-6, "{name}");
    }
}

/// Opens a text model with a vision tower of which something is amiss; the message of the error.
fn refused(name: &str, text: impl Fn(GgufBytes) -> GgufBytes, tower: impl Fn(GgufBytes) -> GgufBytes) -> String {
    let dir = tempfile::tempdir().unwrap();
    let [path, beside] = ["model.gguf", "mmproj.gguf"].map(|file| dir.path().join(file));
    std::fs::write(&path, text(GgufBytes::read(&converted(name, "model.gguf"))).bytes()).unwrap();
    std::fs::write(&beside, tower(GgufBytes::read(&converted(name, "mmproj.gguf"))).bytes()).unwrap();
    let checkpoint = warnings_of(|| Checkpoint::open(&path)).0;
    checkpoint.and_then(|c| c.with_mmproj(&beside)).and_then(|c| AutoMllm::load(&c)).unwrap_err().to_string()
}

fn u32_value(value: u32) -> Vec<u8> {
    [&4u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

#[test]
fn what_is_amiss_in_a_pair_is_named() {
    let same = |file: GgufBytes| file;
    let without = |key: &'static str| {
        move |mut file: GgufBytes| {
            file.metadata.retain(|(known, _)| known != key);
            file
        }
    };
    let without_tensor = |tensor: &'static str| {
        move |mut file: GgufBytes| {
            file.tensors.retain(|t| t.name != tensor);
            file
        }
    };
    let set = |key: &'static str, value: u32| move |file: GgufBytes| file.with(key, u32_value(value));
    let qwen = "qwen2_5_vl_hub";
    for (message, words) in [
        (refused(qwen, same, without("clip.vision.n_wa_pattern")), "`clip.vision.n_wa_pattern`: expected a number"),
        (refused(qwen, same, set("clip.vision.n_wa_pattern", 0)), "`clip.vision.n_wa_pattern`: must not be 0"),
        (refused(qwen, without("qwen2vl.rope.dimension_sections"), same), "`qwen2vl.rope.dimension_sections`: expected a list of numbers"),
        (refused(qwen, same, set("clip.vision.window_size", 1)), "window_size"),
        (refused(qwen, same, set("clip.vision.patch_size", 0)), "`clip.vision.patch_size`: must not be 0"),
        (refused(qwen, same, set("clip.vision.attention.head_count", 7)), "num_heads"),
        (refused(qwen, same, set("clip.vision.block_count", 3)), "visual.blocks.2"),
        (refused(qwen, same, set("clip.vision.block_count", 1 << 30)), "fewer tensors than 1073741824 blocks"),
        (refused("smolvlm_hub", same, set("clip.vision.block_count", 1 << 30)), "fewer tensors than 1073741824 blocks"),
        (refused(qwen, same, without_tensor("mm.2.weight")), "it has no mm.2.weight"),
        (refused(qwen, same, without_tensor("v.blk.0.attn_k.weight")), "visual.blocks.0.attn.qkv.weight"),
        (refused(qwen, same, without_tensor("v.blk.0.ffn_up.weight")), "it has no v.blk.0.ffn_up.weight"),
        (refused("qwen2_vl_hub", same, set("clip.vision.embedding_length", 23)), "no multiple of 23"),
        (refused("smolvlm_hub", same, set("clip.vision.projector.scale_factor", 3)), "scale_factor"),
        (refused("smolvlm_hub", same, set("clip.vision.image_size", 0)), "`clip.vision.image_size`: must not be 0"),
        (refused("smolvlm_hub", same, without("clip.vision.attention.layer_norm_epsilon")), "`clip.vision.attention.layer_norm_epsilon`"),
        (
            refused("smolvlm_hub", same, |f| f.with("clip.projector_type", text_value("qwen2vl_merger"))),
            "does not suit the architecture llama",
        ),
        (refused("smolvlm_hub", same, |f| f.with("clip.vision.preproc_image_size", i32_value(-1))), "preproc_image_size"),
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    // Gate and up of Phi-3 are one matrix, whose rows must be those of both.
    let dir = tempfile::tempdir().unwrap();
    let mut parts = Vec::new();
    for number in 1..=3 {
        let name = format!("model-{number:05}-of-00003.gguf");
        let file = GgufBytes::read(&converted("text_phi3_longrope", &name));
        parts.push((dir.path().join(name), file));
    }
    let factors = |file: &mut GgufBytes| file.tensors.retain(|t| t.name != "rope_factors_long.weight");
    parts.iter_mut().for_each(|(_, file)| factors(file));
    for (path, file) in &parts {
        std::fs::write(path, file.clone().with("split.tensors.count", i32_value(15)).bytes()).unwrap();
    }
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("rope_factors_long.weight"), "{message}");
}

#[test]
fn tensors_that_nothing_reads_are_named() {
    let golden = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model.gguf");
    let all = ["gguf_llama", "gguf_qwen2", "gguf_gemma3", "gguf_llava"].map(golden).into_iter();
    let names = ["text_qwen3", "text_gemma2", "text_phi3_longrope", "qwen2_vl_hub", "qwen2_5_vl_hub", "smolvlm_hub"];
    for path in all.chain(names.map(|name| converted(name, ""))) {
        for matrices in [Matrices::Widen, Matrices::Keep] {
            let (_, warnings) = warnings_of(|| AutoMllm::load(&Checkpoint::open(&path).unwrap().with_matrices(matrices)).unwrap());
            assert!(!warnings.contains("does not read"), "{}: {warnings}", path.display());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut file = GgufBytes::read(&golden("gguf_llama"));
    let extra = |name: &str| crate::gguf_bytes::Tensor { name: name.to_owned(), ..file.tensors[3].clone() };
    let extra = [extra("blk.0.ffn_down.scale"), extra("blk.1.attn_sinks.weight")];
    file.tensors.extend(extra);
    std::fs::write(&path, file.bytes()).unwrap();
    let (_, warnings) = warnings_of(|| load(&path));
    assert!(warnings.contains("blk.0.ffn_down.scale") && warnings.contains("count=2"), "{warnings}");
}

#[test]
fn the_turn_tokens_of_phi3_take_the_white_space_behind_them() {
    let tokens = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>", "<|end|>", "\u{2581}", "a", "\u{2581}a"];
    let kinds = [2, 3, 3, 3, 3, 3, 1, 1, 1];
    let list =
        |kind: u32, bytes: Vec<u8>| [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(tokens.len() as u64).to_le_bytes(), &bytes].concat();
    let strings = tokens.iter().flat_map(|t| [&(t.len() as u64).to_le_bytes(), t.as_bytes()].concat()).collect();
    let scores = (0..tokens.len()).flat_map(|i| (-(i as f32)).to_le_bytes()).collect();
    let dir = tempfile::tempdir().unwrap();
    let name = |number: usize| format!("model-{number:05}-of-00003.gguf");
    for number in 2..=3 {
        std::fs::copy(converted("text_phi3_longrope", &name(number)), dir.path().join(name(number))).unwrap();
    }
    let mut first = GgufBytes::read(&converted("text_phi3_longrope", &name(1)));
    first.metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
    let kinds = list(5, kinds.iter().flat_map(|k: &i32| k.to_le_bytes()).collect());
    let first = first.with("tokenizer.ggml.model", text_value("llama")).with("tokenizer.ggml.tokens", list(8, strings));
    let first = first.with("tokenizer.ggml.token_type", kinds).with("tokenizer.ggml.scores", list(6, scores));
    // The last entry of a file without tensors has padding behind it.
    let first = first.with("tokenizer.ggml.add_bos_token", vec![7, 0, 0, 0, 0]).with("split.tensors.count", i32_value(16));
    std::fs::write(dir.path().join(name(1)), first.bytes()).unwrap();
    let model = load(dir.path());
    let ids = |text: &str| {
        let prompt = Prompt::Raw { text: text.to_owned(), images: Vec::new() };
        model.processor().prompts(&[prompt], Padding::Left).unwrap().input_ids.to_vec2::<u32>().unwrap().concat()
    };
    // A space is put in front of each segment.
    assert_eq!(ids("<|user|>\n a<|end|>\n\n"), [4, 8, 5]);
    assert_eq!(ids("<|endoftext|> a"), [3, 6, 8]);
}
