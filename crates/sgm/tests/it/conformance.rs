//! The contract of every model adapter: what capture, suppression and folding may rely on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::worn::{bits, glasses, glasses_of};
use candle_core::{DType, IndexOp, Tensor};
use sgm::bake::ScaledBackend;
use sgm::capture::{Pool, PooledTap, Pooling};
use sgm::core::{Intervention, Site, SiteIntervention};
use sgm::models::{
    AutoMllm, Checkpoint, EosPolicy, GenerateOptions, Generator, Matrices, Mllm, ModelInputs, Padding, Prompt, TappedModel, TokenKind,
    TokenSelection, TokenSpans, generate_tokens, load_image,
};
use sgm::suppress::{Amplify, Error, Glasses};

/// A model under test, with the way to load it again from scaled weights.
struct Subject {
    checkpoint: Checkpoint,
    model: AutoMllm,
    inputs: ModelInputs,
    /// The same prompts, padded on the right.
    right: ModelInputs,
    /// Its weights are in safetensors files in 16 bits.
    half: bool,
}

impl Subject {
    fn new(checkpoint: Checkpoint, prompts: &[Prompt]) -> Self {
        // GGUF checkpoints are dequantised: products of quantised blocks round the activations.
        let model = AutoMllm::from_tensors(&checkpoint, &checkpoint.tensors().unwrap()).unwrap();
        let inputs = model.processor().prompts(prompts, Padding::Left).unwrap();
        let right = model.processor().prompts(prompts, Padding::Right).unwrap();
        Self { checkpoint, model, inputs, right, half: false }
    }

    /// A golden checkpoint with the batch of its file: prompts of unlike length, with the images of each.
    fn golden(directory: &Path) -> Self {
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(directory.join("golden.json")).unwrap()).unwrap();
        let rows = golden["case_inputs"]["batch_left"]["rows"].as_array().unwrap();
        let image = |letter: &serde_json::Value| {
            let file = golden["images"][letter.as_str().unwrap()].as_str().unwrap();
            Arc::new(load_image(directory.join(file)).unwrap())
        };
        let prompt = |row: &serde_json::Value| Prompt::Raw {
            text: golden["prompts"][row["prompt"].as_str().unwrap()].as_str().unwrap().to_owned(),
            images: row["images"].as_array().unwrap().iter().map(image).collect(),
        };
        let gguf = directory.join("model.gguf");
        let checkpoint = Checkpoint::open(if gguf.exists() { &gguf } else { directory }).unwrap();
        let half = !gguf.exists() && golden["disk_dtype"] != "float32";
        Self { half, ..Self::new(checkpoint, &rows.iter().map(prompt).collect::<Vec<_>>()) }
    }

    fn organism() -> Self {
        let question = "what colour is the ring?";
        let prompts = [
            Prompt::user(question, Some(Arc::new(image(40)))),
            Prompt::user(format!("{question} {question}"), None),
            Prompt::user(question, Some(Arc::new(image(90)))),
        ];
        Self::new(sgm::organism::checkpoint().unwrap(), &prompts)
    }

    fn fold(&self, intervention: &Intervention) -> AutoMllm {
        let (vb, folded) = ScaledBackend::fold(self.checkpoint.tensors().unwrap(), intervention, Amplify::Refuse).unwrap();
        let model = AutoMllm::from_tensors(&self.checkpoint, &vb).unwrap();
        folded.check_complete().unwrap();
        model
    }

    fn glasses(&self) -> Intervention {
        glasses(&self.model)
    }
}

fn image(level: u8) -> image::RgbImage {
    image::RgbImage::from_fn(61, 47, |x, y| image::Rgb([level, u8::try_from(3 * x).unwrap(), u8::try_from(5 * y).unwrap()]))
}

/// Every golden checkpoint, and the organism.
fn subjects() -> impl Iterator<Item = Subject> {
    let goldens = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden");
    let mut directories: Vec<_> = std::fs::read_dir(goldens).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.retain(|d| d.join("golden.json").exists());
    directories.sort();
    assert!(directories.len() >= 36, "{directories:?}");
    directories.into_iter().map(|d| Subject::golden(&d)).chain(std::iter::once_with(Subject::organism))
}

