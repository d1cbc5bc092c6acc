//! GGUF files: quantised weights, vision towers, tokenizers, and typed errors for files that cannot be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Tensor;
use sgm_models::{AutoMllm, Checkpoint, Error, Matrices, Mllm, ModelInputs, Padding, Prompt, TokenKind};

const FIXTURES: [&str; 4] = ["gguf_llama", "gguf_qwen2", "gguf_gemma3", "gguf_llava"];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model.gguf")
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap()
}

fn inputs(model: &AutoMllm) -> ModelInputs {
    let image = model.processor().images().map(|_| Arc::new(image::RgbImage::from_pixel(31, 22, image::Rgb([200, 30, 90]))));
    let prompts = [Prompt::user("What is this?", image), Prompt::user("So?", None)];
    model.processor().prompts(&prompts, Padding::Left).unwrap()
}

fn logits(model: &AutoMllm) -> Vec<f32> {
    let hidden = model.prefill(&inputs(model), &mut model.new_cache()).unwrap();
    let last = hidden.narrow(1, hidden.dim(1).unwrap() - 1, 1).unwrap().contiguous().unwrap();
    model.logits(&last).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference relative to the largest value.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

/// A copy of a fixture in a directory of its own, whose bytes can be changed.
struct Copy {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Copy {
    fn of(name: &str) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), bytes: std::fs::read(fixture(name)).unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("model.gguf")
    }

    fn open(&self) -> Result<Checkpoint, Error> {
        self.open_bytes(&self.bytes)
    }

    fn open_bytes(&self, bytes: &[u8]) -> Result<Checkpoint, Error> {
        std::fs::write(self.path(), bytes).unwrap();
        Checkpoint::open(self.path())
    }

    /// Replaces the bytes at an offset from the end of a text in the file.
    fn poke(mut self, after: &str, offset: usize, new: &[u8]) -> Self {
        let found = self.bytes.windows(after.len()).position(|w| w == after.as_bytes());
        let at = found.unwrap_or_else(|| panic!("no {after}")) + after.len() + offset;
        self.bytes[at..at + new.len()].copy_from_slice(new);
        self
    }

    /// Adds a number in front of the metadata, and a filler that keeps the tensors aligned.
    fn insert(mut self, key: &str, value: u32) -> Self {
        let entry = |key: &str, kind: u32, value: &[u8]| {
            let length = u64::try_from(key.len()).unwrap().to_le_bytes();
            [&length[..], key.as_bytes(), &kind.to_le_bytes(), value].concat()
        };
        let mut entries = entry(key, 4, &value.to_le_bytes());
        let filler = 32 - (entries.len() + 21) % 32;
        let text = [&u64::try_from(filler).unwrap().to_le_bytes()[..], &vec![b'-'; filler]].concat();
        entries.extend(entry("a", 8, &text));
        assert_eq!(entries.len() % 32, 0);
        self.bytes.splice(24..24, entries);
        let count = u64::from_le_bytes(self.bytes[16..24].try_into().unwrap()) + 2;
        self.bytes[16..24].copy_from_slice(&count.to_le_bytes());
        self
    }

    /// Replaces all occurrences of a text by another text of the same length.
    fn replace(mut self, from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len());
        let found: Vec<usize> = (0..self.bytes.len()).filter(|at| self.bytes[*at..].starts_with(from.as_bytes())).collect();
        assert!(!found.is_empty(), "no {from}");
        found.into_iter().for_each(|at| self.bytes[at..at + to.len()].copy_from_slice(to.as_bytes()));
        self
    }
}

fn refused(copy: &Copy) -> String {
    let error = copy.open().and_then(|c| AutoMllm::load(&c)).unwrap_err();
    assert!(!matches!(error, Error::Io { .. } | Error::Candle(_)), "{error:?}");
    error.to_string()
}

#[test]
fn a_quantised_model_is_close_to_its_dequantised_form() {
    for name in FIXTURES {
        let checkpoint = open(&fixture(name));
        let exact = AutoMllm::from_tensors(&checkpoint, &checkpoint.tensors().unwrap()).unwrap();
        let quantised = AutoMllm::load(&checkpoint.with_matrices(Matrices::Keep)).unwrap();
        let difference = difference(&logits(&quantised), &logits(&exact));
        // Inputs are rounded to 8 bits. A misplaced row of queries or keys would exceed the limit.
        assert!(difference > 1e-6 && difference < 0.1, "{name}: {difference}");
    }
}

