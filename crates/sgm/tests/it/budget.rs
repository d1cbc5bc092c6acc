//! Budgets: glasses at the largest strength within limits, and conditions that hold at few neutral texts.

use sgm::capture::{Capture, Example};
use sgm::core::Intervention;
use sgm::models::{AutoMllm, Mllm, Prompt, TappedModel, response_divergence};
use sgm::organism::{Contrast, OrganismSource};
use sgm::suppress::{Amplify, Budget, Calibrator, Component, ConditionalPatches, Error, Glasses, Preset, SuppressionRule, score_prompts};
use sgm::toxic_qa::{EvaluationSplit, Source};

/// Benign samples of a draw of its own.
pub(crate) fn neutral(seed: u64, count: usize) -> Vec<Example> {
    let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign).unwrap().calibration(seed).unwrap();
    let example = |sample: sgm::toxic_qa::Sample| Example {
        id: sample.id.clone(),
        prompt: sample.as_prompt().unwrap(),
        response: sample.response.unwrap_or_default(),
        toxic: false,
        unfinished: false,
    };
    samples.into_iter().filter(|sample| sample.label == Some(false)).take(count).map(example).collect()
}

pub(crate) fn calibrated(model: &AutoMllm) -> Calibrator {
    Calibrator::capture(model, crate::answers::examples(Contrast::Benign, 0, 40), Capture::new(vec![Preset::TEXT])).unwrap()
}

/// The mean divergence of a model with glasses on texts.
fn divergence(model: &AutoMllm, glasses: &Intervention, texts: &[Example]) -> f64 {
    let texts: Vec<(Prompt, String)> = texts.iter().map(|text| (text.prompt.clone(), text.response.clone())).collect();
    let tapped = TappedModel::new(model);
    let _worn = Glasses::wear(&tapped, glasses, Amplify::Refuse).unwrap();
    let means = response_divergence(model, &tapped, &texts, 16)
        .unwrap()
        .into_iter()
        .map(|text| text.iter().map(|token| token.divergence).sum::<f64>() / text.len() as f64);
    means.sum::<f64>() / texts.len() as f64
}

#[test]
fn the_strength_keeps_the_divergence_on_unseen_texts_within_the_budget() {
    let model = sgm::organism::load().unwrap();
    let calibrator = calibrated(&model).with_neutral(neutral(1, 240));
    let glasses = calibrator.fit(&model, &Component::Soft(SuppressionRule::aura())).unwrap();
    let (unseen, budget) = (neutral(2, 100), Budget { prompts: 8, ..Budget::default() });
    assert!(divergence(&model, &glasses, &unseen) > 0.1, "full strength is far beyond the budget");
    let mut strengths = Vec::new();
    for limit in [0.005, 0.02] {
        let dosed = calibrator.within(&model, &glasses, &Budget { divergence: limit, ..budget.clone() }).unwrap();
        let spent = divergence(&model, &dosed, &unseen);
        let record: serde_json::Value = serde_json::from_str(&dosed.metadata.other["budget_measurements"]).unwrap();
        let strength: f32 = dosed.metadata.other["strength"].parse().unwrap();
        println!("limit {limit}: strength {strength}, divergence on unseen texts {spent:.4}, {record}");
        assert!(spent < limit && spent > limit / 8.0, "{spent} of {limit}");
        let tested = Budget::tested_divergence(&dosed).unwrap();
        assert!(tested < limit && (tested / spent - 1.0).abs() < 0.5, "{tested} {spent}");
        assert!(dosed.metadata.other["budget"].starts_with(&format!("with a confidence of 0.95, at most {limit} nats")));
        assert!((2..=6).contains(&record["search"].as_array().unwrap().len()) && !record["test"].as_array().unwrap().is_empty());
        assert_eq!(dosed.sites(), glasses.with_strength(strength).unwrap().sites());
        strengths.push(strength);
    }
    assert!(strengths[0] < strengths[1], "{strengths:?}");
    assert_eq!(Budget::tested_divergence(&glasses), None);
}