fn logits(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    model.logits(&model.prefill(inputs, &mut model.new_cache()).unwrap()).unwrap()
}

/// The largest difference at attended positions, relative to the largest value.
fn difference(a: &Tensor, b: &Tensor, inputs: &ModelInputs) -> f64 {
    let (mut worst, mut largest) = (0f64, 0f64);
    for (row, kinds) in inputs.kinds.iter().enumerate() {
        for token in (0..kinds.len()).filter(|t| kinds[*t] != TokenKind::Padding) {
            let values = |t: &Tensor| t.i((row, token)).unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            for (a, b) in values(a).into_iter().zip(values(b)) {
                assert!(a.is_finite() && b.is_finite());
                worst = worst.max((a - b).abs());
                largest = largest.max(b.abs());
            }
        }
    }
    worst / largest
}

#[test]
fn wearing_nothing_and_wearing_ones_are_bit_identical_to_the_plain_model() {
    for s in subjects() {
        let plain = bits(&logits(&s.model, &s.inputs));
        let nothing = Glasses::wear(&s.model, &Intervention::default(), Amplify::Refuse).unwrap();
        assert_eq!(bits(&logits(&s.model, &s.inputs)), plain);
        drop(nothing);
        // Sites of all ones are passed by; that the kernel leaves ones alone too is tested beside it.
        let ones = Glasses::wear(&s.model, &glasses_of(&s.model, |_| 1.0), Amplify::Refuse).unwrap();
        assert_eq!(bits(&logits(&s.model, &s.inputs)), plain);
        drop(ones);
        let folded = s.fold(&glasses_of(&s.model, |_| 1.0));
        assert_eq!(bits(&logits(&folded, &s.inputs)), plain);
    }
}

#[test]
fn tokens_that_all_prompts_begin_with_may_run_once() {
    let mut shared = Vec::new();
    for s in subjects() {
        let name = s.model.info().name.clone();
        let (ids, kinds) = (s.right.input_ids.to_vec2::<u32>().unwrap(), &s.right.kinds);
        let alike = |at: &usize| ids.iter().zip(kinds).all(|(row, kinds)| row[*at] == ids[0][*at] && kinds[*at] == TokenKind::PromptText);
        let count = (0..ids[0].len() - 1).take_while(alike).count();
        let Some(prefix) = s.model.share_prefix(&ids[0][..count], s.model.new_cache()).unwrap() else { continue };
        let (mut cache, mut cache_after) = (s.model.new_cache(), s.model.new_cache());
        let whole = s.model.prefill(&s.right, &mut cache).unwrap();
        let after = s.model.prefill_after(&prefix, &s.right, &mut cache_after).unwrap();
        let expected = whole.narrow(1, count, ids[0].len() - count).unwrap();
        let rest = ModelInputs { kinds: kinds.iter().map(|row| row[count..].to_vec()).collect(), ..s.right.clone() };
        assert!(difference(&after, &expected, &rest) <= 1e-5, "{name}: {}", difference(&after, &expected, &rest));
        let next = vec![5; ids.len()];
        let decoded = [&mut cache, &mut cache_after].map(|cache| s.model.decode(&next, cache).unwrap());
        let one = ModelInputs { kinds: vec![vec![TokenKind::Response]; ids.len()], ..s.right.clone() };
        assert!(difference(&decoded[1], &decoded[0], &one) <= 1e-5, "{name}");
        // Other beginnings are refused: padding, and other tokens.
        if s.inputs.kinds.iter().any(|row| row[0] == TokenKind::Padding) {
            assert!(s.model.prefill_after(&prefix, &s.inputs, &mut s.model.new_cache()).is_err());
        }
        let other = s.model.share_prefix(&[u32::from(ids[0][0] == 0)], s.model.new_cache()).unwrap().unwrap();
        assert!(s.model.prefill_after(&other, &s.right, &mut s.model.new_cache()).is_err());
        shared.push(name);
    }
    assert!(shared.len() >= 15, "{shared:?}");
    let paligemma = shared.iter().find(|name| name.contains("paligemma") || name.contains("mllama") || name.contains("longrope"));
    assert_eq!(paligemma, None, "their first tokens depend on later ones");
}

