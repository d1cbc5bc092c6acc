//! ETA, step by step, with scripted candidates and scores.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::scripted::{Scripted, blind, said, seeing, start};
use sgm_defend::{BoxError, Error, Eta, EtaBranch, EtaOptions, EtaTrace, ImageTextSimilarity, Passes, RewardModel, Scope};
use sgm_models::{FinishReason, GenerateOptions, Generation, Generator, Prompt, Sampling};

/// Rewards and similarities by text, 0 for other texts; scored texts are recorded.
#[derive(Default)]
struct Table {
    scores: HashMap<&'static str, f64>,
    asked: Mutex<Vec<(String, Vec<String>)>>,
}

impl Table {
    fn new(scores: &[(&'static str, f64)]) -> Arc<Self> {
        Arc::new(Self { scores: scores.iter().copied().collect(), asked: Mutex::default() })
    }

    fn look_up(&self, about: &str, texts: &[&str]) -> Vec<f64> {
        self.asked.lock().unwrap().push((about.to_owned(), texts.iter().map(|text| (*text).to_owned()).collect()));
        texts.iter().map(|text| self.scores.get(text).copied().unwrap_or(0.0)).collect()
    }

    fn asked(&self) -> Vec<(String, Vec<String>)> {
        self.asked.lock().unwrap().clone()
    }
}

impl RewardModel for Table {
    fn rewards(&self, instruction: &str, answers: &[&str]) -> Result<Vec<f64>, BoxError> {
        Ok(self.look_up(instruction, answers))
    }
}

impl ImageTextSimilarity for Table {
    fn similarities(&self, prompt: &Prompt, texts: &[&str]) -> Result<Vec<f64>, BoxError> {
        assert_eq!(prompt.images().len(), 1);
        assert_eq!(start(prompt), "", "the answer is no part of what was asked");
        Ok(self.look_up(&crate::scripted::text(prompt), texts))
    }
}

const UNSAFE: &str = "The image contains unsafe/porn/violent/politic/physical harmful/illegal/privacy contents.";

fn chunk(text: &str, tokens: usize, finish: FinishReason) -> Generation {
    Generation { text: text.to_owned(), tokens: vec![1; tokens], finish }
}

fn two_candidates() -> EtaOptions {
    EtaOptions { candidates: 2, ..EtaOptions::default() }
}

fn answer(
    model: &Arc<Scripted>,
    rewards: &Arc<Table>,
    similarity: &Arc<Table>,
    options: EtaOptions,
    prompt: Prompt,
    max: usize,
) -> EtaTrace {
    let eta = Eta::new(Passes::same(model.clone()), rewards.clone(), similarity.clone(), options).unwrap();
    eta.answer(&[prompt], &GenerateOptions { max_new_tokens: max, seed: 5, ..Default::default() }).unwrap().remove(0)
}

/// Gives the chunks of a list, one for each call.
fn listed(chunks: Vec<Generation>) -> Arc<Scripted> {
    Scripted::new(move |_, _, call| Ok(chunks[call].clone()))
}

#[test]
fn a_rewarded_answer_is_given_and_the_image_not_looked_at() {
    let (model, similarity) = (listed(vec![said("fine")]), Table::new(&[]));
    // Above the threshold, not at it.
    let trace = answer(&model, &Table::new(&[("fine", 0.0601)]), &similarity, EtaOptions::default(), seeing("q"), 9);
    assert_eq!((trace.branch, trace.reward, trace.unsafety, trace.answer.text.as_str()), (EtaBranch::SafeAnswer, 0.0601, None, "fine"));
    assert!(similarity.asked().is_empty());
    assert_eq!(model.calls().len(), 1);
}

#[test]
fn a_safe_image_clears_an_answer() {
    let (rewards, similarity) = (Table::new(&[("well", 0.06)]), Table::new(&[(UNSAFE, 0.1599)]));
    let trace = answer(&listed(vec![said("well")]), &rewards, &similarity, EtaOptions::default(), seeing("q"), 9);
    assert_eq!((trace.branch, trace.unsafety, trace.answer.text.as_str()), (EtaBranch::SafeImage, Some(0.1599), "well"));
    assert_eq!(similarity.asked(), [("q".to_owned(), vec![UNSAFE.to_owned()])]);
    assert_eq!(rewards.asked(), [(EtaOptions::default().check_instruction, vec!["well".to_owned()])]);
}

#[test]
fn sentences_are_chosen_by_reward_and_similarity_over_their_number() {
    let model = listed(vec![
        said("bad"),
        // The first sentence is chosen by the reward alone.
        chunk("As an AI assistant, a.", 3, FinishReason::StopText),
        chunk("As an AI assistant, b.", 4, FinishReason::StopText),
        // The second: 0.2 + 0.7 / 2 = 0.55 > 0.4 + 0.2 / 2 = 0.5; whole similarities, or none, would choose otherwise or differ.
        chunk("As an AI assistant, b. c.", 2, FinishReason::StopText),
        chunk("As an AI assistant, b. d.", 2, FinishReason::StopText),
        // The third: 0.2 + 0.5 / 3 = 0.367 < 0.3 + 0.3 / 3 = 0.4, but 0.45 = 0.45 with halves.
        chunk("As an AI assistant, b. c. e.", 2, FinishReason::StopText),
        chunk("As an AI assistant, b. c. f.", 2, FinishReason::StopText),
        // One candidate ends the answer, so only rewards count.
        chunk("As an AI assistant, b. c. f. g.", 2, FinishReason::StopText),
        chunk("As an AI assistant, b. c. f. h", 1, FinishReason::EndOfSequence),
    ]);
    let rewards = Table::new(&[
        ("As an AI assistant, a.", 0.1),
        ("As an AI assistant, b.", 0.2),
        ("As an AI assistant, b. c.", 0.2),
        ("As an AI assistant, b. d.", 0.4),
        ("As an AI assistant, b. c. e.", 0.2),
        ("As an AI assistant, b. c. f.", 0.3),
        ("As an AI assistant, b. c. f. g.", 0.1),
        ("As an AI assistant, b. c. f. h", 0.2),
    ]);
    let similarity = Table::new(&[(UNSAFE, 0.16), (", a.", 9.0), ("c.", 0.7), ("d.", 0.2), ("e.", 0.5), ("f.", 0.3), ("g.", 9.0)]);
    let trace = answer(&model, &rewards, &similarity, two_candidates(), seeing("q"), 100);
    assert_eq!(trace.branch, EtaBranch::Aligned);
    assert_eq!(trace.direct, said("bad"));
    assert_eq!(trace.sentences.iter().map(|sentence| sentence.chosen).collect::<Vec<_>>(), [1, 0, 1, 1]);
    let expected = Generation { tokens: vec![1; 4 + 2 + 2 + 1], ..said("As an AI assistant, b. c. f. h") };
    assert_eq!(trace.answer, expected);
    let similarities: Vec<_> = trace.sentences.iter().map(|s| s.candidates.iter().map(|c| c.similarity).collect::<Vec<_>>()).collect();
    assert_eq!(similarities, [vec![None, None], vec![Some(0.7), Some(0.2)], vec![Some(0.5), Some(0.3)], vec![None, None]]);
    let scored: Vec<Vec<String>> = similarity.asked().into_iter().map(|(_, texts)| texts).collect();
    assert_eq!(scored, [vec![UNSAFE], vec!["c.", "d."], vec!["e.", "f."]]);
    assert!(rewards.asked()[1..].iter().all(|(instruction, _)| *instruction == EtaOptions::default().candidate_instruction));

    let calls = model.calls();
    let starts: Vec<String> = calls.iter().map(|call| start(&call.prompts[0])).collect();
    let begun = ["As an AI assistant", "As an AI assistant, b.", "As an AI assistant, b. c.", "As an AI assistant, b. c. f."];
    assert_eq!(starts[1..], begun.iter().flat_map(|start| [*start; 2]).collect::<Vec<_>>());
    for call in &calls[1..] {
        assert_eq!(call.texts(), ["q"]);
        assert_eq!(call.images(), [1]);
        assert_eq!(call.options.sampling, Sampling::Random { temperature: 1.5, top_p: None, top_k: Some(5) });
        assert_eq!(call.options.stop.as_deref(), Some("."));
        assert_eq!(call.options.max_new_tokens, 70);
    }
    let mut seeds: Vec<u64> = calls.iter().map(|call| call.options.seed).collect();
    assert_eq!(seeds[0], 5);
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), calls.len(), "each candidate has a stream of its own");
}

