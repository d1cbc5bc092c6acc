//! What a checkpoint holds is read, known to be left out, or named; and what cannot be read is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sgm_models::{
    AutoMllm, Checkpoint, Error, GenerateOptions, Generator, Matrices, Mllm, Padding, Prompt, Result, Sampling, response_nll,
};

/// The golden checkpoints in safetensors files.
fn goldens() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found: Vec<PathBuf> = all.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|d| d.join("golden.json").exists() && !d.join("model.gguf").exists());
    found.sort();
    assert!(found.len() >= 34, "{found:?}");
    found
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A copy of a checkpoint, with all its tensors in one file, for changes.
struct Copy {
    dir: tempfile::TempDir,
    tensors: Tensors,
}

impl Copy {
    fn of(source: &Path) -> Self {
        let (dir, mut tensors) = (tempfile::tempdir().unwrap(), Tensors::new());
        for entry in source.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap();
            if name.starts_with("model") && name.ends_with(".safetensors") {
                let bytes = std::fs::read(&entry).unwrap();
                for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                    tensors.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
                }
            } else if entry.is_file() && !name.starts_with("golden") && !name.ends_with("index.json") {
                std::fs::copy(&entry, dir.path().join(name)).unwrap();
            } else if entry.is_dir() {
                std::fs::create_dir(dir.path().join(name)).unwrap();
                for file in entry.read_dir().unwrap().map(|file| file.unwrap().path()) {
                    std::fs::copy(&file, dir.path().join(name).join(file.file_name().unwrap())).unwrap();
                }
            }
        }
        Self { dir, tensors }
    }

    /// Changes `config.json` and the configurations of its parts.
    fn configure(&self, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
        let path = self.dir.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if let Some(text) = config.get_mut("text_config") {
            change(text.as_object_mut().unwrap());
        }
        change(config.as_object_mut().unwrap());
        std::fs::write(path, config.to_string()).unwrap();
    }

    fn insert_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.insert(name.to_owned(), (Dtype::F32, shape.to_vec(), bytes));
    }

    fn checkpoint(&self) -> Result<Checkpoint> {
        let views = self.tensors.iter().map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &self.dir.path().join("model.safetensors")).unwrap();
        Checkpoint::open(self.dir.path())
    }

    fn load(&self) -> Result<AutoMllm> {
        AutoMllm::load(&self.checkpoint()?)
    }
}