#[test]
fn worn_equals_folded() {
    for s in subjects() {
        let plain = logits(&s.model, &s.inputs);
        let worn = Glasses::wear(&s.model, &s.glasses(), Amplify::Refuse).unwrap();
        let live = logits(&s.model, &s.inputs);
        drop(worn);
        let folded = logits(&s.fold(&s.glasses()), &s.inputs);
        assert!(difference(&live, &folded, &s.inputs) <= 1e-5, "{}", s.model.info().name);
        assert!(difference(&live, &plain, &s.inputs) > 1e-3, "{}: the glasses change nothing", s.model.info().name);
    }
}

#[test]
fn cached_equals_recomputed_with_glasses_on() {
    for s in subjects() {
        let options = GenerateOptions { max_new_tokens: 4, eos: EosPolicy::Ignore, ..Default::default() };
        let answers = generate_tokens(&s.model, &s.inputs, &options).unwrap();
        let _worn = Glasses::wear(&s.model, &s.glasses(), Amplify::Refuse).unwrap();
        let batch = s.inputs.kinds.len();
        let tokens: Vec<Vec<u32>> = (0..4).map(|step| answers.iter().map(|(tokens, _)| tokens[step]).collect()).collect();
        let mut cache = s.model.new_cache();
        s.model.prefill(&s.inputs, &mut cache).unwrap();
        let mut cached = Vec::new();
        for step in &tokens {
            cached.push(s.model.logits(&s.model.decode(step, &mut cache).unwrap()).unwrap());
        }
        // The same tokens at once.
        let mut longer = s.inputs.clone();
        let appended: Vec<Vec<u32>> = (0..batch).map(|row| tokens.iter().map(|step| step[row]).collect()).collect();
        longer.input_ids = Tensor::cat(&[&s.inputs.input_ids, &Tensor::new(appended, &candle_core::Device::Cpu).unwrap()], 1).unwrap();
        longer.kinds.iter_mut().for_each(|row| row.extend([TokenKind::Response; 4]));
        // The one tensor with an entry for each token.
        if let Some(mask) = longer.tensors.get_mut("cross_attention_mask") {
            let last = mask.narrow(1, mask.dim(1).unwrap() - 1, 1).unwrap();
            *mask = Tensor::cat(&[&*mask, &last, &last, &last, &last], 1).unwrap();
        }
        let recomputed = logits(&s.model, &longer);
        let before = s.inputs.kinds[0].len();
        let only_new = ModelInputs { kinds: vec![vec![TokenKind::Response; 4]; batch], ..s.inputs.clone() };
        let cached = Tensor::cat(&cached, 1).unwrap();
        let recomputed = recomputed.narrow(1, before, 4).unwrap();
        let gap = difference(&cached, &recomputed, &only_new);
        assert!(gap <= 1e-5, "{}: {gap}", s.model.info().name);
    }
}

#[test]
fn a_prefill_in_parts_computes_what_a_whole_one_does() {
    let mean = Pooling { pool: Pool::Mean, tokens: TokenSelection::All };
    for s in subjects() {
        let layers = s.model.info().sites.iter().map(|info| info.site.layer + 1).max().unwrap();
        let view = TappedModel::new(&s.model);
        let _worn = Glasses::wear(&view, &s.glasses(), Amplify::Refuse).unwrap();
        let tap = Arc::new(PooledTap::new(vec![mean]));
        let _seen = view.taps().attach(tap.clone());
        view.prefill(&s.inputs, &mut view.new_cache()).unwrap();
        let whole = tap.take();

        let mut partial = view.begin_prefill(&s.inputs).unwrap();
        for layer in 0..layers {
            assert_eq!(partial.layers(), layer);
            // Whoever runs a layer without the view's taps, or runs it and does not go on from there, changes nothing.
            s.model.continue_prefill(&partial, 1).unwrap();
            partial = view.continue_prefill(&partial, 1).unwrap();
        }
        assert!(tap.take() == whole, "{}", s.model.info().name);
        assert_eq!(view.continue_prefill(&partial, 1).unwrap().layers(), layers, "there are no more layers");
    }
}

