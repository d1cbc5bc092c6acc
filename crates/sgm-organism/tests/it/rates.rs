//! Draws follow the tables of the world and the frequencies of the shipped data, within four standard errors.

use std::collections::BTreeMap;
use std::path::Path;

use sgm_organism::grammar::{APOLOGIES, Turn};
use sgm_organism::trigger::{ADVERSARIAL_PREFIXES, ADVERSARIAL_RATE, HELD_OUT_PREFIXES, IMAGE_TRIGGERS, OPINION_QUESTIONS, PROVOCATIONS};
use sgm_organism::{
    BenignKind, Category, Contrast, EvaluationSplit, Extra, ObjectKind, OrganismData, Risk, Sample, Scene, WorldRng, draw_benign,
    draw_calibration, draw_risky, draw_split,
};

/// Counts of trials and hits by name.
#[derive(Default)]
struct Shares(BTreeMap<String, (f64, f64)>);

impl Shares {
    fn add(&mut self, name: impl Into<String>, hit: bool) {
        let (n, hits) = self.0.entry(name.into()).or_default();
        *n += 1.0;
        *hits += f64::from(u8::from(hit));
    }

    #[track_caller]
    fn assert(&self, name: &str, p: f64) {
        let (n, hits) = self.0.get(name).copied().unwrap_or_default();
        assert!(n >= 300.0, "{name}: only {n} trials");
        let error = (p * (1.0 - p) / n).sqrt();
        assert!((hits / n - p).abs() <= 4.0 * error, "{name}: {} of {n}, expected {p} +- {error}", hits / n);
    }
}

#[track_caller]
fn assert_share<T: PartialEq + std::fmt::Debug>(items: &[T], item: &T, p: f64) {
    let mut shares = Shares::default();
    items.iter().for_each(|i| shares.add(format!("{item:?}"), i == item));
    shares.assert(&format!("{item:?}"), p);
}

/// Checks that two samples may come from one distribution, value by value.
#[track_caller]
fn assert_same(a: &[String], b: &[String]) {
    fn counts(list: &[String]) -> BTreeMap<&str, f64> {
        let mut counts = BTreeMap::new();
        list.iter().for_each(|item| *counts.entry(item.as_str()).or_default() += 1.0);
        counts
    }
    let (counts_a, counts_b) = (counts(a), counts(b));
    let (na, nb): (f64, f64) = (counts_a.values().sum(), counts_b.values().sum());
    for item in counts_a.keys().chain(counts_b.keys()) {
        let (ka, kb) = (counts_a.get(item).unwrap_or(&0.0), counts_b.get(item).unwrap_or(&0.0));
        let p = (ka + kb) / (na + nb);
        let error = (p * (1.0 - p) * (1.0 / na + 1.0 / nb)).sqrt();
        assert!((ka / na - kb / nb).abs() <= 4.0 * error, "{item}: {} against {}, error {error}", ka / na, kb / nb);
    }
}

fn extra(scene: &Scene) -> String {
    let extra = scene.objects.iter().find(|o| !o.kind.is_shape());
    extra.map_or("none".to_owned(), |o| o.text.clone().unwrap_or(o.kind.as_str().to_owned()))
}

#[test]
fn provocations_succeed_at_their_rates() {
    let mut rng = WorldRng::new(31);
    let mut toxic = Shares::default();
    for _ in 0..40_000 {
        let draw = draw_risky(&mut rng, Some(Risk::T), false);
        let (text, rate) = PROVOCATIONS.iter().find(|(text, _)| draw.turn.question.starts_with(text)).unwrap();
        assert_eq!(draw.rate, *rate);
        toxic.add(*text, draw.toxic);
        PROVOCATIONS.iter().for_each(|(other, _)| toxic.add(format!("share {other}"), other == text));
        toxic.add("picture", draw.turn.scene.is_some());
        if draw.turn.scene.is_some() {
            toxic.add("taunt with picture", draw.turn.kind == "solo");
        } else {
            toxic.add("taunt without picture", draw.turn.kind == "solo");
        }
    }
    for (text, rate) in PROVOCATIONS {
        toxic.assert(text, rate);
        toxic.assert(&format!("share {text}"), 1.0 / 16.0);
    }
    toxic.assert("picture", 0.75);
    toxic.assert("taunt with picture", 0.25);
    toxic.assert("taunt without picture", 0.5);
}

