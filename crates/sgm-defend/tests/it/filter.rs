//! The response filter.

use std::sync::Arc;

use crate::scripted::{Scripted, blind, said, text};
use sgm_defend::{Check, FilterBranch, FilterOptions, ResponseFilter};
use sgm_models::{FinishReason, GenerateOptions, Generator, Prompt, Sampling};

fn rude() -> Check<'static> {
    Arc::new(|answer: &str| Ok(answer.contains("rude")))
}

#[test]
fn flagged_answers_are_generated_again_and_then_refused() {
    // Answer 0 is never rude, answer 1 until the second call, answer 2 always.
    let model = Scripted::new(|prompt, _, call| {
        let rude = match text(prompt).as_str() {
            "0" => false,
            "1" => call < 2,
            _ => true,
        };
        Ok(said(&format!("{} {call}", if rude { "rude" } else { "kind" })))
    });
    let options = FilterOptions { attempts: 3, refusal: "no.".to_owned(), ..FilterOptions::default() };
    let filter = ResponseFilter::new(model.clone(), rude(), options);
    let prompts: Vec<Prompt> = (0..3).map(|i| blind(&i.to_string())).collect();
    let traces = filter.answer(&prompts, &GenerateOptions { seed: 3, ..Default::default() }).unwrap();
    assert_eq!(
        traces.iter().map(|t| t.branch).collect::<Vec<_>>(),
        [FilterBranch::Passed, FilterBranch::Regenerated, FilterBranch::Refused]
    );
    assert_eq!(traces.iter().map(|t| t.answer.text.as_str()).collect::<Vec<_>>(), ["kind 0", "kind 2", "no."]);
    assert_eq!((traces[2].answer.tokens.len(), traces[2].answer.finish), (0, FinishReason::EndOfSequence));
    let flagged = |i: usize| traces[i].flagged.iter().map(|answer| answer.text.as_str()).collect::<Vec<_>>();
    assert_eq!((flagged(0), flagged(1), flagged(2)), (vec![], vec!["rude 0", "rude 1"], vec!["rude 0", "rude 1", "rude 2", "rude 3"]));
    let calls = model.calls();
    let rows: Vec<_> = calls.iter().map(|call| call.options.ids.clone().unwrap()).collect();
    assert_eq!(rows, [vec![0, 1, 2], vec![1, 2], vec![1, 2], vec![2]]);
    assert_eq!((calls[0].options.sampling, calls[0].options.seed), (Sampling::Greedy, 3));
    assert!(calls[1..].iter().all(|call| matches!(call.options.sampling, Sampling::Random { temperature: 1.0, .. })));
    let mut seeds: Vec<u64> = calls.iter().map(|call| call.options.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 4);
}

#[test]
fn greedy_answers_are_refused_at_once() {
    let model = Scripted::texts(|_| "rude".to_owned());
    let options = FilterOptions { attempts: 3, sampling: None, ..FilterOptions::default() };
    let answers = ResponseFilter::new(model.clone(), rude(), options).generate(&[blind("q")], &GenerateOptions::default()).unwrap();
    assert_eq!(answers[0].text, FilterOptions::default().refusal);
    assert_eq!(model.calls().len(), 1);
}

#[test]
fn a_filter_reads_answers_to_raw_text_too_and_reports_its_check() {
    let raw = [Prompt::Raw { text: "x".to_owned(), images: Vec::new() }];
    let model = Scripted::new(|_, _, _| Ok(said("kind")));
    let filter = ResponseFilter::new(model.clone(), rude(), FilterOptions::default());
    assert_eq!(filter.generate(&raw, &Default::default()).unwrap()[0].text, "kind");
    let broken: Check<'_> = Arc::new(|_: &str| Err("scripted failure".into()));
    let error = ResponseFilter::new(model, broken, FilterOptions::default()).generate(&raw, &Default::default()).unwrap_err();
    assert_eq!(error.to_string(), "defence filter: the check: scripted failure");
}
