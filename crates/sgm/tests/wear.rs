//! Glasses at some token positions only, and at a strength of its own for each request.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod worn;

use std::sync::{Arc, Mutex};

use candle_core::{Device, IndexOp, Tensor};
use sgm::core::{Intervention, Metadata, Projection, Site, SiteIntervention};
use sgm::models::{
    AutoMllm, EosPolicy, GenerateOptions, Generator, Mllm, ModelInputs, Padding, Prompt, Tap, TokenKind, TokenSpans, generate_tokens,
};
use sgm::suppress::{Amplify, Error, Glasses, Positions, Wear};
use worn::{bits, difference};

fn image(level: u8) -> image::RgbImage {
    image::RgbImage::from_fn(61, 47, |x, y| image::Rgb([level, u8::try_from(3 * x).unwrap(), u8::try_from(5 * y).unwrap()]))
}

/// Three questions of unlike length, two with an image.
fn prompts() -> [Prompt; 3] {
    let question = "what colour is the ring?";
    [
        Prompt::user(question, Some(Arc::new(image(40)))),
        Prompt::user(format!("{question} {question}"), None),
        Prompt::user(question, Some(Arc::new(image(90)))),
    ]
}

/// The usual glasses at some positions, with shifts and a neuron more in each layer.
fn glasses(model: &AutoMllm, positions: Option<&str>) -> Intervention {
    let mut intervention = worn::glasses(model);
    intervention.metadata.positions = positions.map(str::to_owned);
    for info in model.info().sites.iter().filter(|info| info.site.projection == Projection::Up) {
        let shift = |neuron: usize| if (neuron + info.site.layer).is_multiple_of(5) { 0.05 } else { 0.0 };
        let scale = intervention.sites()[&info.site].scale.clone();
        let shifted = SiteIntervention { scale, shift: Some((0..info.width).map(shift).collect()), ..Default::default() };
        intervention.insert(info.site, shifted).unwrap();
    }
    worn::with_patches(model, intervention)
}

fn hidden(model: &AutoMllm, inputs: &ModelInputs) -> Tensor {
    model.prefill(inputs, &mut model.new_cache()).unwrap()
}

/// The inputs with the same further tokens of a response for each row.
fn with_responses(inputs: &ModelInputs, steps: &[Vec<u32>]) -> ModelInputs {
    let rows = inputs.kinds.len();
    let appended: Vec<Vec<u32>> = (0..rows).map(|row| steps.iter().map(|step| step[row]).collect()).collect();
    let mut longer = inputs.clone();
    longer.input_ids = Tensor::cat(&[&inputs.input_ids, &Tensor::new(appended, &Device::Cpu).unwrap()], 1).unwrap();
    longer.kinds.iter_mut().for_each(|row| row.extend(vec![TokenKind::Response; steps.len()]));
    longer
}

#[test]
fn at_all_positions_cached_equals_recomputed() {
    const STEPS: usize = 6;
    let model = sgm::organism::load().unwrap();
    let options = GenerateOptions { max_new_tokens: STEPS, eos: EosPolicy::Ignore, ..Default::default() };
    for padding in [Padding::Left, Padding::Right] {
        let inputs = model.processor().prompts(&prompts(), padding).unwrap();
        let before = inputs.kinds[0].len();
        for positions in Positions::ALL {
            let _worn = Glasses::wear(&model, &glasses(&model, Some(positions.name())), Amplify::Refuse).unwrap();
            let answers = generate_tokens(&model, &inputs, &options).unwrap();
            let steps: Vec<Vec<u32>> = (0..STEPS).map(|step| answers.iter().map(|(tokens, _)| tokens[step]).collect()).collect();
            let mut cache = model.new_cache();
            model.prefill(&inputs, &mut cache).unwrap();
            let decoded: Vec<_> = steps.iter().map(|step| model.logits(&model.decode(step, &mut cache).unwrap()).unwrap()).collect();
            let cached = Tensor::cat(&decoded, 1).unwrap();
            let whole = model.logits(&hidden(&model, &with_responses(&inputs, &steps))).unwrap();
            let recomputed = whole.narrow(1, before, STEPS).unwrap();
            let gap = difference(&cached, &recomputed);
            assert!(gap <= 1e-5, "{positions}, {padding:?}: {gap}");
            // And the tokens are those that the whole pass predicts, the first from the last position of the prompt.
            for (row, (tokens, _)) in answers.iter().enumerate() {
                let last = inputs.kinds[row].iter().rposition(|kind| *kind != TokenKind::Padding).unwrap();
                let from = std::iter::once(last).chain(before..before + STEPS - 1);
                let predicted = from.map(|at| whole.i((row, at)).unwrap().argmax(0).unwrap().to_scalar::<u32>().unwrap());
                assert_eq!(&predicted.collect::<Vec<_>>(), tokens, "{positions}, {padding:?}");
            }
        }
    }
}

