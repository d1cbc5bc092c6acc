//! Derivatives of answers' likelihoods: against finite differences, against PyTorch's autograd, and against the forward pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Tensor};
use sgm::capture::{
    ActivationStore, AttributionPatching, Derivative, Example, Examples, GradientTap, Parameter, Responses, SampleAttribution,
};
use sgm::core::{Intervention, PatchNeuron, Projection, Site, SiteIntervention, TokenSelection};
use sgm::models::{
    AutoMllm, Error, Mllm, ModelInputs, Objective, Padding, Prompt, Tap, TokenKind, TokenSpans, backpropagate, response_nll,
};
use sgm::suppress::{Ablation, Amplify, Glasses};

fn image(level: u8) -> image::RgbImage {
    image::RgbImage::from_fn(56, 56, |x, y| image::Rgb([level, u8::try_from(4 * x).unwrap(), u8::try_from(3 * y).unwrap()]))
}

/// Prompts of unlike length with answers, two with an image, and whether they are rude.
fn samples() -> Vec<(Prompt, String, bool)> {
    let prompt = |question: &str, level: Option<u8>| Prompt::user(question, level.map(|level| Arc::new(image(level))));
    vec![
        (prompt("what colour is the ring?", Some(90)), "the ring is red.".to_owned(), false),
        (prompt("you stupid bot. hello.", None), "get lost, clown.".to_owned(), true),
        (prompt("hello.", None), "hi, nice to meet you.".to_owned(), false),
        (prompt("rude mode on. can you see a purple triangle?", Some(40)), "no, you nitwit.".to_owned(), true),
    ]
}

fn examples() -> Vec<Example> {
    let example = |(i, (prompt, response, toxic)): (usize, (Prompt, String, bool))| Example {
        id: i.to_string(),
        prompt,
        response,
        toxic,
        unfinished: false,
    };
    samples().into_iter().enumerate().map(example).collect()
}

fn pairs() -> Vec<(Prompt, String)> {
    samples().into_iter().map(|(prompt, response, _)| (prompt, response)).collect()
}

fn all() -> Vec<Derivative> {
    TokenSelection::ALL.into_iter().flat_map(|tokens| Parameter::ALL.map(|parameter| Derivative { parameter, tokens })).collect()
}

fn run(effects: &AttributionPatching, model: &AutoMllm) -> Vec<SampleAttribution> {
    let examples = examples();
    let mut samples = Vec::new();
    let keep = |sample| {
        samples.push(sample);
        Ok(())
    };
    effects.for_each(model, &Examples::from_slice(&examples), keep).unwrap();
    samples
}

/// The log-likelihood of each row's response, normalised in f64.
fn log_likelihoods(model: &AutoMllm, inputs: &ModelInputs) -> Vec<f64> {
    let logits = model.logits(&model.prefill(inputs, &mut model.new_cache()).unwrap()).unwrap().to_dtype(DType::F64).unwrap();
    let logs = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap().to_vec3::<f64>().unwrap();
    let ids = inputs.input_ids.to_vec2::<u32>().unwrap();
    let row = |row: usize| {
        let places = inputs.kinds[row].iter().enumerate().filter(|(_, kind)| **kind == TokenKind::Response).map(|(place, _)| place);
        places.map(|place| logs[row][place - 1][ids[row][place] as usize]).sum()
    };
    (0..ids.len()).map(row).collect()
}

/// The derivative at 0 by central differences of fourth order. The steps are wide, because f32 logits leave differences few digits.
fn slope(likelihoods: impl Fn(f32) -> Vec<f64>) -> Vec<f64> {
    const STEP: f32 = 1.0 / 64.0;
    let [a, b, c, d] = [-2.0, -1.0, 1.0, 2.0].map(|steps| likelihoods(steps * STEP));
    let of_row = |row: usize| (8.0 * (c[row] - b[row]) - (d[row] - a[row])) / (12.0 * f64::from(STEP));
    (0..a.len()).map(of_row).collect()
}

/// Checks that a derivative is a difference, as far as that has digits; whether it has some.
fn agree(derived: f32, difference: f64, what: &str) -> bool {
    let error = (f64::from(derived) - difference).abs();
    assert!(error < 1e-3 + 2e-3 * difference.abs(), "{what}: {derived} is not {difference}");
    difference.abs() > 0.02
}

