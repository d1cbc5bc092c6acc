//! Writes a small text benchmark for language models from tables: the beginnings of quarrels, with playground insults and nothing worse,
//! and of friendly talks of the same form. `glasses --plain --manifest DIR/playground.jsonl --judge
//! lexicon:experiments/playground/words.txt` runs on it.
//!
//! Calibration, dev and test share three forms but no topic, name or sentence; test has three further forms. The neutral test prompts are
//! risky ones' counterparts, in a manifest of their own: `neutral.jsonl`.
#![allow(clippy::print_stdout, reason = "a binary")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Deserialize;
use sgm::toxic_qa::{Condition, Sample, Split, Task, manifest};

/// Writes a small text benchmark for language models from tables: the beginnings of quarrels, with playground insults and nothing worse,
/// and of friendly talks of the same form. `glasses --plain --manifest DIR/playground.jsonl --judge
/// lexicon:experiments/playground/words.txt` runs on it.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The directory for `playground.jsonl` and `neutral.jsonl`.
    out: PathBuf,
}

#[derive(Deserialize)]
struct Tables {
    calibration: Phrases,
    dev: Phrases,
    test: Phrases,
    prose: Vec<(String, String)>,
}

/// The phrases of one split. Lists of lines and replies have a prime number of entries, so that every stride visits all of them.
#[derive(Deserialize)]
struct Phrases {
    /// Prompts of each class, form and topic.
    per_topic: Lists<usize>,
    topics: Vec<String>,
    names: Vec<(String, String)>,
    forms: BTreeMap<String, Form>,
    /// Forms that the other splits do not have.
    #[serde(default)]
    further_forms: BTreeMap<String, Form>,
    /// The beginnings of answers of either class.
    endings: Vec<String>,
    #[serde(flatten)]
    lines: Lists<Vec<String>>,
    #[serde(default)]
    risky_replies: Vec<String>,
    #[serde(default)]
    neutral_replies: Vec<String>,
}

/// A form of prompts.
#[derive(Deserialize)]
struct Form {
    #[serde(flatten)]
    prompts: Lists<String>,
    /// Lines of its own, instead of those of the split.
    lines: Option<Lists<Vec<String>>>,
    /// Beginnings of answers of its own.
    endings: Option<Vec<String>>,
}

/// One value for each class.
#[derive(Deserialize)]
struct Lists<T> {
    risky: T,
    neutral: T,
}

impl<T> Lists<T> {
    fn of(&self, risky: bool) -> &T {
        if risky { &self.risky } else { &self.neutral }
    }
}

/// The entry at an index, beginning again at the end.
fn around(list: &[String], index: usize) -> &str {
    list.get(index % list.len().max(1)).map_or("", String::as_str)
}

impl Phrases {
    /// The prompts of a class, with replies where the split has them.
    fn samples(&self, split: Split, risky: bool) -> Vec<Sample> {
        let replies = if risky { &self.risky_replies } else { &self.neutral_replies };
        let class = if risky { "risky" } else { "neutral" };
        let mut samples = Vec::new();
        let topics = |forms| self.topics.iter().flat_map(move |topic| std::iter::repeat(topic).zip(forms));
        for (topic, (name, form)) in topics(&self.forms).chain(topics(&self.further_forms)) {
            for _ in 0..*self.per_topic.of(risky) {
                let n = samples.len();
                let lines = form.lines.as_ref().unwrap_or(&self.lines).of(risky);
                let stride = 1 + n / lines.len().max(1) % (lines.len() - 1).max(1);
                let mut prompt = form.prompts.of(risky).replace("{e}", around(form.endings.as_ref().unwrap_or(&self.endings), n / 2));
                for place in 1..=9 {
                    prompt = prompt.replace(&format!("{{{place}}}"), around(lines, n + place * stride));
                }
                let (a, b) = self.names.get(n % self.names.len().max(1)).map_or(("", ""), |(a, b)| (a, b));
                let fill = |text: &str| text.replace("{t}", topic).replace("{a}", a).replace("{b}", b);
                samples.push(Sample {
                    id: format!("{}-{class}-{n:03}", format!("{split:?}").to_lowercase()),
                    source: "playground".to_owned(),
                    split,
                    category: name.clone(),
                    condition: Condition::Standard,
                    attack: None,
                    image: None,
                    prompt: fill(&prompt),
                    response: (!replies.is_empty()).then(|| fill(around(replies, n + n / replies.len()))),
                    label: (split == Split::Calibration).then_some(risky),
                    reference: None,
                    task: None,
                    subcategory: None,
                    request: None,
                });
            }
        }
        samples
    }
}

/// Texts whose perplexity is measured: prose, and polite replies to some of the neutral test prompts of the shared forms, which they suit.
fn perplexity(tables: &Tables) -> Vec<Sample> {
    let utility =
        |sample: Sample| Sample { split: Split::Utility, task: Some(Task::Perplexity), id: format!("perplexity-{}", sample.id), ..sample };
    let shared = tables.test.samples(Split::Test, false).into_iter().filter(|sample| tables.test.forms.contains_key(&sample.category));
    let replies: Vec<Sample> = shared.step_by(3).map(utility).collect();
    let prose = tables.prose.iter().enumerate().filter_map(|(n, (beginning, rest))| {
        let like = replies.first()?.clone();
        Some(Sample {
            id: format!("perplexity-prose-{n:02}"),
            category: "prose".to_owned(),
            prompt: beginning.clone(),
            response: Some(rest.clone()),
            ..like
        })
    });
    prose.chain(replies.iter().cloned()).collect()
}

fn main() -> Result<()> {
    let out = Arguments::parse().out;
    let tables: Tables =
        serde_json::from_str(include_str!("../../playground/tables.json")).context("experiments/playground/tables.json")?;
    let calibration = [true, false].map(|risky| tables.calibration.samples(Split::Calibration, risky)).concat();
    let dev = tables.dev.samples(Split::Dev, true);
    let test = tables.test.samples(Split::Test, true);
    let bare = |samples: Vec<Sample>| samples.into_iter().map(|sample| Sample { response: None, ..sample }).collect::<Vec<_>>();
    let neutral = [(&tables.dev, Split::Dev), (&tables.test, Split::Test)].map(|(phrases, split)| bare(phrases.samples(split, false)));
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    for (name, samples) in [("playground", [calibration, dev, test, perplexity(&tables)].concat()), ("neutral", neutral.concat())] {
        let path = out.join(name).with_extension("jsonl");
        manifest::write(&path, &samples)?;
        println!("{} samples in {}, SHA-256 {}", samples.len(), path.display(), manifest::sha256(&samples)?);
    }
    Ok(())
}
