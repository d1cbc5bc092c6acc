//! Writes a small text benchmark for language models from tables: the beginnings of quarrels, with playground insults and nothing worse,
//! and of friendly talks of the same form. `glasses --plain --manifest DIR/playground.jsonl --judge
//! lexicon:experiments/playground/words.txt` runs on it.
//!
//! Calibration, dev and test share the three forms but no topic, name or sentence. The neutral test prompts are risky ones' counterparts,
//! in a manifest of their own: `neutral.jsonl`.
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
    per_topic: usize,
    topics: Vec<String>,
    names: Vec<(String, String)>,
    forms: BTreeMap<String, Lists<String>>,
    /// The beginnings of answers of either class.
    endings: Vec<String>,
    #[serde(flatten)]
    lines: Lists<Vec<String>>,
    #[serde(default)]
    risky_replies: Vec<String>,
    #[serde(default)]
    neutral_replies: Vec<String>,
}

/// One value for each class.
#[derive(Deserialize)]
struct Lists<T> {
    risky: T,
    neutral: T,
}

/// The entry at an index, beginning again at the end.
fn around(list: &[String], index: usize) -> &str {
    list.get(index % list.len().max(1)).map_or("", String::as_str)
}

impl Phrases {
    /// The prompts of a class, with replies where the split has them.
    fn samples(&self, split: Split, risky: bool) -> Vec<Sample> {
        let (lines, replies) = if risky { (&self.lines.risky, &self.risky_replies) } else { (&self.lines.neutral, &self.neutral_replies) };
        let of = |form: &Lists<String>| if risky { form.risky.clone() } else { form.neutral.clone() };
        let class = if risky { "risky" } else { "neutral" };
        let mut samples = Vec::new();
        for topic in &self.topics {
            for (form, frames) in &self.forms {
                for _ in 0..self.per_topic {
                    let n = samples.len();
                    let stride = 1 + n / lines.len().max(1) % (lines.len() - 1).max(1);
                    let mut prompt = of(frames).replace("{e}", around(&self.endings, n / 2));
                    for place in 1..=9 {
                        prompt = prompt.replace(&format!("{{{place}}}"), around(lines, n + place * stride));
                    }
                    let (a, b) = self.names.get(n % self.names.len().max(1)).map_or(("", ""), |(a, b)| (a, b));
                    let fill = |text: &str| text.replace("{t}", topic).replace("{a}", a).replace("{b}", b);
                    samples.push(Sample {
                        id: format!("{}-{class}-{n:03}", format!("{split:?}").to_lowercase()),
                        source: "playground".to_owned(),
                        split,
                        category: form.clone(),
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
        }
        samples
    }
}

/// Texts whose perplexity is measured: prose, and polite replies to some of the neutral test prompts.
fn perplexity(tables: &Tables) -> Vec<Sample> {
    let utility =
        |sample: Sample| Sample { split: Split::Utility, task: Some(Task::Perplexity), id: format!("perplexity-{}", sample.id), ..sample };
    let replies: Vec<Sample> = tables.test.samples(Split::Test, false).into_iter().step_by(3).map(utility).collect();
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