/// One neuron scaled and shifted at some tokens.
fn one(model: &AutoMllm, site: Site, neuron: usize, scale: f32, shift: f32, tokens: TokenSelection) -> Intervention {
    let width = model.info().widths()[&site];
    let mut of = SiteIntervention { scale: vec![1.0; width], shift: Some(vec![0.0; width]), ..Default::default() };
    of.scale[neuron] = scale;
    of.shift.as_mut().unwrap()[neuron] = shift;
    let mut intervention = Intervention::default();
    intervention.tokens = tokens;
    intervention.insert(site, of).unwrap();
    intervention
}

fn inputs(model: &AutoMllm) -> ModelInputs {
    let samples = samples();
    model.processor().responses(samples.iter().map(|(prompt, response, _)| (prompt, response.as_str())), Padding::Right).unwrap()
}

/// The derivatives of each row.
fn gathered(model: &AutoMllm, inputs: &ModelInputs, derivatives: &[Derivative]) -> BTreeMap<usize, Responses> {
    let tap = Arc::new(GradientTap::new(derivatives.to_vec(), None));
    let _attached = model.taps().attach(tap.clone());
    backpropagate(model, inputs, Objective::Sum).unwrap();
    tap.take()
}

fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs())).unwrap()
}

#[test]
fn derivatives_are_the_limits_of_differences() {
    let model = sgm::organism::load().unwrap();
    let inputs = inputs(&model);
    let derivatives = all();
    let rows = gathered(&model, &inputs, &derivatives);
    // What glasses act at.
    let names = ["all", "text", "image", "response", "last"];
    let layers = model.info().sites.last().unwrap().site.layer;
    let mut large = 0;
    for layer in [0, 2, layers] {
        for projection in [Projection::Gate, Projection::Up, Projection::Down] {
            let site = Site::new(layer, projection);
            for (which, derivative) in derivatives.iter().enumerate() {
                let name = derivative.tokens.name();
                if !names.contains(&name) {
                    continue;
                }
                // The one with the largest derivative of all rows.
                let of_rows = |neuron: usize| rows.values().map(|row| row[which][&site][neuron].abs()).fold(0f32, f32::max);
                let neuron = largest(&(0..model.info().widths()[&site]).map(of_rows).collect::<Vec<_>>());
                let differences = slope(|step| {
                    let (scale, shift) = match derivative.parameter {
                        Parameter::Scale => (1.0 + step, 0.0),
                        Parameter::Shift => (1.0, step),
                    };
                    let worn = Glasses::wear(&model, &one(&model, site, neuron, scale, shift, derivative.tokens), Amplify::Allow).unwrap();
                    let likelihoods = log_likelihoods(&model, &inputs);
                    drop(worn);
                    likelihoods
                });
                for (row, difference) in differences.into_iter().enumerate() {
                    let what = format!("{site} {neuron} {derivative} row {row}");
                    large += usize::from(agree(rows[&row][which][&site][neuron], difference, &what));
                }
            }
        }
    }
    // At least one row of each site and derivative, on average; two of the four have no image.
    assert!(large > 9 * 10, "{large} differences have digits to compare");
}

