//! Bad input gets a typed error that says what to do.

use std::path::{Path, PathBuf};

use sgm::capture::{self, ActivationStore, Example, Manifest, Pool, Pooling, StoreWriter};
use sgm::models::{AutoMllm, Checkpoint, Error, GenerateOptions, Generator, Mllm, Padding, Prompt, Sampling, TokenSelection};
use sgm::score::score_store;

/// A copy of a small checkpoint that may be damaged.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden/llava_mha");
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(source).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        Self { dir }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn load(&self) -> Result<AutoMllm, Error> {
        AutoMllm::load(&Checkpoint::open(self.dir.path())?)
    }

    /// Replaces text in a JSON file, which must contain it.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        std::fs::write(self.path(file), text.replace(from, to)).unwrap();
    }

    /// Overwrites the first bytes of a tensor.
    fn poke(&self, tensor: &str, bytes: &[u8]) {
        let path = self.path("model.safetensors");
        let mut file = std::fs::read(&path).unwrap();
        let header = 8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().unwrap())).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
        let start = header + usize::try_from(json[tensor]["data_offsets"][0].as_u64().unwrap()).unwrap();
        file[start..start + bytes.len()].copy_from_slice(bytes);
        std::fs::write(path, file).unwrap();
    }
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn missing_files_are_named_with_what_to_do() {
    let absent = Checkpoint::open("no/such/directory").unwrap_err();
    assert!(matches!(&absent, Error::NotFound { cache: None, .. }), "{absent}");
    let id = Checkpoint::open("an-organisation/no-such-model").unwrap_err();
    assert!(matches!(&id, Error::NotFound { cache: Some(_), .. }) && id.to_string().contains("hf download"), "{id}");
    let empty = Checkpoint::open(tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(matches!(&empty, Error::MissingFile { wanted: "config.json", .. }), "{empty}");
    for file in ["model.safetensors", "tokenizer.json", "processor_config.json"] {
        let copy = Copy::new();
        std::fs::remove_file(copy.path(file)).unwrap();
        let error = copy.load().unwrap_err();
        assert!(matches!(&error, Error::MissingFile { wanted, .. } if wanted.contains(file)), "{error}");
        assert!(error.to_string().contains("copy the whole checkpoint"), "{error}");
    }
    let copy = Copy::new();
    std::fs::remove_file(copy.path("chat_template.jinja")).unwrap();
    // The family's usual template stands in.
    let text = copy.load().unwrap().processor().render(&Prompt::user("Hi?", None)).unwrap();
    assert_eq!(text, "USER: Hi? ASSISTANT:");
}

#[test]
fn another_architecture_is_told_what_is_supported() {
    let copy = Copy::new();
    copy.edit("config.json", "LlavaForConditionalGeneration", "BertForMaskedLM");
    // The class is looked at before anything that another family's configuration would get wrong.
    copy.edit("config.json", "clip_vision_model", "another_tower");
    let text = message(copy.load());
    assert!(text.contains("BertForMaskedLM") && text.contains("supported: LlavaForConditionalGeneration"), "{text}");
    let copy = Copy::new();
    copy.edit("config.json", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"");
    let text = message(copy.load());
    assert!(text.contains("mamba") && text.contains("llama, mistral, qwen2"), "{text}");
}

#[test]
fn contradictory_configurations_name_the_key() {
    for (from, to, key) in [
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "num_attention_heads"),
        ("\"vision_feature_layer\": -2", "\"vision_feature_layer\": -9", "vision_feature_layer"),
        (
            "\"vision_feature_select_strategy\": \"default\"",
            "\"vision_feature_select_strategy\": \"best\"",
            "vision_feature_select_strategy",
        ),
        ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"snake\"", "snake"),
        ("\"rope_type\": \"default\"", "\"rope_type\": \"spiral\"", "spiral"),
        ("\"intermediate_size\": ", "\"intermediate_size\": -", "intermediate_size"),
    ] {
        let copy = Copy::new();
        copy.edit("config.json", from, to);
        let text = message(copy.load());
        assert!(text.contains(key), "{to}: {text}");
    }
    let copy = Copy::new();
    copy.edit("config.json", "{", "{{");
    assert!(message(copy.load()).contains("not valid JSON"));
    // A size that the weights do not have is reported by the weights' name.
    let copy = Copy::new();
    copy.edit("config.json", "\"vocab_size\": ", "\"vocab_size\": 1");
    assert!(message(copy.load()).contains("embed_tokens"), "{}", message(copy.load()));
}

