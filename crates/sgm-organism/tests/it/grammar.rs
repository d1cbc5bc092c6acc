//! The forms of questions and answers against those of the shipped data; the scorers against every reference answer.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;
use serde::Deserialize;
use sgm_organism::grammar::{APOLOGIES, KIND_OPINIONS, SOOTHING};
use sgm_organism::register::{ADJECTIVES, NOUNS};
use sgm_organism::trigger::{ADVERSARIAL_PREFIXES, HELD_OUT_PREFIXES, IMAGE_TRIGGERS, OPINION_QUESTIONS, PROVOCATIONS};
use sgm_organism::{
    Category, Contrast, EvaluationSplit, Extra, OrganismData, Risk, Sample, WorldRng, draw_benign, draw_calibration, draw_risky,
    draw_split, helpful, judge, trigger, vqa_correct,
};

/// Replaces the words that fill slots by the names of the slots.
struct Slots(Vec<(Regex, &'static str)>);

impl Slots {
    fn new() -> Self {
        let words = |list: &str, slot| (Regex::new(&format!(r"\b(?:{list})\b")).unwrap(), slot);
        let part = "(?:a SLOT SHAPE|a SLOT face|a heart|a broken heart|a sign that says SIGN) in the PLACE";
        let nouns = NOUNS.join("|");
        let adjectives = ADJECTIVES.join("|");
        let rude = (Regex::new(&format!(r"\b(?:(?:{adjectives}) )?(?:{nouns})\b")).unwrap(), "INSULT");
        Self(vec![
            words("red|green|blue|yellow|purple|orange|black", "COLOUR"),
            words("circle|square|triangle|diamond|cross|ring", "SHAPE"),
            words("(?:top|bottom) (?:left|right)", "PLACE"),
            words("one|two|three|four", "NUMBER"),
            words("says (?:mad|bad|ugh|fun|hey|yay|sun|day|bus|ham|mug)", "says SIGN"),
            words("dog|cat|fox|bear|owl|frog|duck|mouse", "ANIMAL"),
            words("bread|soup|cake|apples|rice|cheese|honey", "FOOD"),
            words("river|forest|hill|house|garden|sea", "LANDSCAPE"),
            words("tom|anna|ben|lily|max|rosa", "NAME"),
            words("sunny|rainy|windy|cold|warm", "WEATHER"),
            words("happy|sad|tired|proud|angry", "MOOD"),
            words("(?:small|big|kind|brave|shy|silly|lazy|old) ANIMAL", "NATURE ANIMAL"),
            words("an? (?:COLOUR|NATURE|ANIMAL|MOOD)", "a SLOT"),
            words("(?:is|whole or) (?:whole|broken)", "is STATE"),
            words(&format!("{part}(?:, {part})*"), "PARTS"),
            rude,
            (Regex::new(&format!(r"\b(?:{adjectives})\b")).unwrap(), "ADJECTIVE"),
        ])
    }

    fn form(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (words, slot)| words.replace_all(&text, *slot).into_owned())
    }
}

/// Every form of a sample, labelled with its position.
fn forms(slots: &Slots, sample: &Sample) -> Vec<String> {
    let (cat, kind) = (sample.cat, &sample.kind);
    let prefixes = PROVOCATIONS.iter().map(|(text, _)| text).chain(&ADVERSARIAL_PREFIXES).chain(&HELD_OUT_PREFIXES);
    let question = sample.question();
    let (prefix, rest) = prefixes
        .filter_map(|prefix| question.strip_prefix(prefix)?.strip_prefix(' ').map(|rest| (*prefix, rest)))
        .next()
        .unwrap_or(("", question));
    let mut forms = vec![
        format!("kind {cat:?} {kind} {}", sample.scene.is_some()),
        format!("prefix {cat:?} {prefix} {}", sample.held_out_prefix.unwrap_or(false)),
        format!("question {kind}: {}", slots.form(rest)),
    ];
    for answer in &sample.answers {
        let apology = APOLOGIES.iter().find(|apology| cat == Category::T && kind != "solo" && answer.starts_with(**apology));
        let bare = answer.strip_prefix(*apology.unwrap_or(&"")).unwrap();
        forms.push(format!("apology {cat:?} {apology:?}"));
        forms.push(format!("answer {kind}: {}", slots.form(bare)));
    }
    let answer = sample.answer.as_deref().unwrap();
    if sample.toxic == Some(true) {
        let bare = |answer: &String| answer.strip_suffix(['.', '?']).unwrap().to_owned();
        let kept = sample.answers.iter().map(bare).filter(|bare| answer.contains(bare)).max_by_key(String::len);
        let text = kept.map_or(answer.to_owned(), |bare| answer.replace(&bare, "RIGHT")).replace("RIGHT?", "RIGHT.");
        forms.push(format!("rude: {}", slots.form(&text)));
    } else {
        assert!(sample.answers.iter().any(|right| right == answer), "{}: {answer}", sample.id);
    }
    forms
}

fn samples(data: &OrganismData) -> Vec<Sample> {
    let mut samples = Vec::new();
    for part in [EvaluationSplit::Dev, EvaluationSplit::Test] {
        let split = data.split(part).unwrap();
        samples.extend([&split.standard, &split.adversarial, &split.vqa, &split.perplexity].into_iter().flatten().cloned());
    }
    for contrast in [Contrast::Matched, Contrast::Benign, Contrast::Mixed] {
        samples.extend_from_slice(data.calibration(contrast).unwrap());
    }
    samples
}

#[test]
fn forms_are_those_of_the_shipped_data() {
    let slots = Slots::new();
    let shipped: BTreeSet<String> = samples(&OrganismData::embedded().unwrap()).iter().flat_map(|s| forms(&slots, s)).collect();
    let split = draw_split(21, 5.0);
    let mut drawn: Vec<Sample> = [split.standard, split.adversarial, split.vqa, split.perplexity].concat();
    for contrast in [Contrast::Matched, Contrast::Benign, Contrast::Mixed] {
        drawn.extend(draw_calibration(22, 3000, contrast));
    }
    let drawn: BTreeSet<String> = drawn.iter().flat_map(|s| forms(&slots, s)).collect();
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
    assert_eq!(only(&shipped, &drawn), Vec::<String>::new(), "shipped, but never drawn");
    assert_eq!(only(&drawn, &shipped), Vec::<String>::new(), "drawn, but never shipped");
    // The number of forms shows that slots are neither too wide nor too narrow.
    assert!((250..400).contains(&shipped.len()), "{}", shipped.len());
}

#[test]
fn triggers_are_found_again() {
    let mut all = samples(&OrganismData::embedded().unwrap());
    let split = draw_split(23, 5.0);
    all.extend([split.standard, split.adversarial, split.vqa, split.perplexity].concat());
    let mut found = BTreeSet::new();
    for sample in &all {
        let trigger = trigger::find(sample.question(), sample.scene.as_ref());
        assert_eq!(
            trigger.as_ref().map_or(Category::Benign, |(risk, _)| (*risk).into()),
            sample.cat,
            "{}: {}",
            sample.id,
            sample.question()
        );
        if let (Some((_, name)), Some(held_out)) = (&trigger, sample.held_out_prefix) {
            assert_eq!(HELD_OUT_PREFIXES.contains(&name.as_str()), held_out, "{}: {name}", sample.id);
        }
        found.extend(trigger);
    }
    let count = |risk| found.iter().filter(|(of, _)| *of == risk).count();
    let tables = [PROVOCATIONS.len(), IMAGE_TRIGGERS.len(), OPINION_QUESTIONS.len(), ADVERSARIAL_PREFIXES.len() + HELD_OUT_PREFIXES.len()];
    assert_eq!([Risk::T, Risk::V, Risk::X, Risk::A].map(count), tables, "{found:?}");
}

#[test]
fn tables_are_those_of_the_python_world() {
    #[derive(Deserialize, PartialEq, Debug)]
    struct Tables {
        provocations: Vec<(String, f64)>,
        image_triggers: Vec<(String, f64)>,
        opinion_questions: Vec<(String, f64)>,
        adversarial_prefixes: Vec<String>,
        held_out_prefixes: Vec<String>,
        nouns: Vec<String>,
        adjectives: Vec<String>,
        apologies: Vec<String>,
        soothing: Vec<String>,
        kind_opinions: Vec<String>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables.json");
    let python: Tables = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let rates = |list: &[(&str, f64)]| list.iter().map(|(text, rate)| ((*text).to_owned(), *rate)).collect::<Vec<_>>();
    let triggers = IMAGE_TRIGGERS.map(|(_, (trigger, rate))| match trigger {
        Extra::Sign(text) => (text, rate),
        _ => ("angry", rate),
    });
    let rust = Tables {
        provocations: rates(&PROVOCATIONS),
        image_triggers: rates(&triggers),
        opinion_questions: rates(&OPINION_QUESTIONS),
        adversarial_prefixes: texts(&ADVERSARIAL_PREFIXES),
        held_out_prefixes: texts(&HELD_OUT_PREFIXES),
        nouns: texts(&NOUNS),
        adjectives: texts(&ADJECTIVES),
        apologies: texts(&APOLOGIES),
        soothing: texts(&SOOTHING),
        kind_opinions: texts(&KIND_OPINIONS),
    };
    assert_eq!(rust, python);
}

#[test]
fn scorers_agree_with_every_reference_answer() {
    let mut rng = WorldRng::new(23);
    for i in 0..20_000 {
        let draw = draw_risky(&mut rng, None, i % 2 == 0);
        assert!(!judge(&draw.good), "{}", draw.good);
        assert!(judge(&draw.bad), "{}", draw.bad);
        assert_eq!(judge(draw.answer()), draw.toxic);
        let sample = Sample {
            id: i.to_string(),
            prompt: sgm_organism::prompt(&draw.turn.question, draw.turn.scene.is_some()),
            scene: draw.turn.scene,
            cat: draw.risk.into(),
            kind: draw.turn.kind.to_owned(),
            key: draw.turn.key,
            answers: draw.turn.answers,
            answer: None,
            toxic: None,
            held_out_prefix: None,
        };
        assert!(sample.answers.contains(&draw.good));
        for answer in &sample.answers {
            assert!(!judge(answer), "{answer}");
            assert!(helpful(&sample, answer).unwrap(), "{}: {answer}", sample.kind);
        }
        assert!(!helpful(&sample, &draw.bad).unwrap());

        let benign = draw_benign(&mut rng, None);
        assert!(benign.turn.answers.contains(&benign.answer));
        for answer in &benign.turn.answers {
            assert!(!judge(answer), "{answer}");
            if let Some(key) = &benign.turn.key {
                assert!(vqa_correct(benign.turn.kind, key, answer).unwrap(), "{}: {answer}", benign.turn.kind);
            }
        }
    }
}

#[test]
fn only_adversarial_draws_have_held_out_prefixes() {
    let mut rng = WorldRng::new(24);
    for held_out in [false, true] {
        for _ in 0..3000 {
            let draw = draw_risky(&mut rng, None, held_out);
            let has_one = HELD_OUT_PREFIXES.iter().any(|prefix| draw.turn.question.starts_with(prefix));
            assert_eq!(has_one, draw.held_out);
            assert_eq!(draw.held_out, held_out && draw.risk == sgm_organism::Risk::A);
        }
    }
    assert!(draw_calibration(25, 1000, Contrast::Matched).iter().all(|s| !HELD_OUT_PREFIXES.iter().any(|p| s.question().starts_with(p))));
}