#[test]
fn matrices_are_kept_where_products_with_them_are_fast() {
    #[cfg(target_arch = "x86_64")]
    let fast = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    #[cfg(not(target_arch = "x86_64"))]
    let fast = false;
    for name in FIXTURES {
        let load = |matrices| AutoMllm::load(&open(&fixture(name)).with_matrices(matrices)).unwrap();
        let [auto, widened, kept] = [Matrices::Auto, Matrices::Widen, Matrices::Keep].map(|matrices| logits(&load(matrices)));
        assert_eq!(&auto, if fast { &kept } else { &widened }, "{name}");
        assert_ne!(kept, widened, "{name}");
    }
}

#[test]
fn the_chat_template_can_be_replaced() {
    let render = |checkpoint: Checkpoint| AutoMllm::load(&checkpoint).unwrap().processor().render(&Prompt::user("One\ntwo", None)).unwrap();
    let plain = "{% for message in messages %}{{ message.content }}{% endfor %}";
    assert_ne!(render(open(&fixture("gguf_llama"))), "One\ntwo");
    assert_eq!(render(open(&fixture("gguf_llama")).with_chat_template(plain)), "One\ntwo");
}

#[test]
fn quantised_models_continue_from_their_cache() {
    for name in FIXTURES {
        let model = AutoMllm::load(&open(&fixture(name)).with_matrices(Matrices::Keep)).unwrap();
        let inputs = inputs(&model);
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        let tokens = [[7, 8], [9, 10], [11, 12]];
        let steps: Vec<Tensor> = tokens.iter().map(|step| model.logits(&model.decode(step, &mut cache).unwrap()).unwrap()).collect();
        let mut longer = inputs.clone();
        let appended: Vec<Vec<u32>> = (0..2).map(|row| tokens.iter().map(|step| step[row]).collect()).collect();
        longer.input_ids = Tensor::cat(&[&inputs.input_ids, &Tensor::new(appended, &candle_core::Device::Cpu).unwrap()], 1).unwrap();
        longer.kinds.iter_mut().for_each(|row| row.extend([TokenKind::Response; 3]));
        let whole = model.prefill(&longer, &mut model.new_cache()).unwrap();
        let whole = model.logits(&whole.narrow(1, inputs.kinds[0].len(), 3).unwrap().contiguous().unwrap()).unwrap();
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let difference = difference(&values(&Tensor::cat(&steps, 1).unwrap()), &values(&whole));
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
}

/// The fixtures to truncate, with the lengths of their headers.
const TRUNCATED: [(&str, usize); 2] = [("gguf_llama", 6784), ("gguf_gemma3", 13_632)];

#[test]
fn truncated_files_are_refused() {
    for (name, header) in TRUNCATED {
        let copy = Copy::of(name);
        // The bytes after the last tensor are padding.
        for length in (0..header).chain((header..copy.bytes.len() - 32).step_by(101)) {
            let error = copy.open_bytes(&copy.bytes[..length]).unwrap_err();
            assert!(matches!(error, Error::Gguf { .. }), "{name} of {length} bytes: {error:?}");
        }
    }
}

#[test]
fn errors_name_what_is_unsupported() {
    let llama = || Copy::of("gguf_llama");
    // The type follows the name, the number of dimensions and two dimensions.
    let message = refused(&llama().poke("blk.0.ffn_up.weight", 4 + 16, &20u32.to_le_bytes()));
    assert!(message.contains("IQ4_NL of blk.0.ffn_up.weight") && message.contains("Q4_K"), "{message}");
    let message = refused(&llama().poke("blk.0.ffn_up.weight", 4 + 16, &77u32.to_le_bytes()));
    assert!(message.contains("number 77 of blk.0.ffn_up.weight"), "{message}");
    let message = refused(&llama().replace("llama-bpe", "llama-bpx"));
    assert!(message.contains("pre-tokenizer `llama-bpx`") && message.contains("qwen2"), "{message}");
    let message = refused(&llama().replace("gpt2", "bert"));
    assert!(message.contains("tokenizer `bert`") && message.contains("llama"), "{message}");
    let message = refused(&llama().poke("general.architecture", 12, b"mamba"));
    assert!(message.contains("GGUF architecture `mamba`") && message.contains("qwen2"), "{message}");
    let message = refused(&llama().insert("llama.expert_count", 8));
    assert!(message.contains("llama with a mixture of experts"), "{message}");
    for alignment in [0, 4, 24] {
        let message = refused(&llama().insert("general.alignment", alignment));
        assert!(message.contains(&format!("`general.alignment` is {alignment}")), "{message}");
    }
    let message = refused(&llama().insert("general.file_type", 0));
    assert!(message.contains("`general.file_type` is there twice"), "{message}");
    let message = refused(&llama().poke("llama.block_count", 4, &3u32.to_le_bytes()));
    assert!(message.contains("`llama.block_count`: the file has fewer than 3 layers"), "{message}");
    let message = refused(&llama().poke("llama.attention.head_count", 4, &3u32.to_le_bytes()));
    assert!(message.contains("num_attention_heads 3") || message.contains("heads"), "{message}");
    let message = refused(&llama().poke("GGUF", 0, &3u32.to_be_bytes()));
    assert!(message.contains("big-endian"), "{message}");
    let message = refused(&llama().poke("GGUF", 0, &1u32.to_le_bytes()));
    assert!(message.contains("version 1"), "{message}");
    let message = refused(&llama().replace("GGUF", "GGML"));
    assert!(message.contains("does not begin with `GGUF`"), "{message}");
    llama().insert("general.alignment", 32).open().and_then(|c| AutoMllm::load(&c)).unwrap();
}

#[test]
fn a_vision_tower_is_found_beside_the_model_or_set_by_the_caller() {
    let model = AutoMllm::load(&open(&fixture("gguf_llava"))).unwrap();
    assert!(model.processor().images().is_some());
    let expected = logits(&model);

    let copy = Copy::of("gguf_llava");
    let mmproj = fixture("gguf_llava").with_file_name("mmproj.gguf");
    let alone = AutoMllm::load(&copy.open().unwrap()).unwrap();
    assert!(alone.processor().images().is_none());
    let together = AutoMllm::load(&copy.open().unwrap().with_mmproj(&mmproj).unwrap()).unwrap();
    assert_eq!(logits(&together), expected);
    // A vision tower in the same directory, under any name that contains mmproj.
    let beside = copy.dir.path().join("tiny-MMPROJ-f16.gguf");
    std::fs::copy(&mmproj, &beside).unwrap();
    assert_eq!(logits(&AutoMllm::load(&copy.open().unwrap()).unwrap()), expected);

    let message = Checkpoint::open(&beside).unwrap_err().to_string();
    assert!(message.contains("it is a vision tower (mmproj)"), "{message}");
    let message = copy.open().unwrap().with_mmproj(copy.path()).unwrap_err().to_string();
    assert!(message.contains("it is no vision tower"), "{message}");
    // A vision tower of another family is ignored, unless the caller names it.
    let bytes = Copy { dir: tempfile::tempdir().unwrap(), bytes: std::fs::read(&mmproj).unwrap() };
    std::fs::write(&beside, bytes.poke("clip.projector_type", 12, b"ldp").bytes).unwrap();
    assert!(AutoMllm::load(&copy.open().unwrap()).unwrap().processor().images().is_none());
    let message = copy.open().unwrap().with_mmproj(&beside).unwrap_err().to_string();
    assert!(message.contains("GGUF projector `ldp` is not supported; supported: mlp"), "{message}");
}

#[test]
fn a_vocabulary_without_an_image_token_is_extended_by_one() {
    let mmproj = fixture("gguf_llava").with_file_name("mmproj.gguf");
    let load = |copy: &Copy| AutoMllm::load(&copy.open().unwrap().with_mmproj(&mmproj).unwrap()).unwrap();
    let model = load(&Copy::of("gguf_llava"));
    // Files converted from the first LLaVA have 32,000 tokens and no <image>.
    let without = load(&Copy::of("gguf_llava").replace("<image>", "<other>").replace("'<other>\n'", "'<image>\n'"));
    let ids = |model: &AutoMllm| inputs(model).input_ids.to_vec2::<u32>().unwrap().concat();
    let image = ids(&model).into_iter().zip(ids(&without)).find(|(a, b)| a != b).unwrap();
    assert_eq!(image, (305, 307));
    assert_eq!(logits(&model), logits(&without));
}