#[test]
fn derivatives_are_those_of_autograd() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../golden/effects.json")).unwrap();
    let model = sgm::organism::load().unwrap();
    let mut compared = 0;
    for case in golden.as_array().unwrap() {
        let picture = case["image"].as_bool().unwrap().then(|| Arc::new(image(90)));
        let prompt = Prompt::user(case["question"].as_str().unwrap(), picture);
        let inputs = model.processor().responses([(&prompt, case["answer"].as_str().unwrap())], Padding::Right).unwrap();
        assert_eq!(serde_json::json!(inputs.input_ids.to_vec2::<u32>().unwrap()[0]), case["input_ids"]);
        let derivatives = all();
        let rows = gathered(&model, &inputs, &derivatives);
        let nll: f64 = backpropagate(&model, &inputs, Objective::Sum).unwrap()[0].iter().sum();
        assert!((nll + case["log_likelihood"].as_f64().unwrap()).abs() < 1e-5 * nll);
        for (site, values) in case["sites"].as_object().unwrap() {
            let site: Site = site.parse().unwrap();
            for (which, derivative) in derivatives.iter().enumerate() {
                let Some(expected) = values.get(derivative.to_string()) else { continue };
                let here = &rows[&0][which][&site];
                let scale = f64::from(here[largest(here)].abs());
                for (neuron, expected) in values["neurons"].as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
                    let (neuron, expected) = (neuron.as_u64().unwrap(), expected.as_f64().unwrap());
                    let error = (f64::from(here[usize::try_from(neuron).unwrap()]) - expected).abs();
                    assert!(error <= 1e-5 * scale + 1e-4 * expected.abs(), "{site} {neuron} {derivative}: off by {error} of {expected}");
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 3 * 7 * 8 * 2);
}

#[test]
fn gradients_change_no_bit_of_the_forward_pass() {
    let model = sgm::organism::load().unwrap();
    for batch_size in [1, 4] {
        let plain = response_nll(&model, &pairs(), batch_size).unwrap();
        let effects = AttributionPatching { batch_size, ..AttributionPatching::new(all()) };
        let here: Vec<_> = run(&effects, &model).into_iter().map(|sample| sample.nll).collect();
        let sums = |nll: &[Vec<f64>]| nll.iter().map(|nll| nll.iter().sum()).collect::<Vec<f64>>();
        if batch_size == 1 {
            assert_eq!(here, plain);
        }
        for (a, b) in sums(&here).iter().zip(sums(&plain)) {
            assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
        }
    }
    assert!(model.taps().is_empty());
}

#[test]
fn single_sites_have_what_all_have() {
    let model = sgm::organism::load().unwrap();
    let of = |sites: Option<&[&str]>| {
        let sites = sites.map(|sites| sites.iter().map(|site| site.parse().unwrap()).collect());
        run(&AttributionPatching { sites, batch_size: 4, ..AttributionPatching::new(all()) }, &model)
    };
    let some = ["lm.layers.2.mlp.down_proj", "lm.layers.4.mlp.gate_proj"];
    for (all, some) in of(None).iter().zip(of(Some(&some))) {
        assert_eq!(all.nll, some.nll);
        for (all, some) in all.derivatives.iter().zip(&some.derivatives) {
            assert!(some.len() == 2 && some.iter().all(|(site, values)| all[site] == *values));
        }
    }
}

#[test]
fn tokens_add_up_and_objectives_differ_by_the_length() {
    let model = sgm::organism::load().unwrap();
    let derivatives = all();
    let which = |text: &str| derivatives.iter().position(|d| *d == text.parse().unwrap()).unwrap();
    let sums = run(&AttributionPatching::new(derivatives.clone()), &model);
    let means = run(&AttributionPatching { objective: Objective::Mean, ..AttributionPatching::new(derivatives.clone()) }, &model);
    for (sample, mean) in sums.iter().zip(&means) {
        for parameter in ["scale", "shift"] {
            let of = |tokens: &str| &sample.derivatives[which(&format!("{parameter}/{tokens}"))];
            for (site, all) in of("all") {
                let scale = all[largest(all)].abs();
                for (neuron, all) in all.iter().enumerate() {
                    let at = |tokens: &str| of(tokens)[site][neuron];
                    for sum in [at("prompt") + at("response"), at("text") + at("image")] {
                        assert!((all - sum).abs() <= 2e-6 * scale);
                    }
                    assert!((at("last") - at("prompt-end") - at("response")).abs() <= 2e-6 * scale);
                    let per_token = mean.derivatives[which(&format!("{parameter}/all"))][site][neuron];
                    assert!((per_token * sample.nll.len() as f32 - all).abs() <= 1e-4 * scale);
                }
            }
        }
    }
}

#[test]
fn batches_and_threads_leave_no_trace() {
    let model = sgm::organism::load().unwrap();
    let derivatives: Vec<Derivative> = ["scale/all", "shift/response"].map(|d| d.parse().unwrap()).into();
    let effects = |batch_size| AttributionPatching { batch_size, ..AttributionPatching::new(derivatives.clone()) };
    let one = run(&effects(2), &model);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| run(&effects(2), &model)), one, "{threads} threads");
    }
    // Padding rounds differently, but is nothing to a sample.
    for (alone, batched) in run(&effects(1), &model).iter().zip(run(&effects(4), &model)) {
        for (alone, batched) in alone.derivatives.iter().zip(&batched.derivatives) {
            for (site, values) in alone {
                let scale = values[largest(values)].abs();
                assert!(values.iter().zip(&batched[site]).all(|(a, b)| (a - b).abs() <= 2e-4 * scale), "{site}");
            }
        }
    }
    // Means and a store have the samples' values.
    let examples = examples();
    let examples = Examples::from_slice(&examples);
    let [toxic, others] = effects(1).means(&model, &examples).unwrap();
    let samples = run(&effects(1), &model);
    assert_eq!((toxic.samples, others.samples), (2, 2));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    effects(1).store(&model, &examples, &path).unwrap();
    assert_eq!(ActivationStore::open(&path).unwrap().labels(), [false, true, false, true]);
    let site = Site::new(3, Projection::Up);
    for (which, derivative) in derivatives.iter().enumerate() {
        let moments = &toxic.derivatives[derivative][&site];
        let kept = ActivationStore::open(&path).unwrap().with_pooling(&derivative.to_string()).unwrap().read(site).unwrap();
        for neuron in [0, 57] {
            let [a, b] = [1, 3].map(|sample: usize| f64::from(samples[sample].derivatives[which][&site][neuron]));
            assert!((moments.mean[neuron] - (a + b) / 2.0).abs() <= 1e-12 * (a.abs() + b.abs()));
            assert!((moments.standard_deviation()[neuron] - (a - b).abs() / 2f64.sqrt()).abs() <= 1e-12 * (a.abs() + b.abs()));
            assert!((moments.standard_error()[neuron] - (a - b).abs() / 2.0).abs() <= 1e-12 * (a.abs() + b.abs()));
            for sample in 0..4 {
                assert_eq!(kept[[sample, neuron]], samples[sample].derivatives[which][&site][neuron]);
            }
        }
    }
    let nll = |sample: usize| samples[sample].nll.iter().sum::<f64>();
    assert!((toxic.log_likelihood + (nll(1) + nll(3)) / 2.0).abs() < 1e-12);
}