fn logits(model: &AutoMllm) -> Vec<f32> {
    let inputs = model.processor().prompts([&Prompt::Raw { text: "What is it?".to_owned(), images: Vec::new() }], Padding::Left).unwrap();
    let hidden = model.prefill(&inputs, &mut model.new_cache()).unwrap();
    model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_tensor_is_read_and_a_further_one_is_named() {
    let all = goldens().into_iter().map(|directory| Copy::of(&directory)).collect::<Vec<_>>();
    let unread: Vec<_> =
        all.iter().map(|copy| copy.load().unwrap()).map(|m| (m.info().architecture.clone(), m.unread_tensors().to_vec())).collect();
    assert!(unread.iter().all(|(_, unread)| unread.is_empty()), "{unread:#?}");
    for mut copy in all {
        // Mixtures of experts have tensors of other names.
        let down = ["down_proj.weight", "down_proj", "w2.weight"]
            .iter()
            .find_map(|end| copy.tensors.keys().find(|name| name.ends_with(end) && !name.contains("vision")).cloned());
        let extra = [down.unwrap().replace("weight", "bias_of_another_kind"), "a_further_module.weight".to_owned()];
        extra.iter().for_each(|name| copy.insert_f32(name, &[2], &[0.5, 0.25]));
        // Known to be of no use.
        copy.insert_f32("model.layers.0.self_attn.rotary_emb.inv_freq", &[1], &[1.0]);
        let checkpoint = copy.checkpoint().unwrap();
        let expected = [&extra[1], &extra[0]];
        assert_eq!(AutoMllm::load(&checkpoint).unwrap().unread_tensors().iter().collect::<Vec<_>>(), expected);
        let kept = AutoMllm::load(&copy.checkpoint().unwrap().with_matrices(Matrices::Keep)).unwrap();
        assert_eq!(kept.unread_tensors().iter().collect::<Vec<_>>(), expected);
        let scaled = AutoMllm::from_tensors(&checkpoint, &checkpoint.tensors().unwrap()).unwrap();
        assert_eq!(scaled.unread_tensors().iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn the_file_decides_whether_the_head_is_tied() {
    let (mut own, mut without) = (0, 0);
    for directory in goldens() {
        let name = directory.display();
        let mut copy = Copy::of(&directory);
        let model = copy.load().unwrap();
        let plain = logits(&model);
        let head = copy.tensors.keys().find(|name| name.ends_with("lm_head.weight")).cloned();
        match head {
            // A head of its own is used, even if the configuration says that it is the embeddings.
            Some(head) => {
                copy.configure(|config| drop(config.insert("tie_word_embeddings".to_owned(), true.into())));
                let tied = copy.load().unwrap();
                assert_eq!(logits(&tied), plain, "{name}");
                assert_eq!(tied.unread_tensors(), [""; 0], "{name}");
                copy.tensors.remove(&head);
                copy.configure(|config| drop(config.insert("tie_word_embeddings".to_owned(), false.into())));
                let error = copy.load().unwrap_err();
                assert!(matches!(&error, Error::NoHead { .. } | Error::MissingTensor { part: "head", .. }), "{name}: {error}");
                own += 1;
            }
            // A head equal to the embeddings changes nothing, another one is used.
            None => {
                let embeddings = copy.tensors.iter().find(|(name, _)| name.ends_with("embed_tokens.weight")).unwrap();
                let (prefix, (dtype, shape, bytes)) = (embeddings.0.split("embed_tokens").next().unwrap(), embeddings.1.clone());
                let names = ["lm_head.weight", "model.lm_head.weight", "language_model.lm_head.weight"];
                assert!(!prefix.is_empty());
                for head in names {
                    copy.tensors.insert(head.to_owned(), (dtype, shape.clone(), bytes.clone()));
                    assert_eq!(logits(&copy.load().unwrap()), plain, "{name}");
                    let mut other = bytes.clone();
                    let width = bytes.len() / shape.iter().product::<usize>();
                    other.rotate_left(shape[1] * width);
                    copy.tensors.insert(head.to_owned(), (dtype, shape.clone(), other));
                    let different = copy.load().unwrap();
                    let rotated = logits(&different);
                    assert_eq!(different.unread_tensors(), [""; 0], "{name}");
                    // Row i of the head is row i + 1 of the embeddings.
                    let tokens = plain.len() / shape[0];
                    for token in 0..tokens {
                        let row = |all: &[f32], id: usize| all[token * shape[0] + id];
                        assert!((0..shape[0] - 1).all(|id| row(&rotated, id) == row(&plain, id + 1)), "{name}");
                    }
                    copy.tensors.remove(head);
                }
                without += 1;
            }
        }
    }
    assert!(own >= 10 && without >= 10, "{own} {without}");
}

#[test]
fn checkpoints_in_other_formats_are_refused_by_name() {
    let quantised = |changes: serde_json::Value| {
        let copy = Copy::of(&golden("text_qwen3"));
        copy.configure(|config| config.extend(changes.as_object().unwrap().clone()));
        copy.load().unwrap_err().to_string()
    };
    let text = quantised(serde_json::json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}));
    assert!(text.contains("by gptq, 4 bits") && text.contains("model.dequantize()"), "{text}");
    let text = quantised(serde_json::json!({"quantization": {"group_size": 64, "bits": 4}}));
    assert!(text.contains("MLX"), "{text}");

    // The configuration says nothing, or says something else.
    let mut copy = Copy::of(&golden("fp8_block"));
    copy.configure(|config| drop(config.remove("quantization_config")));
    let text = copy.load().unwrap_err().to_string();
    assert!(text.contains("F8_E4M3") && text.contains("model.layers.0.mlp.down_proj.weight") && text.contains("does not say"), "{text}");
    copy = Copy::of(&golden("fp8_block"));
    let scales = copy.tensors.keys().find(|name| name.ends_with("weight_scale_inv")).unwrap().clone();
    let (dtype, shape, bytes) = copy.tensors[&scales].clone();
    copy.tensors.remove(&scales);
    let text = copy.load().unwrap_err().to_string();
    assert!(text.contains("no scales") && text.contains(scales.trim_end_matches("_scale_inv")), "{text}");
    copy.tensors.insert(scales.clone(), (dtype, vec![shape[0] * shape[1]], bytes));
    let text = copy.load().unwrap_err().to_string();
    assert!(text.contains("the scales of"), "{text}");
}

/// A torch file of tensors, as `torch.save` writes it: a zip archive of the pickle and each tensor's numbers.
fn torch_file<'a>(tensors: impl Iterator<Item = (&'a String, &'a (Dtype, Vec<usize>, Vec<u8>))>) -> Vec<u8> {
    let text = |s: &str| [&b"X"[..], &u32::try_from(s.len()).unwrap().to_le_bytes(), s.as_bytes()].concat();
    let number = |n: usize| [&b"J"[..], &i32::try_from(n).unwrap().to_le_bytes()].concat();
    let tuple = |values: &[usize]| [b"(".to_vec(), values.iter().flat_map(|n| number(*n)).collect(), b"t".to_vec()].concat();
    let (mut pickle, mut entries) = (b"\x80\x02ccollections\nOrderedDict\n)R(".to_vec(), Vec::new());
    for (key, (name, (dtype, shape, bytes))) in tensors.enumerate() {
        let class = match dtype {
            Dtype::F32 => "FloatStorage",
            Dtype::F16 => "HalfStorage",
            Dtype::BF16 => "BFloat16Storage",
            other => panic!("{other:?}"),
        };
        let strides: Vec<usize> = (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect();
        let storage =
            [&b"("[..], &text("storage"), format!("ctorch\n{class}\n").as_bytes(), &text(&key.to_string()), &text("cpu")].concat();
        let call = [&text(name)[..], b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage, &number(bytes.len()), b"tQ", &number(0)].concat();
        pickle.extend([&call[..], &tuple(shape), &tuple(&strides), b"\x89)tR"].concat());
        entries.push((format!("a/data/{key}"), bytes.clone()));
    }
    pickle.extend(b"u.");
    entries.push(("a/data.pkl".to_owned(), pickle));
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in &entries {
        let (offset, size) = (u32::try_from(file.len()).unwrap().to_le_bytes(), u32::try_from(bytes.len()).unwrap().to_le_bytes());
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        file.extend([&b"PK\x03\x04"[..], &[0; 14], &size, &size, &length, &[0; 2], name.as_bytes(), bytes].concat());
        directory.extend([&b"PK\x01\x02"[..], &[0; 16], &size, &size, &length, &[0; 12], &offset, name.as_bytes()].concat());
    }
    let count = u16::try_from(entries.len()).unwrap().to_le_bytes();
    let sizes = [directory.len(), file.len()].map(|n| u32::try_from(n).unwrap().to_le_bytes());
    [&file[..], &directory, b"PK\x05\x06", &[0; 4], &count, &count, &sizes[0], &sizes[1], &[0; 2]].concat()
}

#[test]
fn weights_in_torch_files_are_those_in_safetensors_files() {
    for name in ["text_mistral", "llava_mha", "text_gemma3"] {
        let mut copy = Copy::of(&golden(name));
        let plain = logits(&copy.load().unwrap());
        let folder = copy.dir.path().to_owned();
        let path = |file: &str| folder.join(file);
        std::fs::remove_file(path("model.safetensors")).unwrap();
        std::fs::write(path("pytorch_model.bin"), torch_file(copy.tensors.iter())).unwrap();
        let model = AutoMllm::load(&Checkpoint::open(copy.dir.path()).unwrap()).unwrap();
        assert_eq!(logits(&model), plain, "{name}");
        assert!(model.unread_tensors().is_empty() && model.info().weights.is_some());

        // In two shards.
        std::fs::remove_file(path("pytorch_model.bin")).unwrap();
        let shard = |tensor: &str| format!("pytorch_model-0000{}-of-00002.bin", 1 + tensor.len() % 2);
        for file in [shard(""), shard("a")] {
            std::fs::write(path(&file), torch_file(copy.tensors.iter().filter(|(tensor, _)| shard(tensor) == file))).unwrap();
        }
        let map: BTreeMap<_, _> = copy.tensors.keys().map(|tensor| (tensor, shard(tensor))).collect();
        std::fs::write(path("pytorch_model.bin.index.json"), serde_json::json!({"weight_map": map}).to_string()).unwrap();
        let kept = Checkpoint::open(copy.dir.path()).unwrap().with_matrices(Matrices::Keep);
        assert_eq!(logits(&AutoMllm::load(&kept).unwrap()), plain, "{name}");

        // An unread tensor, and files of another kind.
        copy.insert_f32("further", &[1], &[0.5]);
        std::fs::write(path(&shard("a")), torch_file(copy.tensors.iter().filter(|(tensor, _)| shard(tensor) == shard("a")))).unwrap();
        assert_eq!(AutoMllm::load(&Checkpoint::open(copy.dir.path()).unwrap()).unwrap().unread_tensors(), ["further"]);
        std::fs::write(path(&shard("a")), b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
        let text = AutoMllm::load(&Checkpoint::open(copy.dir.path()).unwrap()).unwrap_err().to_string();
        assert!(text.contains(&shard("a")) && text.contains("1.6"), "{text}");
    }
}

#[test]
fn the_layout_of_the_original_llava_code_is_refused_with_the_converted_one() {
    let copy = Copy::of(&golden("llava_mha"));
    copy.configure(|config| {
        config.insert("architectures".to_owned(), serde_json::json!(["LlavaLlamaForCausalLM"]));
        config.insert("mm_vision_tower".to_owned(), "openai/clip-vit-large-patch14-336".into());
    });
    let text = copy.load().unwrap_err().to_string();
    assert!(text.contains("LlavaLlamaForCausalLM") && text.contains("llava-hf/llava-1.5-7b-hf"), "{text}");
}

/// A checkpoint whose tokenizer is a SentencePiece model only.
fn with_sentence_piece(model: &str, settings: &serde_json::Value) -> Copy {
    let copy = Copy::of(&golden("text_mistral"));
    std::fs::remove_file(copy.dir.path().join("tokenizer.json")).unwrap();
    let model = golden("sentence_piece").join(model).join("tokenizer.model");
    std::fs::copy(model, copy.dir.path().join("tokenizer.model")).unwrap();
    std::fs::write(copy.dir.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    copy
}

#[test]
fn sentence_piece_models_give_the_ids_of_transformers() {
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden("sentence_piece").join("ids.json")).unwrap()).unwrap();
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(texts.len() > 30);
    let mut wrong = Vec::new();
    for (case, golden) in golden["cases"].as_object().unwrap() {
        let model = with_sentence_piece(golden["model"].as_str().unwrap(), &golden["settings"]).load().unwrap();
        for (at, text) in texts.iter().enumerate() {
            let ids = model.processor().token_ids(text).unwrap();
            let expected = golden["ids"][at].as_array().unwrap();
            // The processor does not put the first token, `<s>` by special_tokens_map.json, before a text that begins with it.
            let named = golden["settings"].get("added_tokens_decoder").is_none() && golden["settings"]["add_bos_token"] == true;
            let expected = if named && text.starts_with("<s>") { &expected[1..] } else { expected };
            if serde_json::json!(ids) != serde_json::json!(expected) {
                wrong.push(format!("{case}: {text:?}: {ids:?}, expected {}", golden["ids"][at]));
            }
            let decoded = model.processor().decode(&ids).unwrap();
            if decoded != golden["decoded"][at] {
                wrong.push(format!("{case}: {text:?} decodes to {decoded:?}, expected {}", golden["decoded"][at]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn other_tokenizers_are_refused_with_the_remedy() {
    let settings = serde_json::json!({"tokenizer_class": "LlamaTokenizer"});
    let copy = with_sentence_piece("llama", &settings);
    let path = copy.dir.path().join("tokenizer.model");
    let whole = std::fs::read(&path).unwrap();
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        copy.load().map(|_| ()).map_err(|error| error.to_string())
    };
    let unigram: Vec<u8> = {
        // Field 3 of the trainer's settings, the kind of model.
        let at = whole.windows(4).rposition(|w| w == [0x18, 2, 0x20, 0xd4]).unwrap();
        [&whole[..at + 1], &[1], &whole[at + 2..]].concat()
    };
    for bytes in [&b""[..], b"IQ== 0\nIg== 1\n", &unigram[..], &whole[..whole.len() - 1]] {
        let text = load(bytes).unwrap_err();
        assert!(text.contains("tokenizer.model") && text.contains("save_pretrained"), "{text}");
    }
    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        // Read or refused; a panic fails the test.
        let _ = (load(&damaged), load(&whole[..at]));
    }
    let other = with_sentence_piece("llama", &serde_json::json!({"tokenizer_class": "T5Tokenizer"}));
    let text = other.load().unwrap_err().to_string();
    assert!(text.contains("T5Tokenizer") && text.contains("save_pretrained"), "{text}");
}

#[test]
fn scales_of_8_bit_floats_are_multiplied_in() {
    // The first weight of a layer, by hand: a byte, and the scale of its block.
    let copy = Copy::of(&golden("fp8_block"));
    let tensors = copy.checkpoint().unwrap().tensors().unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let ours = tensors.get((40, 32), name).unwrap().to_vec2::<f32>().unwrap();
    let byte = copy.tensors[name].2[39 * 32 + 31];
    let mantissa = f32::from(byte & 7) / 8.0 + if byte >> 3 & 15 == 0 { 0.0 } else { 1.0 };
    let value = mantissa * 2f32.powi(i32::from((byte >> 3 & 15).max(1)) - 7) * if byte >> 7 == 1 { -1.0 } else { 1.0 };
    // Row 39 and column 31 lie in the block (2, 1) of 3 x 2 blocks.
    let scale = &copy.tensors["model.layers.1.mlp.up_proj.weight_scale_inv"].2[4 * 5..4 * 6];
    assert_eq!(ours[39][31], value * f32::from_le_bytes(scale.try_into().unwrap()));
}

#[test]
fn every_family_reads_8_bit_floats_with_scales() {
    let quantised = serde_json::json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [5, 7]});
    for directory in goldens() {
        let name = directory.file_name().unwrap().to_str().unwrap();
        let mut copy = Copy::of(&directory);
        if name.starts_with("fp8_") {
            continue;
        }
        // Linear layers; stacked experts have three dimensions.
        let linear = |(name, (_, shape, _)): &(&String, &(Dtype, Vec<usize>, Vec<u8>))| {
            shape.len() == 2 && ["_proj.weight", ".w1.weight"].iter().any(|end| name.ends_with(end))
        };
        let weights: Vec<String> = copy.tensors.iter().filter(linear).map(|(name, _)| name.clone()).collect();
        assert!(!weights.is_empty(), "{name}");
        let mut bytes = copy.tensors.clone();
        for weight in &weights {
            let [rows, columns] = copy.tensors[weight].1[..] else { unreachable!() };
            // Magnitudes below 2 with either sign, and a scale for each block of 5 x 7, cut off at the edges.
            let eights: Vec<u8> =
                (0..rows * columns).map(|at| u8::try_from(at * 37 % 0x40).unwrap() | if at % 3 == 0 { 0x80 } else { 0 }).collect();
            let across = columns.div_ceil(7);
            let scales: Vec<f32> = (0..rows.div_ceil(5) * across).map(|at| 0.02 + 0.01 * (at % 4) as f32).collect();
            let value = |at: usize| {
                let byte = eights[at];
                let exponent = i32::from(byte >> 3 & 15);
                let mantissa = f32::from(byte & 7) / 8.0 + if exponent == 0 { 0.0 } else { 1.0 };
                let sign = if byte >> 7 == 1 { -1.0 } else { 1.0 };
                sign * mantissa * 2f32.powi(exponent.max(1) - 7) * scales[at / columns / 5 * across + at % columns / 7]
            };
            let wide = (0..rows * columns).flat_map(|at| value(at).to_le_bytes()).collect();
            copy.tensors.insert(weight.clone(), (Dtype::F32, vec![rows, columns], wide));
            bytes.insert(weight.clone(), (Dtype::F8_E4M3, vec![rows, columns], eights.clone()));
            let shape = vec![rows.div_ceil(5), across];
            bytes.insert(format!("{weight}_scale_inv"), (Dtype::F32, shape, scales.iter().flat_map(|scale| scale.to_le_bytes()).collect()));
        }
        let expected = logits(&copy.load().unwrap());
        copy.tensors = bytes;
        let silent = copy.load().unwrap_err().to_string();
        assert!(silent.contains("quantised") && silent.contains("model.dequantize()"), "{name}: {silent}");
        copy.configure(|config| drop(config.insert("quantization_config".to_owned(), quantised.clone())));
        let model = copy.load().unwrap();
        assert_eq!(logits(&model), expected, "{name}");
        assert_eq!(model.unread_tensors(), [""; 0], "{name}");
        // By another method, it is refused by name.
        copy.configure(|config| {
            drop(config.insert("quantization_config".to_owned(), serde_json::json!({"quant_method": "awq", "bits": 4})))
        });
        let refused = copy.load().unwrap_err().to_string();
        assert!(refused.contains("awq") && refused.contains("model.dequantize()"), "{name}: {refused}");
    }
}

#[test]
fn every_family_refuses_logits_that_are_no_numbers() {
    let options = GenerateOptions { max_new_tokens: 2, ..GenerateOptions::default() };
    let prompt = Prompt::Raw { text: "What is it?".to_owned(), images: Vec::new() };
    for directory in goldens() {
        let name = directory.display();
        let mut copy = Copy::of(&directory);
        let inner = ["layers", "vision", "visual", "image", "projector", "connector", "qformer"];
        let norm = copy.tensors.keys().find(|name| name.ends_with("norm.weight") && !inner.iter().any(|part| name.contains(part)));
        let norm = norm.unwrap().clone();
        let (dtype, shape, _) = copy.tensors[&norm].clone();
        let values = vec![0xff; shape[0] * if dtype == Dtype::F32 { 4 } else { 2 }];
        copy.tensors.insert(norm, (dtype, shape, values));
        let model = copy.load().unwrap();
        for prompts in [&[prompt.clone()][..], &[prompt.clone(), prompt.clone()]] {
            let error = model.generate(prompts, &options).unwrap_err();
            assert!(matches!(error, Error::NotFinite { prompt: 0, token: 0 }), "{name}: {error}");
        }
        let rated = response_nll(&model, &[(prompt.clone(), "A boat.".to_owned())], 1);
        assert!(matches!(rated, Err(Error::NotFinite { prompt: 0, token: 0 })), "{name}");
    }
}

#[test]
fn logits_that_are_no_numbers_end_a_generation_with_the_prompt_and_token() {
    let mut copy = Copy::of(&golden("text_qwen3"));
    let name = "model.embed_tokens.weight";
    let model = copy.load().unwrap();
    let prompts = [Prompt::user("So?", None), Prompt::user("What is it?", None)];
    let greedy = GenerateOptions { max_new_tokens: 4, eos: sgm_models::EosPolicy::Ignore, ..GenerateOptions::default() };
    let answers = model.generate(&prompts, &greedy).unwrap();
    let seen = |text: &str| model.processor().token_ids(text).unwrap();
    // A token of the second answer that no prompt has: the pass that reads it fails.
    let in_prompts: Vec<u32> = prompts.iter().flat_map(|p| seen(&model.processor().render(p).unwrap())).collect();
    let poisoned = answers[1].tokens.iter().position(|token| !in_prompts.contains(token) && !answers[0].tokens.contains(token));
    let (row, width) = (usize::try_from(answers[1].tokens[poisoned.unwrap()]).unwrap(), 32);
    // The head is a copy without the damage, so that only the embedding of that token is wrong.
    let (dtype, shape, bytes) = copy.tensors[name].clone();
    copy.tensors.insert("lm_head.weight".to_owned(), (dtype, shape, bytes));
    copy.tensors.get_mut(name).unwrap().2[4 * row * width..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let damaged = copy.load().unwrap();
    let expected = poisoned.unwrap() + 1;
    let error = damaged.generate(&prompts, &greedy).unwrap_err();
    assert!(matches!(error, Error::NotFinite { prompt: 1, token } if token == expected), "{error}");
    let named = GenerateOptions { ids: Some(vec![70, 71]), ..greedy.clone() };
    assert!(matches!(damaged.generate(&prompts, &named), Err(Error::NotFinite { prompt: 71, .. })));

    // Wrong from the first token on, in whatever way tokens are chosen and answers are rated.
    for value in [f32::NAN, f32::INFINITY] {
        let mut copy = Copy::of(&golden("text_qwen3"));
        copy.tensors.get_mut("model.norm.weight").unwrap().2[..4].copy_from_slice(&value.to_le_bytes());
        let model = copy.load().unwrap();
        let random = Sampling::Random { temperature: 1.0, top_p: Some(0.9), top_k: Some(5) };
        for options in [greedy.clone(), GenerateOptions { sampling: random, ..greedy.clone() }] {
            let error = model.generate(&prompts[1..], &options).unwrap_err();
            assert!(matches!(error, Error::NotFinite { prompt: 0, token: 0 }), "{error}");
        }
        let example = (prompts[0].clone(), "A boat.".to_owned());
        assert!(matches!(response_nll(&model, &[example], 1), Err(Error::NotFinite { prompt: 0, token: 0 })));
    }
}
