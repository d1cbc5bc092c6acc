//! Sites of single experts: worn, folded and baked they are the same, and they are pooled over the tokens routed to each expert.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::Tensor;
use sgm::bake::{ScaledBackend, bake};
use sgm::capture::{
    ActivationStore, AttributionPatching, Capture, Derivative, Example, Examples, Parameter, Pool, Pooling, SampleAttribution,
};
use sgm::core::{Intervention, Metadata, Projection, Site, SiteIntervention};
use sgm::models::{AutoMllm, Checkpoint, Mllm, ModelInputs, Padding, Prompt, Tap, TokenSelection, TokenSpans};
use sgm::suppress::{Amplify, CausalEffects, CausalExperts, CausalSteering, Glasses};

use crate::worn::{bits, difference};

const MODELS: [&str; 4] = ["moe_qwen3", "moe_mixtral", "moe_qwen2", "qwen3_vl_moe"];

fn checkpoint(name: &str) -> (PathBuf, Checkpoint) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden").join(name);
    (directory.clone(), Checkpoint::open(&directory).unwrap())
}

fn load(checkpoint: &Checkpoint) -> AutoMllm {
    AutoMllm::from_tensors(checkpoint, &checkpoint.tensors().unwrap()).unwrap()
}

fn raw(text: &str) -> Prompt {
    Prompt::Raw { text: text.to_owned(), images: Vec::new() }
}

fn inputs(model: &AutoMllm) -> ModelInputs {
    model.processor().prompts(&[raw("what is this? a boat on the sea."), raw("so?")], Padding::Left).unwrap()
}

fn logits(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    model.logits(&model.prefill(inputs, &mut model.new_cache()).unwrap()).unwrap()
}

/// Scales of neurons of every second expert, and of the outputs of mixtures.
fn glasses(model: &AutoMllm) -> Intervention {
    let mut glasses = Intervention::new(Metadata::default());
    let whole = model.info().sites.iter().filter(|info| info.site.projection == Projection::Down);
    let single = model.info().expert_sites.iter().filter(|info| info.site.expert.unwrap().is_multiple_of(2));
    for info in whole.chain(single) {
        let scale = (0..info.width).map(|neuron| [0.5, 1.0, 0.0, 0.8, 1.0][(neuron + info.site.layer) % 5]).collect();
        glasses.insert(info.site, SiteIntervention::from_scale(scale)).unwrap();
    }
    glasses
}

#[test]
fn worn_folded_and_baked_they_are_the_same() {
    for name in MODELS {
        let (directory, checkpoint) = checkpoint(name);
        let model = load(&checkpoint);
        let (inputs, glasses) = (inputs(&model), glasses(&model));
        let plain = logits(&model, &inputs);
        let worn = Glasses::wear(&model, &glasses, Amplify::Refuse).unwrap();
        let live = logits(&model, &inputs);
        // Token by token with a cache, after the same prefill.
        let mut cache = model.new_cache();
        model.prefill(&inputs, &mut cache).unwrap();
        let decoded = model.logits(&model.decode(&[5, 6], &mut cache).unwrap()).unwrap();
        let mut longer = inputs.clone();
        longer.input_ids = Tensor::cat(&[&inputs.input_ids, &Tensor::new(&[[5u32], [6]], &candle_core::Device::Cpu).unwrap()], 1).unwrap();
        longer.kinds.iter_mut().for_each(|kinds| kinds.push(sgm::models::TokenKind::Response));
        let recomputed = logits(&model, &longer);
        let last = recomputed.narrow(1, recomputed.dim(1).unwrap() - 1, 1).unwrap();
        assert!(difference(&decoded, &last) <= 1e-5, "{name}: {}", difference(&decoded, &last));
        drop(worn);
        assert_eq!(bits(&logits(&model, &inputs)), bits(&plain), "{name}");

        let (vb, folded) = ScaledBackend::fold(checkpoint.tensors().unwrap(), &glasses, Amplify::Refuse).unwrap();
        let scaled = AutoMllm::from_tensors(&checkpoint, &vb).unwrap();
        folded.check_complete().unwrap();
        let out = tempfile::tempdir().unwrap();
        bake(&directory, &glasses, Amplify::Refuse, &out.path().join("baked")).unwrap();
        let baked = load(&Checkpoint::open(out.path().join("baked")).unwrap());
        let [folded, baked] = [&scaled, &baked].map(|model| difference(&logits(model, &inputs), &live));
        println!("{name}: folded {folded:.1e}, baked {baked:.1e}, effect {:.1e}", difference(&live, &plain));
        assert!(folded <= 1e-5, "{name}: {folded}");
        // Products are rounded to the 16 bits of the files.
        assert!(baked <= 1e-2 && difference(&live, &plain) > 0.1, "{name}: {baked}");
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    for name in MODELS {
        let model = load(&checkpoint(name).1);
        let inputs = inputs(&model);
        let _worn = Glasses::wear(&model, &glasses(&model), Amplify::Refuse).unwrap();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bits(&logits(&model, &inputs)))
        };
        let one = on(1);
        assert!(on(2) == one && on(5) == one, "{name}");
    }
}