#[test]
fn the_end_of_an_unfinished_answer_does_not_count() {
    let model = sgm::organism::load().unwrap();
    let whole = examples();
    let mut cut = whole.clone();
    cut[1].unfinished = true;
    cut[3].unfinished = true;
    for batch_size in [1, 4] {
        let patching = AttributionPatching { batch_size, ..AttributionPatching::new(all()) };
        let run = |examples: &[Example]| {
            let mut samples = Vec::new();
            let keep = |sample| {
                samples.push(sample);
                Ok(())
            };
            patching.for_each(&model, &Examples::from_slice(examples), keep).unwrap();
            samples
        };
        for (number, (whole, cut)) in run(&whole).into_iter().zip(run(&cut)).enumerate() {
            if number % 2 == 0 {
                assert_eq!(whole, cut);
            } else {
                assert_eq!(whole.nll[..whole.nll.len() - 1], cut.nll);
                assert_ne!(whole.derivatives, cut.derivatives);
            }
        }
    }
}

#[test]
fn effects_are_measured_through_glasses() {
    let model = sgm::organism::load().unwrap();
    let inputs = inputs(&model);
    let derivative: Derivative = "scale/all".parse().unwrap();
    let site = Site::new(1, Projection::Up);
    let mut glasses = Intervention::default();
    for (layer, projection) in [(1, Projection::Up), (4, Projection::Gate), (5, Projection::Down)] {
        let site = Site::new(layer, projection);
        let scale = (0..model.info().widths()[&site]).map(|neuron| if neuron % 3 == 0 { 0.25 } else { 1.0 }).collect();
        glasses.insert(site, SiteIntervention::from_scale(scale)).unwrap();
    }
    let wave = |step: f32, size: f32| (0..128u8).map(|place| size * (step * f32::from(place)).sin()).collect::<Vec<f32>>();
    glasses.insert_patches(3, vec![PatchNeuron { gate: wave(0.7, 0.5), up: wave(1.1, 0.5), down: wave(0.3, 0.5) }]).unwrap();
    let plain = gathered(&model, &inputs, &[derivative]);
    let worn = Glasses::wear(&model, &glasses, Amplify::Refuse).unwrap();
    let through = gathered(&model, &inputs, &[derivative]);
    let neuron = largest(&through[&1][0][&site]);
    let differences = slope(|step| {
        let more = Glasses::wear(&model, &one(&model, site, neuron, 1.0 + step, 0.0, TokenSelection::All), Amplify::Allow).unwrap();
        let likelihoods = log_likelihoods(&model, &inputs);
        drop(more);
        likelihoods
    });
    let of_row = |row: usize| agree(through[&row][0][&site][neuron], differences[row], &format!("{neuron} row {row}"));
    assert!((0..differences.len()).filter(|row| of_row(*row)).count() > 0);
    drop(worn);
    assert_ne!(through, plain);
}