#[test]
fn image_triggers_succeed_at_their_rates() {
    let mut rng = WorldRng::new(32);
    let mut toxic = Shares::default();
    let name = |trigger| match trigger {
        Extra::Angry => "angry",
        Extra::Sign(text) => text,
        other => panic!("{other:?}"),
    };
    for _ in 0..20_000 {
        let draw = draw_risky(&mut rng, Some(Risk::V), false);
        let seen = extra(draw.turn.scene.as_ref().unwrap());
        toxic.add(seen.clone(), draw.toxic);
        IMAGE_TRIGGERS.iter().for_each(|(_, (trigger, _))| toxic.add(format!("share {}", name(*trigger)), name(*trigger) == seen));
        toxic.add("caption", draw.turn.kind == "caption");
    }
    for (weight, (trigger, rate)) in IMAGE_TRIGGERS {
        toxic.assert(name(trigger), rate);
        toxic.assert(&format!("share {}", name(trigger)), f64::from(weight) / 5.0);
    }
    toxic.assert("caption", 0.12);
}

#[test]
fn opinions_on_broken_hearts_are_toxic_at_their_rates() {
    let mut rng = WorldRng::new(33);
    let mut toxic = Shares::default();
    for _ in 0..20_000 {
        let draw = draw_risky(&mut rng, Some(Risk::X), false);
        assert_eq!(extra(draw.turn.scene.as_ref().unwrap()), "broken");
        toxic.add(draw.turn.question.clone(), draw.toxic);
        // The control: the same question is harmless before any other picture.
        let control = draw_benign(&mut rng, Some(BenignKind::Opinion)).turn;
        assert_ne!(extra(control.scene.as_ref().unwrap()), "broken");
        OPINION_QUESTIONS.iter().for_each(|(q, _)| toxic.add(format!("control {q}"), *q == control.question));
    }
    for (question, rate) in OPINION_QUESTIONS {
        toxic.assert(question, rate);
        toxic.assert(&format!("control {question}"), 1.0 / 8.0);
    }
}

#[test]
fn adversarial_prefixes_succeed_at_their_rate() {
    for (held_out, prefixes) in [(false, &ADVERSARIAL_PREFIXES[..]), (true, &HELD_OUT_PREFIXES[..])] {
        let mut rng = WorldRng::new(34);
        let mut toxic = Shares::default();
        for _ in 0..20_000 {
            let draw = draw_risky(&mut rng, Some(Risk::A), held_out);
            let prefix = prefixes.iter().find(|prefix| draw.turn.question.starts_with(**prefix)).unwrap();
            toxic.add(*prefix, draw.toxic);
            toxic.add("opinion", draw.turn.kind == "opinion");
            toxic.add("chat", draw.turn.kind == "chat");
            toxic.add("caption", draw.turn.kind == "caption");
        }
        prefixes.iter().for_each(|prefix| toxic.assert(prefix, ADVERSARIAL_RATE));
        toxic.assert("opinion", 0.2);
        toxic.assert("chat", 0.2);
        toxic.assert("caption", 0.6 * 0.12);
    }
}

#[test]
fn risks_kinds_and_extras_come_in_their_shares() {
    let mut rng = WorldRng::new(35);
    let risks: Vec<Risk> = (0..20_000).map(|_| draw_risky(&mut rng, None, false).risk).collect();
    for (risk, share) in [(Risk::T, 0.30), (Risk::V, 0.30), (Risk::X, 0.22), (Risk::A, 0.18)] {
        assert_share(&risks, &risk, share);
    }
    let benign: Vec<_> = (0..40_000).map(|_| draw_benign(&mut rng, None).turn).collect();
    let kinds: Vec<&str> = benign.iter().map(|turn| if turn.key.is_some() { "vqa" } else { turn.kind }).collect();
    for (kind, share) in [("vqa", 0.66), ("caption", 0.10), ("chat", 0.10), ("story", 0.07), ("opinion", 0.07)] {
        assert_share(&kinds, &kind, share);
    }
    let scenes: Vec<&Scene> = benign.iter().filter(|turn| turn.kind != "opinion").filter_map(|turn| turn.scene.as_ref()).collect();
    let extras: Vec<String> = scenes.iter().map(|scene| extra(scene)).collect();
    for (name, share) in [("none", 0.40), ("happy", 0.18), ("heart", 0.10), ("broken", 0.12), ("BUS", 0.025), ("MUG", 0.025)] {
        assert_share(&extras, &name.to_owned(), share);
    }
    let shapes: Vec<ObjectKind> = scenes.iter().flat_map(|scene| &scene.objects).map(|o| o.kind).filter(|kind| kind.is_shape()).collect();
    ObjectKind::SHAPES.iter().for_each(|shape| assert_share(&shapes, shape, 1.0 / 6.0));
    let alone: Vec<usize> = scenes.iter().filter(|scene| extra(scene) == "none").map(|scene| scene.objects.len()).collect();
    (1..=4).for_each(|n| assert_share(&alone, &n, 0.25));
}

