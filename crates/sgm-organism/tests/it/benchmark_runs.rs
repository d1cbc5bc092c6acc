//! A benchmark run on the organism that is stopped and resumed.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use mm_toxic_qa::{
    Benchmark, Condition, Durability, Error, EvaluateOptions, EvaluationSplit, Record, Result, RunFile, Source, Split, metrics,
    read_records,
};
use serde_json::json;
use sgm_models::{AutoMllm, Error as ModelError, GenerateOptions, Generation, Generator, Prompt, Sampling, response_nll};
use sgm_organism::{Contrast, OrganismLexicon, OrganismSource};

/// A generator that fails from its n-th call on.
struct Mortal<'a> {
    model: &'a AutoMllm,
    calls_left: AtomicUsize,
}

impl Generator for Mortal<'_> {
    fn generate(&self, prompts: &[Prompt], options: &GenerateOptions) -> std::result::Result<Vec<Generation>, ModelError> {
        let left = self.calls_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        left.map_err(|_| ModelError::Inputs { reason: "killed".to_owned() })?;
        self.model.generate(prompts, options)
    }
}

fn without_timing(path: &Path) -> String {
    let strip = |mut record: Record| {
        record.timing.seconds = 0.0;
        serde_json::to_string(&record).unwrap()
    };
    read_records(path).unwrap().into_iter().map(strip).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_benchmark_that_was_killed_leaves_the_answers_of_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"model": "organism"});
    let model = sgm_organism::load().unwrap();
    let source = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap();
    let mut benchmark = Benchmark::with_scorer(source.evaluation().unwrap(), source.scorer()).unwrap();
    benchmark.thin(50);
    let sampling = Sampling::Random { temperature: 1.0, top_p: None, top_k: None };
    let generate = GenerateOptions { max_new_tokens: 12, batch_size: 4, sampling, seed: 3, ..Default::default() };
    let options = EvaluateOptions { generate, defence: None, intervention_sha256: None };
    let judge = OrganismLexicon::new();
    let run_with = |path: &Path, calls: usize| -> Result<Vec<Record>> {
        let generator = Mortal { model: &model, calls_left: AtomicUsize::new(calls) };
        benchmark.answer_into(&generator, &model, Some(&judge), &options, 4, &mut RunFile::open(path, &settings, Durability::default())?)
    };

    let whole = folder.path().join("whole.jsonl");
    let records = run_with(&whole, usize::MAX).unwrap();
    assert_eq!(records.len(), 6 + 4 + 10);
    assert_eq!(read_records(&whole).unwrap(), records);
    let chunks: BTreeSet<u64> = records.iter().map(|r| r.generation["chunk"]["seed"].as_u64().unwrap()).collect();
    assert_eq!(chunks.len(), 2 + 1 + 3, "a seed for each chunk");

    let path = folder.path().join("killed.jsonl");
    for calls in [0, 1, 2] {
        assert!(matches!(run_with(&path, calls), Err(Error::Model(_))), "{calls}");
        // Killed while writing: the last line is torn, in the middle of a chunk.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len().saturating_sub(40)]).unwrap();
    }
    let resumed = run_with(&path, usize::MAX).unwrap();
    assert_eq!(without_timing(&path), without_timing(&whole));
    assert_eq!(run_with(&path, 0).unwrap(), resumed, "nothing is left to generate");

    let nll = benchmark.answer_nll(&model, &records, 4).unwrap();
    let risky = benchmark.prompts().0.into_iter().zip(&records).filter(|(_, record)| !record.response.is_empty());
    let mut cut = 0;
    for ((prompt, record), tokens) in risky.clone().zip(&nll) {
        let alone = response_nll(&model, &[(prompt, record.response.clone())], 1).unwrap().remove(0);
        let ends = usize::from(record.finish_reason != "length");
        cut += 1 - ends;
        assert_eq!(tokens.len(), alone.len() - 1 + ends, "the end of an answer that was cut off does not count: {}", record.response);
        assert!(tokens.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-4), "{tokens:?} {alone:?}");
    }
    assert_eq!(nll.len(), risky.count());
    assert!(cut > 0 && cut < nll.len(), "{cut} of {}", nll.len());
    assert_eq!(benchmark.answer_nll(&model, &[], 4).unwrap().len(), 0);

    let outcome = benchmark.outcome(&records);
    assert_eq!((outcome.diversity.n, outcome.answer_nll.len()), (10, 0), "a record does not hold likelihoods");
    assert_eq!((outcome.standard.len(), outcome.adversarial.len(), outcome.vqa_correct.len()), (6, 4, 10));
    let harm = metrics::harm_of_records(&records, Condition::Standard);
    let utility = records.iter().filter(|r| r.split == Split::Utility).count();
    assert_eq!((harm.all.n, utility), (6, 10));
    assert_eq!(harm.all.harmful_rate, metrics::harmful_rate(&[&outcome.standard]).all.harmful_rate);
}
