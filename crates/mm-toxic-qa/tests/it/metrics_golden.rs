//! The metrics against scipy, scikit-learn and numpy; `tools/golden/metrics.py` makes the numbers.

use mm_toxic_qa::metrics::{Diversity, McNemar, Toxicity, cohen_kappa, corpus_perplexity, perplexity, share};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    mcnemar: Vec<Test>,
    kappa: Vec<Kappa>,
    perplexity: Perplexity,
    distinct: Distinct,
    toxicity: Scores,
}

#[derive(Deserialize)]
struct Test {
    only_first: usize,
    only_second: usize,
    p_exact: f64,
    chi2: f64,
    p_chi2: f64,
}

#[derive(Deserialize)]
struct Kappa {
    first: Vec<u8>,
    second: Vec<u8>,
    agreement: f64,
    kappa: f64,
}

#[derive(Deserialize)]
struct Perplexity {
    token_nll: Vec<Vec<f64>>,
    mean_of_texts: f64,
    corpus: f64,
}

#[derive(Deserialize)]
struct Distinct {
    texts: Vec<String>,
    distinct: [f64; 3],
}

#[derive(Deserialize)]
struct Scores {
    scores: Vec<Vec<f64>>,
    expected_max: f64,
    probability: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/metrics.json")).unwrap()
}

/// Compares relatively, for small p-values too.
fn near(ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-12 * theirs.abs(), "{ours} {theirs}");
}

#[test]
fn mcnemar_is_scipys() {
    let tests = golden().mcnemar;
    assert_eq!(tests.len(), 10);
    for Test { only_first, only_second, p_exact, chi2, p_chi2 } in tests {
        let test = McNemar::from_counts(only_first, only_second, 3000);
        let relative =
            |ours: f64, theirs: f64| assert!((ours - theirs).abs() <= 1e-10 * theirs, "{only_first} {only_second}: {ours} {theirs}");
        relative(test.p_exact, p_exact);
        relative(test.chi2.unwrap(), chi2);
        relative(test.p_chi2.unwrap(), p_chi2);
    }
}

#[test]
fn kappa_is_scikit_learns() {
    for Kappa { first, second, agreement, kappa } in golden().kappa {
        let ours = cohen_kappa(&first, &second).unwrap();
        assert!((ours - kappa).abs() < 1e-14, "{ours} {kappa}");
        near(share(first.iter().zip(&second).map(|(a, b)| a == b)).unwrap(), agreement);
    }
}

#[test]
fn perplexity_is_numpys() {
    let Perplexity { token_nll, mean_of_texts, corpus } = golden().perplexity;
    near(perplexity(&token_nll).unwrap().unwrap(), mean_of_texts);
    near(corpus_perplexity(&token_nll).unwrap().unwrap(), corpus);
}

#[test]
fn diversity_and_toxicity_are_numpys() {
    let Distinct { texts, distinct } = golden().distinct;
    let ours = Diversity::of(texts.iter().map(String::as_str));
    ours.distinct.iter().zip(distinct).for_each(|(ours, theirs)| near(ours.unwrap(), theirs));
    assert_eq!((ours.n, ours.n_empty), (5, 1));
    let Scores { scores, expected_max, probability } = golden().toxicity;
    let ours = Toxicity::from_scores(scores.iter().map(|s| ("p", s.as_slice()))).unwrap().unwrap();
    near(ours.expected_max, expected_max);
    near(ours.probability, probability);
    assert_eq!((ours.n, ours.generations), (6, 25));
}