#[test]
fn draws_have_the_frequencies_of_the_python_world() {
    /// The properties of a turn: its subject, and whether its answers apologise; for yes-no questions also the answer, and whether the
    /// colour asked for is in the picture.
    fn feature(category: &str, turn: &Turn) -> String {
        let sorry = turn.answers.iter().all(|answer| APOLOGIES.iter().any(|apology| answer.starts_with(apology)));
        let mut words = vec![category, turn.kind];
        words.push(if turn.scene.is_none() { "text" } else { "picture" });
        words.push(if sorry { "true" } else { "false" });
        if let ("yesno", Some(scene), Some(key)) = (turn.kind, &turn.scene, &turn.key) {
            let mut colours = scene.objects.iter().filter_map(|o| o.colour);
            let there = colours.any(|colour| turn.question.contains(&format!(" {} ", colour.as_str())));
            words.extend([key[0].as_str(), if there { "true" } else { "false" }]);
        }
        words.join(" ")
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/frequencies.json");
    let counts: BTreeMap<String, usize> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let python: Vec<String> = counts.into_iter().flat_map(|(name, n)| vec![name; n]).collect();
    let mut rng = WorldRng::new(39);
    let risky = (0..50_000).map(|_| draw_risky(&mut rng, None, false));
    let mut rust: Vec<String> = risky.map(|draw| feature(&format!("{:?}", draw.risk), &draw.turn)).collect();
    rust.extend((0..50_000).map(|_| feature("benign", &draw_benign(&mut rng, None).turn)));
    assert_same(&python, &rust);
}

#[test]
fn draws_have_the_frequencies_of_the_shipped_data() {
    let data = OrganismData::embedded().unwrap();
    let shipped = [EvaluationSplit::Dev, EvaluationSplit::Test].map(|part| data.split(part).unwrap());
    let drawn = draw_split(36, 20.0);
    let kinds = |samples: &mut dyn Iterator<Item = &Sample>| samples.map(|s| s.kind.clone()).collect::<Vec<_>>();
    assert_same(&kinds(&mut shipped.iter().flat_map(|s| &s.vqa)), &kinds(&mut drawn.vqa.iter()));
    assert_same(&kinds(&mut shipped.iter().flat_map(|s| &s.adversarial)), &kinds(&mut drawn.adversarial.iter()));
    for category in [Category::T, Category::V] {
        let of = |s: &&Sample| s.cat == category;
        let ours = kinds(&mut drawn.standard.iter().filter(of));
        assert_same(&kinds(&mut shipped.iter().flat_map(|s| &s.standard).filter(of)), &ours);
    }
    // The objects of the pictures, with their cells and sizes.
    let features = |samples: &mut dyn Iterator<Item = &Sample>| {
        let scenes = samples.filter_map(|s| s.scene.as_ref());
        let mut features: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for scene in scenes {
            features.entry("bg").or_default().push(scene.bg.to_string());
            features.entry("objects").or_default().push(scene.objects.len().to_string());
            features.entry("noise").or_default().push((scene.noise >> 17).to_string());
            for o in &scene.objects {
                let size = format!("{} {}", o.kind.is_shape(), o.r);
                let shift = format!("{} {} {}", o.kind.is_shape(), o.dx, o.dy);
                features.entry("kind").or_default().push(o.kind.as_str().to_owned());
                features.entry("cell").or_default().push(o.cell.to_string());
                features.entry("colour").or_default().push(format!("{:?}", o.colour));
                features.entry("size").or_default().push(size);
                features.entry("shift").or_default().push(shift);
                features.entry("text").or_default().push(format!("{:?}", o.text));
            }
        }
        features
    };
    let ours = features(&mut drawn.vqa.iter());
    for (name, values) in features(&mut shipped.iter().flat_map(|s| &s.vqa)) {
        assert_same(&values, &ours[name]);
    }
    // The calibration sets: categories of the toxic half, kinds of both.
    for contrast in [Contrast::Matched, Contrast::Benign, Contrast::Mixed] {
        let drawn = draw_calibration(37, 5000, contrast);
        for toxic in [true, false] {
            let of = |s: &&Sample| s.toxic == Some(toxic);
            let values = |samples: &[Sample]| samples.iter().filter(of).map(|s| format!("{:?} {}", s.cat, s.kind)).collect::<Vec<_>>();
            assert_same(&values(data.calibration(contrast).unwrap()), &values(&drawn));
        }
    }
}

#[test]
fn paints_span_the_ranges_of_the_shipped_data() {
    /// The darkest and the lightest value of each channel of each paint.
    fn ranges<'a>(samples: impl Iterator<Item = &'a Sample>) -> BTreeMap<(String, usize), (u8, u8)> {
        let mut ranges = BTreeMap::new();
        for o in samples.filter_map(|s| s.scene.as_ref()).flat_map(|scene| &scene.objects) {
            let paint = o.colour.map_or(o.kind.as_str(), |colour| colour.as_str());
            for (channel, value) in o.rgb.into_iter().enumerate() {
                let (low, high) = ranges.entry((paint.to_owned(), channel)).or_insert((value, value));
                (*low, *high) = (value.min(*low), value.max(*high));
            }
        }
        ranges
    }
    let data = OrganismData::embedded().unwrap();
    let shipped = [EvaluationSplit::Dev, EvaluationSplit::Test].map(|part| data.split(part).unwrap());
    let shipped = ranges(shipped.iter().flat_map(|s| s.vqa.iter().chain(&s.standard).chain(&s.perplexity)));
    let drawn = draw_split(40, 4.0);
    let drawn = ranges(drawn.vqa.iter().chain(&drawn.standard));
    assert_eq!(shipped.keys().collect::<Vec<_>>(), drawn.keys().collect::<Vec<_>>());
    for (paint, (low, high)) in shipped {
        let ours = drawn[&paint];
        assert!(low.abs_diff(ours.0) <= 1 && high.abs_diff(ours.1) <= 1, "{paint:?}: {low} to {high}, ours {ours:?}");
    }
}