#[test]
fn the_first_of_equals_is_kept_and_five_are_drawn() {
    let model = Scripted::new(|_, _, call| Ok(if call == 0 { said("bad") } else { said(&format!("As an AI assistant {call}")) }));
    let trace = answer(&model, &Table::new(&[]), &Table::new(&[(UNSAFE, 1.0)]), EtaOptions::default(), seeing("q"), 100);
    assert_eq!((trace.answer.text.as_str(), trace.sentences.len()), ("As an AI assistant 1", 1));
    assert_eq!(model.calls().len(), 1 + 5);
}

#[test]
fn an_answer_is_no_longer_than_the_caller_wants() {
    // Sentences of 70 and 70 tokens, then the remaining 10.
    let model = Scripted::new(|prompt, options, call| {
        let text = format!("{} {call}", start(prompt));
        Ok(if call == 0 { said("bad") } else { chunk(&text, options.max_new_tokens, FinishReason::Length) })
    });
    let trace = answer(&model, &Table::new(&[]), &Table::new(&[(UNSAFE, 1.0)]), two_candidates(), seeing("q"), 150);
    assert_eq!(model.calls().iter().map(|call| call.options.max_new_tokens).collect::<Vec<_>>(), [150, 70, 70, 70, 70, 10, 10]);
    assert_eq!((trace.answer.tokens.len(), trace.answer.finish), (150, FinishReason::Length));
    // Without room for a token the answer is the prefix.
    let trace = answer(&model, &Table::new(&[]), &Table::new(&[(UNSAFE, 1.0)]), two_candidates(), seeing("q"), 0);
    assert!(trace.sentences.is_empty());
}