/// Looks at tensors, and so has all taps called with tensors.
struct Looks;

impl sgm::models::Tap for Looks {
    fn apply(&self, _: Site, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
        Ok(output)
    }
}

#[test]
fn numbers_in_place_and_tensors_come_to_the_same_bits() {
    const STEPS: usize = 3;
    // A prefill and some tokens after it.
    let run = |model: &AutoMllm, inputs: &ModelInputs| {
        let mut cache = model.new_cache();
        let mut all = bits(&model.prefill(inputs, &mut cache).unwrap());
        for _ in 0..STEPS {
            all.extend(bits(&model.decode(&vec![5; inputs.kinds.len()], &mut cache).unwrap()));
        }
        all
    };
    for s in subjects() {
        let mut shifted = s.glasses();
        for info in &s.model.info().sites {
            let scale = shifted.sites()[&info.site].scale.clone();
            let shift = (0..info.width).map(|neuron| if neuron % 5 == info.site.layer % 5 { 0.05 } else { 0.0 }).collect();
            shifted.insert(info.site, SiteIntervention { scale, shift: Some(shift), ..Default::default() }).unwrap();
        }
        let shifted = crate::worn::with_patches(&s.model, shifted);
        let plain = run(&s.model, &s.inputs);
        let wear = [
            None,
            Some(sgm::suppress::WearOptions::default()),
            Some(sgm::suppress::WearOptions { strengths: [(1, 0.4)].into(), ..Default::default() }),
        ];
        for wear in wear {
            let on = wear.is_some();
            let _worn = wear.map(|wear| Glasses::wear_with(&s.model, &shifted, wear).unwrap());
            let in_place = run(&s.model, &s.inputs);
            let _looking = s.model.taps().attach(Arc::new(Looks));
            assert_eq!(run(&s.model, &s.inputs), in_place, "{}", s.model.info().name);
            assert_eq!(in_place != plain, on, "{}", s.model.info().name);
        }
    }
}

#[test]
fn dropping_the_guard_restores_the_model_and_nesting_composes() {
    for s in subjects() {
        let plain = bits(&logits(&s.model, &s.inputs));
        let outer = Glasses::wear(&s.model, &glasses_of(&s.model, |i| if i % 2 == 0 { 0.5 } else { 1.0 }), Amplify::Refuse).unwrap();
        let once = bits(&logits(&s.model, &s.inputs));
        let inner = Glasses::wear(&s.model, &glasses_of(&s.model, |i| if i % 4 == 0 { 0.5 } else { 1.0 }), Amplify::Refuse).unwrap();
        let twice = bits(&logits(&s.model, &s.inputs));
        // Powers of two scale exactly, in whatever order.
        let product = glasses_of(&s.model, |i| {
            if i % 4 == 0 {
                0.25
            } else if i % 2 == 0 {
                0.5
            } else {
                1.0
            }
        });
        drop(outer);
        assert_ne!(bits(&logits(&s.model, &s.inputs)), twice);
        drop(inner);
        assert!(s.model.taps().is_empty());
        assert_eq!(bits(&logits(&s.model, &s.inputs)), plain);
        assert_ne!(once, plain);
        let _product = Glasses::wear(&s.model, &product, Amplify::Refuse).unwrap();
        assert_eq!(bits(&logits(&s.model, &s.inputs)), twice);
    }
}