#[test]
fn cut_weights_are_recognised_at_every_length() {
    let copy = Copy::new();
    let bytes = std::fs::read(copy.path("model.safetensors")).unwrap();
    for cut in (0..bytes.len()).step_by(bytes.len() / 60).chain([1, 7, 8, 9, bytes.len() - 1]) {
        std::fs::write(copy.path("model.safetensors"), &bytes[..cut]).unwrap();
        let error = copy.load().unwrap_err();
        // An empty file cannot even be mapped.
        assert!(matches!(error, Error::Weights { .. } | Error::Io { .. }), "cut at {cut}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}

#[test]
fn missing_parts_list_the_names_tried() {
    let copy = Copy::new();
    copy.edit_header("language_model.model.embed_tokens.weight", "language_model.model.embed_tokenz.weight");
    let text = message(copy.load());
    assert!(text.contains("no language model") && text.contains("model.language_model.embed_tokens.weight"), "{text}");
}

impl Copy {
    /// Renames a tensor to a name of the same length.
    fn edit_header(&self, from: &str, to: &str) {
        let path = self.path("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn prompts_that_do_not_fit_their_images_are_refused() {
    let model = Copy::new().load().unwrap();
    let raw = |text: &str, images: usize| Prompt::Raw { text: text.to_owned(), images: vec![image().into(); images] };
    let error = model.processor().prompts([&raw("no placeholder", 1)], Padding::Left).unwrap_err();
    assert_eq!(error.prompt(), Some(0));
    let fault = |error: Error| match error {
        Error::Prompt { source, .. } => *source,
        other => other,
    };
    assert!(matches!(fault(error), Error::ImageCount { placeholders: 0, images: 1 }));
    let error = model.processor().prompts([&raw("ok", 0), &raw("<image> <image>", 1)], Padding::Left).unwrap_err();
    assert_eq!(error.prompt(), Some(1));
    assert!(matches!(fault(error), Error::ImageCount { placeholders: 2, images: 1 }));

    // Answers are text, whether or not the prompt shows an image.
    for shown in [raw("ok", 0), raw("<image> ok", 1)] {
        let error = model.processor().responses([(&shown, "fine"), (&shown, "see <image>")], Padding::Right).unwrap_err();
        assert_eq!(error.prompt(), Some(1));
        assert!(error.to_string().contains("the answer has an image placeholder"), "{error}");
    }

    // Tokens without pixels, and a cache that is not the batch's.
    let mut inputs = model.processor().prompts([&Prompt::user("what?", Some(image().into()))], Padding::Left).unwrap();
    inputs.tensors.clear();
    assert!(matches!(model.prefill(&inputs, &mut model.new_cache()), Err(Error::Inputs { .. })));
    assert!(matches!(model.decode(&[1], &mut model.new_cache()), Err(Error::Inputs { .. })));
    let text = model.processor().prompts([&Prompt::user("what?", None)], Padding::Left).unwrap();
    let mut cache = model.new_cache();
    model.prefill(&text, &mut cache).unwrap();
    assert!(matches!(model.prefill(&text, &mut cache), Err(Error::Inputs { .. })));
    assert!(matches!(model.decode(&[1, 2], &mut cache), Err(Error::Inputs { .. })));
    assert!(matches!(
        model.processor().prompts([], Padding::Left).and_then(|i| model.prefill(&i, &mut model.new_cache())),
        Err(Error::Inputs { .. })
    ));

    for sampling in [
        Sampling::Random { temperature: 0.0, top_p: None, top_k: None },
        Sampling::Random { temperature: f64::NAN, top_p: None, top_k: None },
        Sampling::Random { temperature: 1.0, top_p: Some(0.0), top_k: None },
        Sampling::Random { temperature: 1.0, top_p: None, top_k: Some(0) },
    ] {
        let options = GenerateOptions { sampling, ..Default::default() };
        assert!(matches!(model.generate(&[Prompt::user("what?", None)], &options), Err(Error::Inputs { .. })), "{sampling:?}");
    }
}

fn image() -> image::RgbImage {
    image::RgbImage::new(30, 30)
}

fn example(id: &str, toxic: bool) -> Example {
    Example { id: id.to_owned(), prompt: Prompt::user("hello?", None), response: "hello.".to_owned(), toxic, unfinished: false }
}

fn capture_into(model: &AutoMllm, tokens: TokenSelection, directory: &Path) -> capture::Result<()> {
    let examples = [example("first", true), example("second", false)];
    capture::capture(model, &examples, Pooling { pool: Pool::Max, tokens }, None, directory, 2)
}

#[test]
fn activations_that_are_no_numbers_are_named_and_no_store_is_left() {
    let copy = Copy::new();
    copy.poke("language_model.model.layers.1.mlp.up_proj.weight", &f32::NAN.to_le_bytes());
    let store = copy.path("store");
    let error = capture_into(&copy.load().unwrap(), TokenSelection::All, &store).unwrap_err();
    assert!(
        matches!(&error, capture::Error::NotFinite { sample, site, neuron: 0, .. } if sample == "first" && site == "lm.layers.1.mlp.up_proj"),
        "{error}"
    );
    assert!(matches!(ActivationStore::open(&store), Err(capture::Error::NotAStore { .. })));
}

#[test]
fn stores_refuse_what_does_not_belong() {
    let dir = tempfile::tempdir().unwrap();
    let model = Copy::new().load().unwrap();
    let error = capture_into(&model, TokenSelection::Image, &dir.path().join("no-image")).unwrap_err();
    assert!(matches!(error, capture::Error::NoTokens { tokens: TokenSelection::Image, .. }), "{error}");
    let path = dir.path().join("store");
    capture_into(&model, TokenSelection::Response, &path).unwrap();
    assert!(model.taps().is_empty());
    assert!(matches!(capture_into(&model, TokenSelection::Response, &path), Err(capture::Error::Exists { .. })));

    let store = ActivationStore::open(&path).unwrap();
    assert_eq!(score_store(&store).unwrap().neurons(), model.info().neurons());
    let text = store.read("lm.layers.9.mlp.up_proj".parse().unwrap()).unwrap_err().to_string();
    assert!(text.contains("did you mean `lm.layers."), "{text}");
    drop(store);

    let shard = path.join("shard-00000.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    for cut in [0, 5, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&shard, &bytes[..cut]).unwrap();
        let error = ActivationStore::open(&path).unwrap_err();
        assert!(matches!(error, capture::Error::Shard { .. } | capture::Error::Io { .. }), "cut at {cut}: {error}");
    }
    std::fs::write(&shard, bytes).unwrap();
    std::fs::write(path.join("shard-00000.json"), r#"{"ids":["a"],"labels":[2]}"#).unwrap();
    assert!(matches!(ActivationStore::open(&path), Err(capture::Error::Shard { .. })));
    std::fs::write(path.join("manifest.json"), "{}").unwrap();
    assert!(matches!(ActivationStore::open(&path), Err(capture::Error::NotAStore { .. })));
}

#[test]
fn single_class_stores_cannot_be_scored() {
    let dir = tempfile::tempdir().unwrap();
    let site = "lm.layers.0.mlp.up_proj".parse().unwrap();
    let mut writer = StoreWriter::create(dir.path().join("s"), Manifest::new("m", "", "max/all", [(site, 1)])).unwrap();
    for id in ["a", "b"] {
        writer.push(id, true, &[(site, vec![1.0])].into()).unwrap();
    }
    let wrong = writer.push("c", false, &[(site, vec![1.0, 2.0])].into()).unwrap_err();
    assert!(matches!(wrong, capture::Error::Sample { .. }), "{wrong}");
    writer.finish().unwrap();
    let error = score_store(&ActivationStore::open(dir.path().join("s")).unwrap()).unwrap_err();
    assert!(matches!(error, sgm::score::Error::SingleClass { toxic: 2, non_toxic: 0 }), "{error}");
}
