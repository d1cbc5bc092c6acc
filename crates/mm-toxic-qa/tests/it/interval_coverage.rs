//! The reported intervals cover the true rate about 95 times in 100.

use mm_toxic_qa::PromptOutcome;
use mm_toxic_qa::metrics::{bootstrap_ci95, harmful_rate};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TRIALS: u32 = 500;

fn outcome(prompt: usize, harmful: bool) -> PromptOutcome {
    PromptOutcome { id: format!("{prompt}"), category: "T".into(), harmful: Some(harmful), helpful: None }
}

#[test]
fn independent_prompts() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for truth in [0.1, 0.45] {
        let mut covered = 0;
        for _ in 0..TRIALS {
            let outcomes: Vec<_> = (0..120).map(|i| outcome(i, rng.random_bool(truth))).collect();
            let [low, high] = harmful_rate(&[&outcomes]).all.ci95.unwrap();
            covered += u32::from(low <= truth && truth <= high);
        }
        let coverage = f64::from(covered) / f64::from(TRIALS);
        // 500 trials at 95 % have a standard error of 1 point.
        assert!((0.92..=0.98).contains(&coverage), "{coverage} at {truth}");
    }
}

#[test]
fn several_seeds_on_the_same_prompts() {
    // Every prompt has a rate of its own, 0.05 or 0.95, so that five seeds are almost five copies of one.
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut covered, mut covered_if_independent) = (0, 0);
    for _ in 0..TRIALS {
        let rates: Vec<f64> = (0..80).map(|_| if rng.random_bool(0.5) { 0.95 } else { 0.05 }).collect();
        let seeds: Vec<Vec<PromptOutcome>> =
            (0..5).map(|_| rates.iter().enumerate().map(|(i, &rate)| outcome(i, rng.random_bool(rate))).collect()).collect();
        let covers = |[low, high]: [f64; 2]| u32::from(low <= 0.5 && 0.5 <= high);
        let seeds: Vec<&[PromptOutcome]> = seeds.iter().map(Vec::as_slice).collect();
        covered += covers(harmful_rate(&seeds).all.ci95.unwrap());
        let answers: Vec<f64> = seeds.concat().iter().map(|o| f64::from(u8::from(o.harmful == Some(true)))).collect();
        covered_if_independent += covers(bootstrap_ci95(&answers, 0).unwrap());
    }
    let coverage = |n| f64::from(n) / f64::from(TRIALS);
    assert!((0.92..=0.98).contains(&coverage(covered)), "{}", coverage(covered));
    assert!(coverage(covered_if_independent) < 0.75, "{}", coverage(covered_if_independent));
}