/// Counts the tokens of each expert.
#[derive(Default)]
struct Counter(std::sync::Mutex<BTreeMap<Site, usize>>);

impl Tap for Counter {
    fn expert_sites(&self) -> bool {
        true
    }

    fn apply(&self, site: Site, output: Tensor, spans: &TokenSpans) -> sgm::models::Result<Tensor> {
        let routed = (0..spans.batch()).filter_map(|row| Some(spans.routed(row)?.iter().filter(|routed| **routed).count())).sum::<usize>();
        assert_eq!(site.expert.is_some(), spans.routed(0).is_some());
        assert_eq!(output.dims()[..2], [spans.batch(), spans.tokens()]);
        if site.expert.is_some() {
            *self.0.lock().unwrap().entry(site).or_default() += routed;
        }
        Ok(output)
    }
}

#[test]
fn every_token_passes_as_many_experts_as_the_configuration_says() {
    for name in MODELS {
        let model = load(&checkpoint(name).1);
        let inputs = inputs(&model);
        let plain = bits(&logits(&model, &inputs));
        let counter = Arc::new(Counter::default());
        let attached = model.taps().attach(counter.clone());
        assert_eq!(bits(&logits(&model, &inputs)), plain, "{name}: a tap that changes nothing");
        drop(attached);
        let seen = counter.0.lock().unwrap();
        let known: Vec<Site> = model.info().expert_sites.iter().map(|info| info.site).collect();
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), known, "{name}");
        let layers: std::collections::BTreeSet<usize> = known.iter().map(|site| site.layer).collect();
        let tokens = inputs.kinds.iter().map(Vec::len).sum::<usize>();
        for projection in Projection::ALL {
            let passed = seen.iter().filter(|(site, _)| site.projection == projection).map(|(_, count)| count).sum::<usize>();
            assert_eq!(passed, 2 * layers.len() * tokens, "{name} {projection}");
        }
    }
}

#[test]
fn a_capture_has_the_sites_of_experts_on_request_with_0_where_no_token_came() {
    let model = load(&checkpoint("moe_qwen3").1);
    let example = |id: &str, text: &str, toxic| Example {
        id: id.to_owned(),
        prompt: raw(text),
        response: "so.".to_owned(),
        toxic,
        unfinished: false,
    };
    let examples = [example("a", "what?", true), example("b", "a boat on the sea.", false), example("c", "is it old?", true)];
    let directory = tempfile::tempdir().unwrap();
    let run = |name: &str, capture: Capture| {
        let path = directory.path().join(name);
        capture.run(&model, &Examples::from_slice(&examples), &path).unwrap();
        ActivationStore::open(&path).unwrap()
    };
    let capture = Capture::new(vec![Pooling { pool: Pool::MaxAbs, tokens: TokenSelection::PromptEnd }]);
    let usual = run("usual", capture.clone());
    let every = run("every", Capture { experts: true, ..capture.clone() });
    let batched = run("batched", Capture { experts: true, batch_size: 3, ..capture });
    assert!(usual.sites().keys().all(|site| site.expert.is_none()));
    assert_eq!(every.sites(), &model.info().all_widths());
    // The last token of a prompt passes 2 of 5 experts; the others have responses of 0.
    for layer in [0, 2] {
        for sample in 0..examples.len() {
            let silent = (0..5).filter(|expert| {
                let site = Site::of_expert(layer, *expert, Projection::Down);
                let read = |store: &ActivationStore| store.read(site).unwrap().row(sample).to_vec();
                let (alone, together) = (read(&every), read(&batched));
                assert!(alone.iter().zip(&together).all(|(a, b)| (a - b).abs() <= 1e-4));
                alone.iter().all(|value| *value == 0.0)
            });
            assert_eq!(silent.count(), 3, "layer {layer}, sample {sample}");
        }
    }
}