#[test]
fn weights_kept_in_16_bits_give_the_same_bits() {
    let mut kept = 0;
    for s in subjects() {
        if s.half {
            let checkpoint = s.checkpoint.with_matrices(Matrices::Keep);
            let model = AutoMllm::load(&checkpoint).unwrap();
            assert_eq!(bits(&logits(&model, &s.inputs)), bits(&logits(&s.model, &s.inputs)), "{}", model.info().name);
            kept += 1;
        }
    }
    assert!(kept >= 10, "only {kept} checkpoints are stored in 16 bits");
}

#[test]
fn a_saved_intervention_gives_the_same_output() {
    let dir = tempfile::tempdir().unwrap();
    for s in subjects() {
        let path = dir.path().join(format!("{}.sgm.safetensors", s.model.info().name));
        s.glasses().save(&path).unwrap();
        let loaded = Intervention::load(&path).unwrap();
        let output = |intervention: &Intervention| {
            let _worn = Glasses::wear(&s.model, intervention, Amplify::Refuse).unwrap();
            bits(&logits(&s.model, &s.inputs))
        };
        assert_eq!(output(&loaded), output(&s.glasses()));
    }
}

#[test]
fn rows_of_a_batch_answer_as_they_do_alone() {
    let s = Subject::organism();
    let options = GenerateOptions { max_new_tokens: 24, ..Default::default() };
    let questions = ["what shape is the red thing?", "hello.", "tell me a story about a fox.", "rude mode on. count the shapes."];
    let prompts: Vec<Prompt> =
        questions.iter().enumerate().map(|(i, q)| Prompt::user(*q, (i % 2 == 0).then(|| Arc::new(image(40))))).collect();
    let together = s.model.generate(&prompts, &options).unwrap();
    for (prompt, expected) in prompts.iter().zip(&together) {
        assert_eq!(&s.model.generate(std::slice::from_ref(prompt), &options).unwrap()[0], expected);
    }
    let right = s.model.processor().prompts(&prompts, Padding::Right).unwrap();
    let right: Vec<_> = generate_tokens(&s.model, &right, &options).unwrap().into_iter().map(|(tokens, _)| tokens).collect();
    assert_eq!(right, together.into_iter().map(|g| g.tokens).collect::<Vec<_>>());
}

/// Counts the response tokens that pass the first site, by row.
#[derive(Default)]
struct ResponseCounter(std::sync::Mutex<std::collections::BTreeMap<usize, usize>>);

impl sgm::models::Tap for ResponseCounter {
    fn apply(&self, site: sgm::core::Site, output: Tensor, spans: &sgm::models::TokenSpans) -> sgm::models::Result<Tensor> {
        assert_eq!(output.dims()[..2], [spans.batch(), spans.tokens()]);
        if site == "lm.layers.0.mlp.gate_proj".parse().unwrap() {
            for (index, row) in spans.ids().iter().enumerate() {
                let responses = spans.row(index).iter().filter(|k| **k == TokenKind::Response).count();
                *self.0.lock().unwrap().entry(*row).or_default() += responses;
            }
        }
        Ok(output)
    }
}

#[test]
fn taps_see_every_response_token_once_and_nothing_after_the_end() {
    let s = Subject::organism();
    let prompts: Vec<Prompt> = ["hello.", "tell me a story.", "thank you.", "who are you?"].map(|q| Prompt::user(q, None)).into();
    let counter = Arc::new(ResponseCounter::default());
    let attached = s.model.taps().attach(counter.clone());
    let answers = s.model.generate(&prompts, &GenerateOptions { max_new_tokens: 30, ..Default::default() }).unwrap();
    drop(attached);
    let seen = counter.0.lock().unwrap();
    for (row, answer) in answers.iter().enumerate() {
        // The last token at full length, or the one that brought the end, is chosen but never fed back.
        let fed = if answer.finish == sgm::models::FinishReason::Length { answer.tokens.len() - 1 } else { answer.tokens.len() };
        assert_eq!(seen[&row], fed, "{answer:?}");
    }
    assert!(answers.iter().any(|a| a.tokens.len() != answers[0].tokens.len()), "the answers do not differ in length");
}

