//! Presets whose glasses are reinforced where they leave toxic answers.

use crate::budget::{calibrated, neutral};
use sgm::core::Intervention;
use sgm::models::AutoMllm;
use sgm::suppress::{Budget, Calibrator, CausalExperts, Component, DoseSearch, Error, Preset, SuppressionRule};

fn judged(model: &AutoMllm) -> Calibrator {
    let judge = |answer: &sgm::capture::Example| Some(sgm::organism::judge(&answer.response));
    calibrated(model).with_neutral(neutral(1, 150)).with_judge(move |answers| Ok(answers.iter().map(judge).collect()))
}

fn quick() -> Budget {
    Budget { texts: 25, prompts: 80, search: DoseSearch { evaluations: 3, ..DoseSearch::default() }, ..Budget::default() }
}

/// Suppression of so few neurons that it changes little.
fn weak(reinforcement: Component) -> Preset {
    let components = vec![(Component::Soft(SuppressionRule::damp(0.9, 3)), 1.0)];
    Preset { components, reinforcement: vec![(reinforcement, 1.0)], false_positive_rate: None }
}

/// The number of toxic answers without and with a reinforcement, from the metadata.
fn recorded(glasses: &Intervention) -> Vec<usize> {
    let numbers = glasses.metadata.other["toxic_answers"].split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    let numbers: Vec<usize> = numbers.map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers[1], 80, "answers");
    numbers.into_iter().enumerate().filter(|(at, _)| [0, 2].contains(at)).map(|(_, number)| number).collect()
}

fn toxic(verdicts: &[Option<bool>]) -> usize {
    verdicts.iter().filter(|verdict| **verdict == Some(true)).count()
}

#[test]
fn toxic_answers_call_for_a_reinforcement_that_is_kept_if_it_helps() {
    let model = sgm::organism::load().unwrap();
    let (calibrator, budget) = (judged(&model), quick());
    let experts = Component::CausalExperts(CausalExperts::default());
    let within = |glasses: &Intervention| calibrator.within(&model, glasses, &budget).unwrap();
    let count = |glasses: &Intervention| toxic(&calibrator.toxic_answers(&model, glasses, &budget).unwrap());

    let without = within(&weak(experts.clone()).fit(&model, &calibrator).unwrap());
    let glasses = weak(experts.clone()).fit_within(&model, &calibrator, &budget).unwrap();
    println!("{}", glasses.metadata.other["toxic_answers"]);
    assert_eq!(recorded(&glasses), [count(&without), count(&glasses)]);
    assert!(count(&without) > 20 && 2 * count(&glasses) < count(&without));
    let parts = [&weak(experts.clone()).fit(&model, &calibrator).unwrap(), &calibrator.fit(&model, &experts).unwrap()];
    let both = within(&Intervention::blend(&parts.map(|part| (part, 1.0))).unwrap());
    assert_eq!((glasses.sites(), &glasses.metadata.other["strength"]), (both.sites(), &both.metadata.other["strength"]));

    // As weak: measured, and not kept.
    let useless = weak(Component::Soft(SuppressionRule::damp(0.99, 3))).fit_within(&model, &calibrator, &budget).unwrap();
    assert_eq!((useless.sites(), recorded(&useless).len()), (without.sites(), 2));
    // None to be had: left out.
    let impossible = Component::CausalExperts(CausalExperts { false_discovery_rate: 1e-300, ..CausalExperts::default() });
    let alone = weak(impossible).fit_within(&model, &calibrator, &budget).unwrap();
    assert_eq!((alone.sites(), recorded(&alone)), (without.sites(), vec![count(&without)]));
    // Other errors are errors.
    let wrong = Component::CausalExperts(CausalExperts { change: f64::NAN, ..CausalExperts::default() });
    assert!(matches!(weak(wrong).fit_within(&model, &calibrator, &budget), Err(Error::Fit { reason }) if reason.contains("change")));
}

#[test]
fn without_toxic_answers_none_is_tried() {
    let model = sgm::organism::load().unwrap();
    let budget = quick();
    // This would be refused if it were fitted.
    let preset = weak(Component::CausalExperts(CausalExperts { change: f64::NAN, ..CausalExperts::default() }));
    // Answers without a verdict do not count.
    let verdict = |number: usize| number.is_multiple_of(2).then_some(number < 8);
    let four = judged(&model).with_judge(move |answers| Ok((0..answers.len()).map(verdict).collect()));
    let glasses = preset.fit_within(&model, &four, &budget).unwrap();
    assert_eq!(recorded(&glasses), [4]);
    assert_eq!(glasses.sites(), four.within(&model, &preset.fit(&model, &four).unwrap(), &budget).unwrap().sites());
    let five = judged(&model).with_judge(|answers| Ok((0..answers.len()).map(|number| Some(number < 5)).collect()));
    assert!(matches!(preset.fit_within(&model, &five, &budget), Err(Error::Fit { reason }) if reason.contains("change")));
    // No judge, no verdicts.
    let unjudged = calibrated(&model).with_neutral(neutral(1, 150));
    let error = preset.fit_within(&model, &unjudged, &budget).unwrap_err();
    assert!(matches!(&error, Error::Fit { reason } if reason.contains("with_judge")), "{error}");
}
