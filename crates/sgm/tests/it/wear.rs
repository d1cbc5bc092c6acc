//! Glasses at selected tokens, and at a strength of its own for each request.

use std::sync::{Arc, Mutex};

use crate::worn::{bits, difference};
use candle_core::{Device, IndexOp, Tensor};
use sgm::core::{Intervention, Projection, Site, SiteIntervention, TokenSelection};
use sgm::models::{
    AutoMllm, EosPolicy, GenerateOptions, Generator, Mllm, ModelInputs, Padding, Prompt, Tap, TokenKind, TokenSpans, generate_tokens,
};
use sgm::suppress::{Amplify, Error, Glasses, WearOptions};

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

/// The usual glasses at some tokens, with shifts and a neuron more in each layer.
fn glasses(model: &AutoMllm, tokens: TokenSelection) -> Intervention {
    let mut intervention = crate::worn::glasses(model);
    intervention.tokens = tokens;
    for info in model.info().sites.iter().filter(|info| info.site.projection == Projection::Up) {
        let shift = |neuron: usize| if (neuron + info.site.layer).is_multiple_of(5) { 0.05 } else { 0.0 };
        let scale = intervention.sites()[&info.site].scale.clone();
        let shifted = SiteIntervention { scale, shift: Some((0..info.width).map(shift).collect()), ..Default::default() };
        intervention.insert(info.site, shifted).unwrap();
    }
    crate::worn::with_patches(model, intervention)
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
fn at_all_selections_cached_equals_recomputed() {
    const STEPS: usize = 6;
    let model = sgm::organism::load().unwrap();
    let options = GenerateOptions { max_new_tokens: STEPS, eos: EosPolicy::Ignore, ..Default::default() };
    for padding in [Padding::Left, Padding::Right] {
        let inputs = model.processor().prompts(&prompts(), padding).unwrap();
        let before = inputs.kinds[0].len();
        for selection in TokenSelection::ALL {
            let _worn = Glasses::wear(&model, &glasses(&model, selection), Amplify::Refuse).unwrap();
            let answers = generate_tokens(&model, &inputs, &options).unwrap();
            let steps: Vec<Vec<u32>> = (0..STEPS).map(|step| answers.iter().map(|(tokens, _)| tokens[step]).collect()).collect();
            let mut cache = model.new_cache();
            model.prefill(&inputs, &mut cache).unwrap();
            let decoded: Vec<_> = steps.iter().map(|step| model.logits(&model.decode(step, &mut cache).unwrap()).unwrap()).collect();
            let cached = Tensor::cat(&decoded, 1).unwrap();
            let whole = model.logits(&hidden(&model, &with_responses(&inputs, &steps))).unwrap();
            let recomputed = whole.narrow(1, before, STEPS).unwrap();
            let gap = difference(&cached, &recomputed);
            assert!(gap <= 1e-5, "{selection}, {padding:?}: {gap}");
            // And the tokens are those that the whole pass predicts, the first from the last position of the prompt.
            for (row, (tokens, _)) in answers.iter().enumerate() {
                let last = inputs.kinds[row].iter().rposition(|kind| *kind != TokenKind::Padding).unwrap();
                let from = std::iter::once(last).chain(before..before + STEPS - 1);
                let predicted = from.map(|at| whole.i((row, at)).unwrap().argmax(0).unwrap().to_scalar::<u32>().unwrap());
                assert_eq!(&predicted.collect::<Vec<_>>(), tokens, "{selection}, {padding:?}");
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
fn only_the_selected_tokens_change() {
    let model = sgm::organism::load().unwrap();
    let examples = prompts().map(|prompt| (prompt, "the ring is red, i think.".to_owned()));
    let inputs = model.processor().responses(examples.iter().map(|(p, r)| (p, r.as_str())), Padding::Right).unwrap();
    // The first site sees the same with glasses and without.
    let site = model.info().sites[0].site;
    for selection in TokenSelection::ALL {
        let [before, after] = [(); 2].map(|()| Arc::new(Copied { site, seen: Mutex::default() }));
        let first = model.taps().attach(before.clone());
        let worn = Glasses::wear(&model, &glasses(&model, selection), Amplify::Refuse).unwrap();
        let second = model.taps().attach(after.clone());
        hidden(&model, &inputs);
        drop((first, worn, second));
        let seen = |copied: &Copied| copied.seen.lock().unwrap().take().unwrap();
        let (before, after) = (seen(&before), seen(&after));
        let mut changed = 0;
        for (row, kinds) in inputs.kinds.iter().enumerate() {
            let first_response = kinds.iter().position(|kind| *kind == TokenKind::Response).unwrap();
            for (at, kind) in kinds.iter().enumerate() {
                let chosen = match selection {
                    TokenSelection::All => true,
                    TokenSelection::Text => matches!(kind, TokenKind::PromptText | TokenKind::Response),
                    TokenSelection::Image => *kind == TokenKind::Image,
                    TokenSelection::Response => *kind == TokenKind::Response,
                    TokenSelection::Prompt => kind.is_prompt(),
                    TokenSelection::PromptEnd => at + 1 == first_response,
                    TokenSelection::Last => *kind == TokenKind::Response || at + 1 == first_response,
                };
                let token = |tensor: &Tensor| bits(&tensor.i((row, at)).unwrap());
                assert_eq!(token(&before) != token(&after), chosen, "{selection}: row {row}, token {at}, {kind:?}");
                changed += usize::from(chosen);
            }
        }
        assert!(changed > 0, "{selection}");
    }
    assert!(model.taps().is_empty());
}

#[test]
fn a_row_of_a_mixed_batch_is_as_alone() {
    let model = sgm::organism::load().unwrap();
    let strengths = [0.5, 0.0, 1.0];
    for selection in [TokenSelection::All, TokenSelection::Text, TokenSelection::Last] {
        let intervention = glasses(&model, selection);
        let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
        let plain = hidden(&model, &inputs);
        let with = |wear: WearOptions| {
            let _worn = Glasses::wear_with(&model, &intervention, wear).unwrap();
            hidden(&model, &inputs)
        };
        let by_id = strengths.iter().copied().enumerate().collect();
        let mixed = with(WearOptions { strengths: by_id, ..WearOptions::default() });
        for (row, strength) in strengths.into_iter().enumerate() {
            // The same batch at one strength: nothing differs but the other rows.
            let same = with(WearOptions { strength, ..WearOptions::default() });
            let of = |tensor: &Tensor| bits(&tensor.i(row).unwrap());
            assert_eq!(of(&mixed), of(&same), "strength {strength}");
            assert_eq!(of(&mixed) == of(&plain), strength == 0.0);
            // A batch of one, under its id.
            let mut alone = model.processor().prompts(&prompts()[row..=row], Padding::Left).unwrap();
            alone.ids = vec![row];
            let wear = WearOptions { strengths: [(row, strength)].into(), strength: 0.0, ..WearOptions::default() };
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
    let intervention = glasses(&model, TokenSelection::All);
    let prompts: Vec<Prompt> =
        ["hello.", "tell me a story about a fox.", "thank you.", "who are you?"].map(|q| Prompt::user(q, None)).into();
    // Batches shrink as answers end.
    let options = GenerateOptions { max_new_tokens: 24, ..Default::default() };
    let answers = |wear: Option<WearOptions>| {
        let _worn = wear.map(|wear| Glasses::wear_with(&model, &intervention, wear).unwrap());
        model.generate(&prompts, &options).unwrap()
    };
    let (without, with) = (answers(None), answers(Some(WearOptions::default())));
    let mixed = answers(Some(WearOptions { strengths: [(1, 0.0), (3, 0.0)].into(), ..WearOptions::default() }));
    assert_eq!([&mixed[0], &mixed[1], &mixed[2], &mixed[3]], [&with[0], &without[1], &with[2], &without[3]]);
    assert!((0..4).any(|i| with[i] != without[i]), "the glasses change nothing");
}

#[test]
fn several_are_worn_at_once_each_at_its_tokens() {
    let model = sgm::organism::load().unwrap();
    let inputs = model.processor().prompts(&prompts(), Padding::Left).unwrap();
    let halves = |tokens: TokenSelection, scale: f32| {
        let mut intervention = Intervention::default();
        intervention.tokens = tokens;
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
    assert_eq!(
        output(&[halves(TokenSelection::Text, 0.5), halves(TokenSelection::Text, 0.25)]),
        output(&[halves(TokenSelection::Text, 0.125)])
    );
    // Text and image together are all but padding, which nothing attends to.
    let attended = |bits: Vec<u32>| -> Vec<u32> {
        let width = bits.len() / inputs.kinds.concat().len();
        let tokens = bits.chunks(width).zip(inputs.kinds.concat()).filter(|(_, kind)| *kind != TokenKind::Padding);
        tokens.flat_map(|(token, _)| token.to_vec()).collect()
    };
    assert_eq!(
        attended(output(&[halves(TokenSelection::Text, 0.5), halves(TokenSelection::Image, 0.5)])),
        attended(output(&[halves(TokenSelection::All, 0.5)]))
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let model = sgm::organism::load().unwrap();
    let intervention = glasses(&model, TokenSelection::All);
    let refuse = |options: WearOptions| Glasses::wear_with(&model, &intervention, options).map(drop).unwrap_err();
    for strength in [f32::NAN, f32::INFINITY, -0.5, 1.5] {
        let error = refuse(WearOptions { strength, ..WearOptions::default() });
        assert!(matches!(error, Error::Strength { id: None, .. }), "{error}");
        let error = refuse(WearOptions { strengths: [(3, strength)].into(), ..WearOptions::default() });
        assert!(matches!(error, Error::Strength { id: Some(3), .. }) && error.to_string().contains("of request 3"), "{error}");
        let allowed = Glasses::wear_with(
            &model,
            &glasses(&model, TokenSelection::All),
            WearOptions { amplify: Amplify::Allow, strength, ..WearOptions::default() },
        );
        assert_eq!(allowed.is_ok(), strength.is_finite());
    }
    assert!(model.taps().is_empty());
}