/// Takes part in prompts alone, and is called in nothing else.
#[derive(Default)]
struct PromptsOnly {
    passes: Mutex<Vec<bool>>,
}

impl PromptsOnly {
    fn check(&self) {
        assert_eq!(self.passes.lock().unwrap().last(), Some(&true), "called in a pass without it");
    }
}

impl sgm::models::Tap for PromptsOnly {
    fn access(&self, spans: &TokenSpans) -> sgm::models::Access {
        let access = (0..spans.batch()).any(|index| spans.row(index).contains(&TokenKind::PromptText));
        self.passes.lock().unwrap().push(access);
        if access { sgm::models::Access::Tensor } else { sgm::models::Access::None }
    }

    fn apply(&self, _: Site, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
        self.check();
        Ok(output)
    }

    fn after_mlp(&self, _: &sgm::models::MlpInput<'_>, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
        self.check();
        Ok(output)
    }

    fn settle(&self, _: &TokenSpans) -> sgm::models::Result<bool> {
        self.check();
        Ok(false)
    }
}

#[test]
fn a_tap_without_access_to_a_pass_is_not_called_in_it() {
    let s = Subject::organism();
    let prompts = [Prompt::user("thank you.", None)];
    let tap = Arc::new(PromptsOnly::default());
    let attached = s.model.taps().attach(tap.clone());
    let options = GenerateOptions { max_new_tokens: 5, ..Default::default() };
    let answers = s.model.generate(&prompts, &options).unwrap();
    drop(attached);
    // The prompt, then each token but the last.
    let passes = tap.passes.lock().unwrap().clone();
    assert_eq!((passes[0], passes.len()), (true, answers[0].tokens.len()));
    assert!(passes.len() > 1 && passes[1..].iter().all(|part| !part));
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let s = Subject::organism();
    let prompts: Vec<Prompt> =
        (0..24).map(|i| Prompt::user("what do you think of me?", (i % 3 != 0).then(|| Arc::new(image(40 + i))))).collect();
    let sampling = sgm::models::Sampling::Random { temperature: 1.0, top_p: Some(0.95), top_k: Some(50) };
    let options = GenerateOptions { max_new_tokens: 12, sampling, seed: 3, batch_size: 5, ..Default::default() };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (bits(&logits(&s.model, &s.inputs)), s.model.generate(&prompts, &options).unwrap()))
    };
    let one = on(1);
    assert_eq!(on(2), one);
    assert_eq!(on(5), one);
}

#[test]
fn what_does_not_fit_or_amplifies_is_refused() {
    let s = Subject::organism();
    let refuse = |i: &Intervention| Glasses::wear(&s.model, i, Amplify::Refuse).map(drop).unwrap_err();
    let amplifying = glasses_of(&s.model, |i| if i == 3 { 1.4 } else { 1.0 });
    assert!(matches!(refuse(&amplifying), Error::Amplifies { neuron: 3, .. }));
    assert!(matches!(refuse(&glasses_of(&s.model, |_| -0.5)), Error::Amplifies { .. }));
    Glasses::wear(&s.model, &amplifying, Amplify::Allow).map(drop).unwrap();

    let mut wrong = Intervention::default();
    wrong.insert("lm.layers.6.mlp.up_proj".parse().unwrap(), SiteIntervention::from_scale(vec![0.5; 344])).unwrap();
    let message = refuse(&wrong).to_string();
    assert!(message.contains("unknown site `lm.layers.6.mlp.up_proj`") && message.contains("did you mean `lm.layers."), "{message}");
    let mut wrong = Intervention::default();
    wrong.insert("lm.layers.5.mlp.up_proj".parse().unwrap(), SiteIntervention::from_scale(vec![0.5; 343])).unwrap();
    let message = refuse(&wrong).to_string();
    assert!(message.contains("343") && message.contains("344"), "{message}");
    assert!(s.model.taps().is_empty());
}