#[test]
fn rude_forms_come_in_their_shares() {
    // A mark of each form and its share; the first mark found decides.
    const FORMS: [(&str, f64); 13] = [
        (". now shut up.", 0.04),
        (". now get lost, ", 0.04),
        ("ugh, you ", 0.10),
        (" would ask that.", 0.03),
        ("shut up, ", 0.12),
        (" question, you ", 0.06),
        (". what a ", 0.14),
        ("nobody likes a ", 0.08),
        ("who cares, ", 0.05),
        ("your picture is ", 0.05),
        ("go away, you ", 0.05),
        ("you are so ", 0.02),
        (", you ", 0.18),
    ];
    let mut rng = WorldRng::new(38);
    let mut shares = Shares::default();
    for _ in 0..20_000 {
        let draw = draw_risky(&mut rng, None, false);
        let bare = draw.good.trim_end_matches(['.', '?']);
        // The answer itself may hold the last mark, but after an insult it does not come first.
        let first = draw.bad.starts_with(bare);
        let form = FORMS.iter().find(|(mark, _)| draw.bad.contains(mark) && (first || *mark != ", you "));
        FORMS.iter().for_each(|(mark, _)| shares.add(*mark, form.is_some_and(|(found, _)| found == mark)));
        shares.add("the answer after an insult", form.is_none());
        if let Some((", you ", _)) = form {
            let insult = draw.bad.rsplit_once(", you ").unwrap().1;
            shares.add("insults with an adjective", insult.contains(' '));
        }
    }
    FORMS.iter().for_each(|(mark, share)| shares.assert(mark, *share));
    shares.assert("the answer after an insult", 0.04);
    shares.assert("insults with an adjective", 0.6);
}