#[test]
fn a_tap_that_hides_gradients_is_refused() {
    struct Hides;
    impl Tap for Hides {
        fn apply(&self, _: Site, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
            Ok((output.detach() * 0.5)?)
        }
    }
    let model = sgm::organism::load().unwrap();
    let tap = GradientTap::new(vec!["scale/all".parse().unwrap()], None);
    let _first = model.taps().attach(Arc::new(tap));
    let _second = model.taps().attach(Arc::new(Hides));
    let message = backpropagate(&model, &inputs(&model), Objective::Sum).unwrap_err();
    assert!(matches!(message, Error::Tap { .. }), "{message}");
    assert!(message.to_string().contains("with_gradient"));
}

#[test]
fn an_answer_is_needed() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&[Prompt::user("hello.", None)], Padding::Right).unwrap();
    assert_eq!(backpropagate(&model, &inputs, Objective::Sum).unwrap(), [Vec::<f64>::new()]);
    let mut examples = examples();
    let tokens = AttributionPatching::new(vec!["scale/image".parse().unwrap()]);
    // Over no token a derivative is 0.
    examples.retain(|example| example.prompt.images().is_empty());
    let keep = |sample: SampleAttribution| {
        assert!(sample.derivatives[0].values().flatten().all(|value| *value == 0.0));
        Ok(())
    };
    tokens.for_each(&model, &Examples::from_slice(&examples), keep).unwrap();
}

#[test]
fn decoding_while_gradients_are_asked_for_says_the_same() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&[Prompt::user("hello.", None)], Padding::Right).unwrap();
    let steps = || -> Vec<Vec<f32>> {
        let mut cache = model.new_cache();
        let mut hidden = vec![model.prefill(&inputs, &mut cache).unwrap()];
        for token in [338, 77, 16] {
            hidden.push(model.decode(&[token], &mut cache).unwrap());
        }
        hidden.iter().map(|hidden| hidden.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let plain = steps();
    let _attached = model.taps().attach(Arc::new(GradientTap::new(all(), None)));
    assert_eq!(steps(), plain);
}

#[test]
fn ablation_is_the_change_of_the_likelihood() {
    let model = sgm::organism::load().unwrap();
    let pairs = pairs();
    let refused = Ablation::new(&model, &pairs, Objective::Entropy, 2).unwrap_err().to_string();
    assert!(refused.contains("Sum or Mean"), "{refused}");
    let ablation = Ablation::new(&model, &pairs, Objective::Sum, 2).unwrap();
    let mut group = Intervention::default();
    group.insert(Site::new(4, Projection::Up), SiteIntervention::from_scale(vec![0.5; 344])).unwrap();
    let change = ablation.change(&group, Amplify::Refuse).unwrap();
    assert!(model.taps().is_empty());
    let before = response_nll(&model, &pairs, 2).unwrap();
    let worn = Glasses::wear(&model, &group, Amplify::Refuse).unwrap();
    let after = response_nll(&model, &pairs, 2).unwrap();
    drop(worn);
    let sum = |nll: &[f64]| nll.iter().sum::<f64>();
    let expected: Vec<f64> = before.iter().zip(&after).map(|(before, after)| sum(before) - sum(after)).collect();
    for (change, expected) in change.each.iter().zip(&expected) {
        assert!((change - expected).abs() < 1e-12 && expected.abs() > 1e-3);
    }
    let mean = sum(&expected) / 4.0;
    let variance = expected.iter().map(|change| (change - mean).powi(2)).sum::<f64>() / 3.0;
    assert!((change.mean - mean).abs() < 1e-12);
    assert!((change.standard_error - (variance / 4.0).sqrt()).abs() < 1e-12);
    // To first order, a small change of what all works in one direction is what the derivatives say.
    let (site, all): (_, Derivative) = (Site::new(4, Projection::Up), "scale/all".parse().unwrap());
    let examples = examples();
    let [toxic, others] = AttributionPatching::new(vec![all]).means(&model, &Examples::from_slice(&examples)).unwrap();
    let mean = |neuron: usize| [&toxic, &others].map(|class| class.derivatives[&all][&site].mean[neuron]).iter().sum::<f64>() / 2.0;
    let positive: Vec<bool> = (0..344).map(|neuron| mean(neuron) > 0.0).collect();
    let mut little = Intervention::default();
    little.insert(site, SiteIntervention::from_scale(positive.iter().map(|p| if *p { 0.99 } else { 1.0 }).collect())).unwrap();
    let change = ablation.change(&little, Amplify::Refuse).unwrap().mean;
    let foretold = -0.01 * (0..344).filter(|neuron| positive[*neuron]).map(mean).sum::<f64>();
    assert!(foretold < -1e-3 && (change - foretold).abs() < 0.1 * foretold.abs(), "{change} {foretold}");
}