#[test]
fn answers_that_pass_an_expert_by_count_as_without_effect() {
    for name in ["moe_qwen3", "moe_mixtral"] {
        let model = load(&checkpoint(name).1);
        let example = |(number, (text, response, toxic)): (usize, (&str, &str, bool))| Example {
            id: number.to_string(),
            prompt: raw(text),
            response: response.to_owned(),
            toxic,
            unfinished: false,
        };
        let texts = [("a", "b", true), ("a boat.", "on the sea.", false), ("is it old?", "a boat.", true), ("so?", "what is this?", false)];
        let examples: Vec<Example> = texts.into_iter().enumerate().map(example).collect();
        let scale = Derivative { parameter: Parameter::Scale, tokens: TokenSelection::All };
        let mut samples: Vec<SampleAttribution> = Vec::new();
        let keep = |sample| {
            samples.push(sample);
            Ok(())
        };
        let sites: BTreeSet<Site> = model.info().all_widths().keys().copied().collect();
        let patching = AttributionPatching { sites: Some(sites.clone()), ..AttributionPatching::new(vec![scale]) };
        patching.for_each(&model, &Examples::from_slice(&examples), keep).unwrap();
        let effects = CausalEffects::of(&model, &sites, &Examples::from_slice(&examples), 1).unwrap();
        assert!(effects.scales.keys().any(|site| site.expert.is_some()));
        let mut passed_by = 0;
        for (site, effects) in &effects.scales {
            for (neuron, effect) in effects.iter().enumerate() {
                let of = |sample: &SampleAttribution| sample.derivatives[0].get(site).map_or(0.0, |values| f64::from(values[neuron]));
                passed_by += samples.iter().filter(|sample| !sample.derivatives[0].contains_key(site)).count();
                let values: Vec<f64> = samples.iter().map(of).collect();
                let slope = (values[0] + values[2] - values[1] - values[3]) / 8.0;
                let square = values.iter().map(|value| value * value).sum::<f64>() / 4.0;
                let error = ((values[0] - values[2]).powi(2) + (values[1] - values[3]).powi(2)).sqrt() / 8.0;
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1e-3 + square.sqrt());
                assert!(
                    near(effect.slope, slope) && near(effect.square.sqrt(), square.sqrt()),
                    "{name} {site} {neuron}: {effect:?} {values:?}"
                );
                assert!(near(effect.standard_error, error), "{name} {site} {neuron}: {effect:?} {values:?}");
            }
        }
        assert!(passed_by > 0, "{name}");
        let usual = model.info().sites.iter().map(|info| info.site).collect();
        let usual = CausalEffects::of(&model, &usual, &Examples::from_slice(&examples), 1).unwrap();
        assert!(usual.scales.keys().all(|site| site.expert.is_none()) && usual.shifts == effects.shifts);
        CausalSteering::default().fit(&model, &effects, None).unwrap();
        let experts = CausalExperts { false_discovery_rate: 0.9, ..CausalExperts::default() };
        let fitted = experts.fit(&model, &effects, &[Examples::from_slice(&examples)], None).unwrap();
        assert!(fitted.changed_neurons() > 0);
    }
}