/// Keeps a copy of what one site gives.
struct Copied {
    site: Site,
    seen: Mutex<Option<Tensor>>,
}

impl Tap for Copied {
    fn apply(&self, site: Site, output: Tensor, _: &TokenSpans) -> sgm::models::Result<Tensor> {
        if site == self.site {
            *self.seen.lock().unwrap() = Some(output.copy().unwrap());
        }
        Ok(output)
    }
}

#[test]
fn only_the_chosen_positions_change() {
    let model = sgm::organism::load().unwrap();
    let examples = prompts().map(|prompt| (prompt, "the ring is red, i think.".to_owned()));
    let inputs = model.processor().responses(examples.iter().map(|(p, r)| (p, r.as_str())), Padding::Right).unwrap();
    // The first site sees the same with glasses and without.
    let site = model.info().sites[0].site;
    for positions in Positions::ALL {
        let [before, after] = [(); 2].map(|()| Arc::new(Copied { site, seen: Mutex::default() }));
        let first = model.taps().attach(before.clone());
        let worn = Glasses::wear(&model, &glasses(&model, Some(positions.name())), Amplify::Refuse).unwrap();
        let second = model.taps().attach(after.clone());
        hidden(&model, &inputs);
        drop((first, worn, second));
        let seen = |copied: &Copied| copied.seen.lock().unwrap().take().unwrap();
        let (before, after) = (seen(&before), seen(&after));
        let mut changed = 0;
        for (row, kinds) in inputs.kinds.iter().enumerate() {
            let first_response = kinds.iter().position(|kind| *kind == TokenKind::Response).unwrap();
            for (at, kind) in kinds.iter().enumerate() {
                let chosen = match positions {
                    Positions::All => true,
                    Positions::Text => matches!(kind, TokenKind::PromptText | TokenKind::Response),
                    Positions::Image => *kind == TokenKind::Image,
                    Positions::Response => *kind == TokenKind::Response,
                    Positions::Last => *kind == TokenKind::Response || at + 1 == first_response,
                };
                let token = |tensor: &Tensor| bits(&tensor.i((row, at)).unwrap());
                assert_eq!(token(&before) != token(&after), chosen, "{positions}: row {row}, token {at}, {kind:?}");
                changed += usize::from(chosen);
            }
        }
        assert!(changed > 0, "{positions}");
    }
    assert!(model.taps().is_empty());
}

#[test]
fn a_row_of_a_mixed_batch_is_as_alone() {
    let model = sgm::organism::load().unwrap();
    let strengths = [0.5, 0.0, 1.0];
    for positions in [None, Some("text"), Some("last")] {
        let intervention = glasses(&model, positions);
        let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
        let plain = hidden(&model, &inputs);
        let with = |wear: Wear| {
            let _worn = Glasses::wear_with(&model, &intervention, wear).unwrap();
            hidden(&model, &inputs)
        };
        let rows = strengths.iter().copied().enumerate().collect();
        let mixed = with(Wear { rows, ..Wear::default() });
        for (row, strength) in strengths.into_iter().enumerate() {
            // The same batch at one strength: nothing differs but the other rows.
            let same = with(Wear { strength, ..Wear::default() });
            let of = |tensor: &Tensor| bits(&tensor.i(row).unwrap());
            assert_eq!(of(&mixed), of(&same), "strength {strength}");
            assert_eq!(of(&mixed) == of(&plain), strength == 0.0);
            // A batch of one, under its number.
            let mut alone = model.processor().prompts(&prompts()[row..=row], Padding::Left).unwrap();
            alone.rows = vec![row];
            let wear = Wear { rows: [(row, strength)].into(), strength: 0.0, ..Wear::default() };
            let worn = Glasses::wear_with(&model, &intervention, wear).unwrap();
            let alone = hidden(&model, &alone);
            drop(worn);
            let tokens = alone.dim(1).unwrap();
            let gap = difference(&mixed.i(row).unwrap().narrow(0, inputs.kinds[row].len() - tokens, tokens).unwrap(), &alone.i(0).unwrap());
            assert!(gap <= 1e-5, "{gap}");
        }
        // Strength 1 is the intervention to the last bit.
        let worn = Glasses::wear(&model, &intervention, Amplify::Refuse).unwrap();
        assert_eq!(bits(&hidden(&model, &inputs).i(2).unwrap()), bits(&mixed.i(2).unwrap()));
        drop(worn);
        assert_eq!(bits(&hidden(&model, &inputs)), bits(&plain));
    }
}