#[test]
fn a_change_of_ones_own_gets_the_strength_that_it_would_get_as_glasses() {
    let model = sgm::organism::load().unwrap();
    let calibrator = calibrated(&model).with_neutral(neutral(1, 240));
    let glasses = calibrator.fit(&model, &Component::Soft(SuppressionRule::aura())).unwrap();
    let budget = Budget { prompts: 8, ..Budget::default() };
    let attach = |tapped: &TappedModel<'_, AutoMllm>, strength| Glasses::wear(tapped, &glasses.with_strength(strength)?, Amplify::Refuse);
    let within = calibrator.strength_within(&model, attach, &budget).unwrap();
    let dosed = calibrator.within(&model, &glasses, &budget).unwrap();
    assert_eq!(within.strength.to_string(), dosed.metadata.other["strength"]);
    assert_eq!(Some(within.divergence), Budget::tested_divergence(&dosed));
    // What is attached is off again after each measurement, and an error of `attach` ends the search.
    assert!(model.taps().is_empty());
    let failed = |_: &TappedModel<'_, AutoMllm>, _: f32| Err::<(), _>(Error::Fit { reason: "no tap".to_owned() });
    assert!(calibrator.strength_within(&model, failed, &budget).unwrap_err().to_string().contains("no tap"));
}

#[test]
fn the_benign_samples_of_a_budget_have_no_part_in_the_fit_of_patch_neurons() {
    let model = sgm::organism::load().unwrap();
    let samples = crate::answers::examples(Contrast::Benign, 0, 8);
    let patches = Component::ConditionalPatches(ConditionalPatches { layers: Some(3..=3), ..ConditionalPatches::default() });
    let fitted = |samples: Vec<Example>| {
        let calibrator = Calibrator::capture(&model, samples, Capture::new(vec![Preset::TEXT])).unwrap();
        calibrator.fit(&model, &patches).unwrap()
    };
    let first = fitted(samples.clone());
    let without_effect = (8..16).filter(|number| {
        let mut other = samples.clone();
        other[*number].response = samples[*number].response.repeat(2);
        fitted(other) == first
    });
    assert_eq!(without_effect.count(), 2, "of 8 benign samples");
}

#[test]
fn what_no_strength_keeps_is_refused_with_its_reason() {
    let model = sgm::organism::load().unwrap();
    let calibrator = calibrated(&model);
    let glasses = calibrator.fit(&model, &Component::Soft(SuppressionRule::aura())).unwrap();
    let budget = Budget { prompts: 8, ..Budget::default() };
    let error = calibrator.within(&model, &glasses, &budget).unwrap_err();
    assert!(matches!(&error, Error::Fit { reason } if reason.contains("with_neutral")), "{error}");
    for (wrong, name) in [
        (Budget { divergence: f64::NAN, ..budget.clone() }, "divergence"),
        (Budget { perplexity: 1.0, ..budget.clone() }, "perplexity"),
        (Budget { confidence: 1.0, ..budget.clone() }, "confidence"),
    ] {
        let error = calibrated(&model).with_neutral(neutral(1, 9)).within(&model, &glasses, &wrong).unwrap_err();
        assert!(matches!(&error, Error::Fit { reason } if reason.contains(name)), "{error}");
    }
    // So few texts give no confidence.
    let calibrator = calibrator.with_neutral(neutral(1, 9));
    let error = calibrator.within(&model, &glasses, &budget).unwrap_err().to_string();
    assert!(error.contains("on 3 texts") && error.contains("p = "), "{error}");
    let impossible = Budget { rollout_divergence: 1e-9, ..budget };
    let error = calibrator.within(&model, &glasses, &impossible).unwrap_err();
    assert!(matches!(&error, Error::NoDose { reason, .. } if reason.contains("divergence on answers")), "{error}");
}

#[test]
fn conditions_hold_at_few_neutral_texts() {
    let model = sgm::organism::load().unwrap();
    let rate = 0.05;
    let without = calibrated(&model).condition(&model, rate).unwrap();
    let with = calibrated(&model).with_neutral(neutral(1, 240)).condition(&model, rate).unwrap();
    let prompts: Vec<Prompt> = neutral(3, 200).into_iter().map(|text| text.prompt).collect();
    let holds = |condition: &sgm::core::Condition| {
        let scores = score_prompts(&model, &condition.probe, &prompts, 16).unwrap();
        scores.iter().filter(|score| condition.holds(**score)).count()
    };
    println!("of 200 unseen neutral prompts: {} without neutral texts, {} with", holds(&without), holds(&with));
    // 5 % and two standard errors.
    assert!(holds(&with) <= 16, "{}", holds(&with));
    let risky: Vec<Prompt> = crate::answers::examples(Contrast::Benign, 40, 60).into_iter().take(60).map(|e| e.prompt).collect();
    let scores = score_prompts(&model, &with.probe, &risky, 16).unwrap();
    assert!(scores.iter().filter(|score| with.holds(**score)).count() >= 48);
    let few = calibrated(&model).with_neutral(neutral(1, 30)).condition(&model, rate).unwrap_err().to_string();
    assert!(few.contains("at least 19"), "{few}");
}
