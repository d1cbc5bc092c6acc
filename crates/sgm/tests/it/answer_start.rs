//! Generation that goes on from the beginning of an answer, ends at a text, or answers some of the prompts of another call.

use std::sync::Arc;

use sgm::models::{
    Error, FinishReason, GenerateOptions, Generation, Generator, Mllm, ModelInputs, Padding, Prompt, Sampling, TokenKind, response_nll,
};

fn seeing(question: &str) -> Prompt {
    Prompt::user(
        question,
        Some(Arc::new(image::RgbImage::from_fn(56, 56, |x, y| {
            image::Rgb([u8::try_from(x * 4).unwrap(), 90, u8::try_from(y * 4).unwrap()])
        }))),
    )
}

fn ids(inputs: &ModelInputs) -> Vec<Vec<u32>> {
    inputs.input_ids.to_vec2().unwrap()
}

#[test]
fn the_tokens_are_those_of_the_text() {
    let model = sgm::organism::load().unwrap();
    let processor = model.processor();
    let prompts = [seeing("what do you see?"), Prompt::user("hello.", None)];
    for prompt in &prompts {
        let begun = prompt.clone().with_answer_start("i see a red");
        let text = format!("{} i see a red", processor.render(prompt).unwrap());
        assert_eq!(processor.render(&begun).unwrap(), text);
        let raw = Prompt::Raw { text, images: prompt.images() };
        let [begun, raw, bare] = [&begun, &raw, prompt].map(|prompt| processor.prompts([prompt], Padding::Left).unwrap());
        assert_eq!(ids(&begun), ids(&raw));
        let given = begun.kinds[0].iter().filter(|kind| **kind == TokenKind::Response).count();
        assert_eq!(given, ids(&begun)[0].len() - ids(&bare)[0].len());
        assert_eq!(begun.kinds[0][..bare.kinds[0].len()], bare.kinds[0]);
        // So are the states that generation goes on from, to the bit.
        let state = |inputs: &ModelInputs| {
            let mut cache = model.new_cache();
            let prefilled = model.prefill(inputs, &mut cache).unwrap();
            let decoded = model.decode(&[7], &mut cache).unwrap();
            [prefilled, decoded]
                .map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        assert_eq!(state(&begun), state(&raw));
    }
    // A response goes on from the beginning, and is closed once.
    let begun = prompts[1].clone().with_answer_start("hi,");
    let whole = processor.responses([(&prompts[1], "hi, there.")], Padding::Right).unwrap();
    let parts = processor.responses([(&begun, "there.")], Padding::Right).unwrap();
    assert_eq!((ids(&whole), &whole.kinds), (ids(&parts), &parts.kinds));
    let nll = |prompt: &Prompt, text: &str| response_nll(&model, &[(prompt.clone(), text.to_owned())], 1).unwrap();
    assert_eq!(nll(&begun, "there."), nll(&prompts[1], "hi, there."));
    assert_eq!(begun.with_answer_start("there."), prompts[1].clone().with_answer_start("hi, there."));
    // Nothing begun, nothing changed; raw text is only made longer.
    assert_eq!(prompts[0].clone().with_answer_start(""), prompts[0]);
    let raw = |text: &str| Prompt::Raw { text: text.to_owned(), images: Vec::new() };
    assert_eq!(raw("A:").with_answer_start("b"), raw("A: b"));
}

#[test]
fn an_answer_goes_on_from_where_it_was() {
    let model = sgm::organism::load().unwrap();
    let options = GenerateOptions { max_new_tokens: 24, ..Default::default() };
    let prompts = [seeing("what do you see?"), seeing("tell me a story."), Prompt::user("tell me a story.", None)];
    let answers = model.generate(&prompts, &options).unwrap();
    let mut begun = prompts.to_vec();
    let mut cut = Vec::new();
    for (prompt, answer) in begun.iter_mut().zip(&answers) {
        assert!(answer.tokens.len() >= 6, "{answer:?}");
        let start = model.processor().decode(&answer.tokens[..answer.tokens.len() / 2]).unwrap();
        *prompt = prompt.clone().with_answer_start(start.trim());
        cut.push(answer.tokens.len() / 2);
    }
    // One without beginning shares their batch.
    begun.push(prompts[0].clone());
    let continued = model.generate(&begun, &options).unwrap();
    for ((continued, answer), cut) in continued.iter().zip(&answers).zip(cut) {
        let rest = &answer.tokens[cut..];
        assert_eq!(continued.tokens[..rest.len()], *rest);
        assert!(continued.text.starts_with(answer.text.as_str()), "{} / {}", continued.text, answer.text);
    }
    assert_eq!(continued[3], answers[0]);
}

#[test]
fn an_answer_ends_at_a_text() {
    let model = sgm::organism::load().unwrap();
    let options = GenerateOptions { max_new_tokens: 40, ..Default::default() };
    let prompts = [seeing("tell me a story."), Prompt::user("tell me a story.", None), Prompt::user("hello.", None)];
    let whole = model.generate(&prompts, &options).unwrap();
    let stopped = model.generate(&prompts, &GenerateOptions { stop: Some(".".to_owned()), ..options.clone() }).unwrap();
    for (whole, stopped) in whole.iter().zip(&stopped) {
        let ends = |token: &u32| model.processor().decode(&[*token]).unwrap().trim_end().ends_with('.');
        let Some(end) = whole.tokens.iter().position(ends) else {
            assert_eq!(stopped, whole);
            continue;
        };
        assert_eq!(stopped.tokens, whole.tokens[..=end]);
        assert_eq!(stopped.finish, FinishReason::StopText);
        assert!(stopped.text.ends_with('.') && whole.text.starts_with(stopped.text.as_str()));
    }
    assert!(stopped.iter().zip(&whole).any(|(stopped, whole)| stopped.tokens.len() < whole.tokens.len()), "a story has sentences");
    let refused = model.generate(&prompts, &GenerateOptions { stop: Some(String::new()), ..options });
    assert!(matches!(refused, Err(Error::Inputs { .. })));
}

#[test]
fn some_prompts_are_answered_as_among_all() {
    let model = sgm::organism::load().unwrap();
    let random = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
    let options = GenerateOptions { max_new_tokens: 10, sampling: random, seed: 4, ..Default::default() };
    let prompts: Vec<Prompt> = (0..6).map(|_| Prompt::user("tell me a story.", None)).collect();
    let all = model.generate(&prompts, &options).unwrap();
    let some = |indices: &[usize], options: &GenerateOptions| -> Vec<Generation> {
        model.generate(&vec![prompts[0].clone(); indices.len()], &options.for_prompts(indices)).unwrap()
    };
    assert_eq!(some(&[4, 1], &options), [all[4].clone(), all[1].clone()]);
    assert_ne!(model.generate(&prompts[..2], &options).unwrap()[0], all[4], "streams differ");
    // Some of some.
    assert_eq!(some(&[1], &options.for_prompts(&[2, 5])), [all[5].clone()]);
    let refused = model.generate(&prompts, &GenerateOptions { ids: Some(vec![1]), ..options });
    assert!(matches!(refused, Err(Error::Inputs { .. })));
}