#[test]
fn a_request_keeps_its_strength_to_its_last_token() {
    let model = sgm::organism::load().unwrap();
    let intervention = glasses(&model, None);
    let prompts: Vec<Prompt> =
        ["hello.", "tell me a story about a fox.", "thank you.", "who are you?"].map(|q| Prompt::user(q, None)).into();
    // Batches shrink as answers end.
    let options = GenerateOptions { max_new_tokens: 24, ..Default::default() };
    let answers = |wear: Option<Wear>| {
        let _worn = wear.map(|wear| Glasses::wear_with(&model, &intervention, wear).unwrap());
        model.generate(&prompts, &options).unwrap()
    };
    let (without, with) = (answers(None), answers(Some(Wear::default())));
    let mixed = answers(Some(Wear { rows: [(1, 0.0), (3, 0.0)].into(), ..Wear::default() }));
    assert_eq!([&mixed[0], &mixed[1], &mixed[2], &mixed[3]], [&with[0], &without[1], &with[2], &without[3]]);
    assert!((0..4).any(|i| with[i] != without[i]), "the glasses change nothing");
}

#[test]
fn several_are_worn_at_once_each_at_its_positions() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let halves = |positions: &str, scale: f32| {
        let mut intervention = Intervention::new(Metadata { positions: Some(positions.to_owned()), ..Metadata::default() });
        for info in &model.info().sites {
            intervention.insert(info.site, SiteIntervention::from_scale(vec![scale; info.width])).unwrap();
        }
        intervention
    };
    let output = |worn: &[Intervention]| {
        let _worn: Vec<_> = worn.iter().map(|i| Glasses::wear(&model, i, Amplify::Refuse).unwrap()).collect();
        bits(&hidden(&model, &inputs))
    };
    // Powers of two scale exactly.
    assert_eq!(output(&[halves("text", 0.5), halves("text", 0.25)]), output(&[halves("text", 0.125)]));
    // Text and image together are all but padding, which nothing attends to.
    let attended = |bits: Vec<u32>| -> Vec<u32> {
        let width = bits.len() / inputs.kinds.concat().len();
        let tokens = bits.chunks(width).zip(inputs.kinds.concat()).filter(|(_, kind)| *kind != TokenKind::Padding);
        tokens.flat_map(|(token, _)| token.to_vec()).collect()
    };
    assert_eq!(attended(output(&[halves("text", 0.5), halves("image", 0.5)])), attended(output(&[halves("all", 0.5)])));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let model = sgm::organism::load().unwrap();
    let refuse = |positions: Option<&str>, wear: Wear| Glasses::wear_with(&model, &glasses(&model, positions), wear).map(drop).unwrap_err();
    let message = refuse(Some("prompt"), Wear::default()).to_string();
    assert!(message.contains("`prompt`") && message.contains("all, text, image, response, last"), "{message}");
    assert!(matches!(Glasses::wear(&model, &glasses(&model, Some("")), Amplify::Refuse), Err(Error::Positions { .. })));
    for strength in [f32::NAN, f32::INFINITY, -0.5, 1.5] {
        let error = refuse(None, Wear { strength, ..Wear::default() });
        assert!(matches!(error, Error::Strength { row: None, .. }), "{error}");
        let error = refuse(None, Wear { rows: [(3, strength)].into(), ..Wear::default() });
        assert!(matches!(error, Error::Strength { row: Some(3), .. }) && error.to_string().contains("of row 3"), "{error}");
        let allowed = Glasses::wear_with(&model, &glasses(&model, None), Wear { amplify: Amplify::Allow, strength, ..Wear::default() });
        assert_eq!(allowed.is_ok(), strength.is_finite());
    }
    assert!(model.taps().is_empty());
}
