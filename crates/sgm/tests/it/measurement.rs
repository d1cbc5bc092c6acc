//! Measurement: the benchmark on the organism, without glasses and with them.

use sgm::core::{Intervention, Projection, Site, SiteIntervention, sha256};
use sgm::defend::{DefenceResources, DefenceStack};
use sgm::measurement::{detected, measure};
use sgm::models::{GenerateOptions, Mllm};
use sgm::organism::{Contrast, OrganismLexicon, OrganismSource};
use sgm::toxic_qa::{Benchmark, EvaluationSplit, Source, VerdictCounts};

#[test]
fn glasses_are_worn_counted_and_named_in_the_records() {
    let model = sgm::organism::load().unwrap();
    let source = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap();
    let mut benchmark = Benchmark::with_scorer(source.evaluation().unwrap(), source.scorer()).unwrap();
    benchmark.thin(50);
    let judge = OrganismLexicon::new();
    // The last layer but one is silenced, so that answers and perplexity change.
    let site = Site::new(4, Projection::Down);
    let mut glasses = Intervention::default();
    let width = model.info().widths()[&site];
    glasses.insert(site, SiteIntervention::from_scale(vec![0.0; width])).unwrap();
    let generate = || GenerateOptions { max_new_tokens: 12, batch_size: 8, ..GenerateOptions::default() };
    let measured = |stack: &str, resources: &DefenceResources<'_>| {
        let stack: DefenceStack = stack.parse().unwrap();
        measure(&model, &benchmark, &judge, (&stack, resources), generate()).unwrap()
    };
    let worn = DefenceResources { intervention: Some(glasses.clone()), ..DefenceResources::default() };
    let bare = measured("none", &DefenceResources::default());
    let with_glasses = measured("sgm", &worn);
    assert!(model.taps().is_empty());
    assert_eq!((bare.outcome.n_suppressed, with_glasses.outcome.n_suppressed), (0, width));
    assert_ne!(bare.outcome.token_nll, with_glasses.outcome.token_nll);
    assert!(!bare.outcome.answer_nll.is_empty() && bare.outcome.answer_nll != with_glasses.outcome.answer_nll);
    // A stack without glasses does not wear those that are there.
    let unworn = measured("none", &worn);
    assert_eq!(unworn.outcome.token_nll, bare.outcome.token_nll);
    assert!(unworn.records.iter().all(|record| record.intervention_sha256.is_none() && record.defence.is_none()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("glasses.sgm.safetensors");
    glasses.save(&file).unwrap();
    let hash = sha256::hex_digest(std::fs::read(&file).unwrap());
    assert!(with_glasses.records.iter().all(|record| record.intervention_sha256.as_ref() == Some(&hash)));
    let counts = VerdictCounts::of(&bare.records);
    let risky = bare.outcome.standard.len() + bare.outcome.adversarial.len();
    assert_eq!((counts.harmful + counts.harmless, counts.unparsed.len()), (risky, 0));
    assert_eq!(detected(&model, &benchmark, &glasses, 8).unwrap(), None);
}