#[test]
fn a_generator_that_says_nothing_ends_the_answer() {
    let model = Scripted::new(|_, _, call| Ok(if call == 0 { said("bad") } else { chunk("As an AI assistant", 0, FinishReason::Length) }));
    let trace = answer(&model, &Table::new(&[]), &Table::new(&[(UNSAFE, 1.0)]), two_candidates(), seeing("q"), 50);
    assert_eq!((trace.sentences.len(), trace.answer.text.as_str()), (1, "As an AI assistant"));
}

#[test]
fn without_an_image_the_reward_decides() {
    let model = listed(vec![
        said("bad"),
        chunk("As an AI assistant.", 1, FinishReason::StopText),
        chunk("As an AI assistant.", 1, FinishReason::StopText),
        said("As an AI assistant. x"),
        said("As an AI assistant. y"),
    ]);
    let similarity = Table::new(&[]);
    let trace = answer(&model, &Table::new(&[("As an AI assistant. y", 0.1)]), &similarity, two_candidates(), blind("q"), 50);
    assert_eq!((trace.branch, trace.answer.text.as_str()), (EtaBranch::Aligned, "As an AI assistant. y"));
    assert!(similarity.asked().is_empty());
}

#[test]
fn only_unsafe_prompts_are_aligned_each_as_long_as_it_takes() {
    // Prompts 1 and 3 are unsafe; 3 needs a second sentence.
    let model = Scripted::new(|prompt, _, call| {
        let question = crate::scripted::text(prompt);
        Ok(match (call, question.as_str(), start(prompt).ends_with("3.")) {
            (0, ..) => said(&format!("answer {question}")),
            (_, "3", false) => chunk("As an AI assistant, 3.", 2, FinishReason::StopText),
            _ => Generation { text: format!("{} end", start(prompt)), tokens: vec![1], finish: FinishReason::EndOfSequence },
        })
    });
    let rewards = Table::new(&[("answer 0", 1.0), ("answer 2", 1.0)]);
    let eta = Eta::new(Passes::same(model.clone()), rewards, Table::new(&[(UNSAFE, 1.0)]), two_candidates()).unwrap();
    let prompts: Vec<Prompt> = (0..4).map(|i| seeing(&i.to_string())).collect();
    let answers = eta.generate(&prompts, &GenerateOptions { ids: Some(vec![20, 21, 22, 23]), ..Default::default() }).unwrap();
    let texts: Vec<&str> = answers.iter().map(|answer| answer.text.as_str()).collect();
    assert_eq!(texts, ["answer 0", "As an AI assistant end", "answer 2", "As an AI assistant, 3. end"]);
    let rows: Vec<_> = model.calls().iter().map(|call| call.options.ids.clone().unwrap()).collect();
    assert_eq!(rows, [vec![20, 21, 22, 23], vec![21, 23], vec![21, 23], vec![23], vec![23]]);
}

#[test]
fn the_direct_and_the_final_pass_may_wear_glasses() {
    for (scope, expected) in [(Scope { r#final: false, ..Scope::ALL }, (1, 2)), (Scope { direct: false, ..Scope::ALL }, (2, 1))] {
        let script = |prompt: &Prompt| if start(prompt).is_empty() { said("bad") } else { said("As an AI assistant") };
        let (bare, worn) = (Scripted::new(move |p, _, _| Ok(script(p))), Scripted::new(move |p, _, _| Ok(script(p))));
        let passes = Passes::scoped(bare.clone(), worn.clone(), scope);
        let eta = Eta::new(passes, Table::new(&[]), Table::new(&[(UNSAFE, 1.0)]), two_candidates()).unwrap();
        eta.answer(&[seeing("q")], &GenerateOptions::default()).unwrap();
        assert_eq!((worn.calls().len(), bare.calls().len()), expected);
    }
}

#[test]
fn scorers_fail_loudly() {
    struct Broken(Option<Vec<f64>>);
    impl RewardModel for Broken {
        fn rewards(&self, _: &str, _: &[&str]) -> Result<Vec<f64>, BoxError> {
            self.0.clone().ok_or_else(|| "scripted failure".into())
        }
    }
    let error = |rewards| {
        let eta =
            Eta::new(Passes::same(listed(vec![said("x")])), Arc::new(Broken(rewards)), Table::new(&[]), EtaOptions::default()).unwrap();
        eta.answer(&[seeing("q")], &GenerateOptions::default()).unwrap_err().to_string()
    };
    assert_eq!(error(None), "the reward model: scripted failure");
    assert_eq!(error(Some(vec![f64::NAN])), "the reward model: it gave the score NaN");
    assert_eq!(error(Some(vec![])), "the reward model: it gave 0 scores for 1 texts");
    for options in [EtaOptions { candidates: 0, ..EtaOptions::default() }, EtaOptions { sentence_tokens: 0, ..EtaOptions::default() }] {
        let refused = Eta::new(Passes::same(listed(Vec::new())), Table::new(&[]), Table::new(&[]), options);
        assert!(matches!(refused, Err(Error::Setting { .. })));
    }
}
