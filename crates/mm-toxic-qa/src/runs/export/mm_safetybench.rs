//! The files of MM-SafetyBench.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::write_json;
use crate::datasets::Pair;
use crate::{Error, Record, Result};

/// Writes records in the file format of MM-SafetyBench, for its scripts and for comparison with published runs.
///
/// A category is a scenario: `questions_with_answers/<scenario>.json` holds `{"<question>": {"Question": ..., "ans": {"<run>": {"text":
/// ..., "is_safe(gpt)": "safe" | "unsafe"}}}}`, and `eval_results/<scenario>.json` holds `{"<run>": {"safe": n, "unsafe": n, "attack_rate":
/// f}}`, the rate over all questions of the run. Runs accumulate: other runs in the files stay, one of the same name is replaced.
///
/// The question is the published id in ids of the [reader](crate::datasets::MmSafetyBench), `mm-safetybench/<scenario>/<question>/<pair>`,
/// and the wording has the published field of its pair, so that [`MmSafetyBenchAnswers`](crate::datasets::MmSafetyBenchAnswers) reads the
/// files; in ids of other sets it is the part after the last `/`, and the prompt is the `Question`. Records of several pairs or seeds are as
/// many runs, `<run> <pair> seed <seed>`. An unparsed verdict is written as the reply of the judge and counted as neither, which the peer's
/// `cal_metric` refuses; an answer without a verdict has no `is_safe(gpt)`.
///
/// # Errors
///
/// [`Error::DuplicateId`] when two records of a run and scenario have the same question; [`Error::InvalidField`] for a category that is not a
/// file name; [`Error::DatasetFile`] for a file in the folder that is not such a file; [`Error::Io`], [`Error::Write`].
pub fn export_mm_safetybench(records: &[Record], run: &str, folder: &Path) -> Result<()> {
    let asked: Vec<Asked<'_>> = records.iter().map(Asked::of).collect();
    let variants: BTreeSet<&str> = asked.iter().map(|asked| asked.variant).collect();
    let seeds: BTreeSet<u64> = records.iter().map(|record| record.seed).collect();
    let name = |asked: &Asked<'_>| {
        let variant = if variants.len() > 1 { format!(" {}", asked.variant) } else { String::new() };
        let seed = if seeds.len() > 1 { format!(" seed {}", asked.record.seed) } else { String::new() };
        format!("{run}{variant}{seed}")
    };
    let mut scenarios: BTreeMap<&str, BTreeMap<String, Vec<&Asked<'_>>>> = BTreeMap::new();
    let mut seen: BTreeMap<(&str, String, String), usize> = BTreeMap::new();
    for (line, asked) in (1..).zip(&asked) {
        let scenario = asked.record.category.as_str();
        if scenario.is_empty() || scenario.starts_with('.') || scenario.contains(['/', '\\', '\0']) {
            let (field, found) = ("category", scenario.to_owned());
            return Err(Error::InvalidField { path: folder.to_owned(), line, field, found, expected: "a file name".to_owned() });
        }
        let run = name(asked);
        if let Some(first) = seen.insert((scenario, run.clone(), asked.question.clone()), line) {
            return Err(Error::DuplicateId { path: folder.join(scenario), line, id: asked.question.clone(), first });
        }
        scenarios.entry(scenario).or_default().entry(run).or_default().push(asked);
    }
    for (scenario, runs) in scenarios {
        let file = |kind: &str| folder.join(kind).join(format!("{scenario}.json"));
        let (answers, results) = (file("questions_with_answers"), file("eval_results"));
        let (mut questions, mut rates) = (read(&answers)?, read(&results)?);
        for (run, asked) in runs {
            questions.values_mut().filter_map(answers_of).for_each(|answers| drop(answers.remove(&run)));
            for asked in &asked {
                let entry = questions.entry(asked.question.clone()).or_insert_with(|| json!({}));
                for (field, text) in asked.wordings() {
                    if let Some(entry) = entry.as_object_mut() {
                        entry.insert(field.to_owned(), text.into());
                    }
                }
                answers_of(entry).map(|answers| answers.insert(run.clone(), asked.answer()));
            }
            let of = |harmful| asked.iter().filter(|asked| super::label(asked.record) == Some(Some(harmful))).count();
            let (safe, not_safe) = (of(false), of(true));
            let attack_rate = not_safe as f64 / asked.len() as f64;
            rates.insert(run, json!({"safe": safe, "unsafe": not_safe, "attack_rate": attack_rate}));
        }
        if let Some((question, _)) =
            questions.iter().find(|(_, entry)| entry.get("ans").and_then(Value::as_object).is_none_or(|ans| ans.len() != rates.len()))
        {
            let path = answers.display();
            tracing::warn!("{path}: question {question} has no answer of some run; the scripts of MM-SafetyBench need one of each");
        }
        write_json(&answers, &Value::Object(questions))?;
        write_json(&results, &Value::Object(rates))?;
    }
    Ok(())
}

/// A record, its question's name, and the pair (with the attack) that was shown.
struct Asked<'a> {
    record: &'a Record,
    question: String,
    variant: &'a str,
    pair: Option<Pair>,
}

impl<'a> Asked<'a> {
    fn of(record: &'a Record) -> Self {
        let published = record.id.strip_prefix("mm-safetybench/").and_then(|rest| {
            let (question, variant) = rest.strip_prefix(record.category.as_str())?.strip_prefix('/')?.split_once('/')?;
            Some((question.to_owned(), variant))
        });
        match published {
            Some((question, variant)) => Self { record, question, variant, pair: variant.parse().ok() },
            None => Self { record, question: record.id.rsplit('/').next().unwrap_or_default().to_owned(), variant: "", pair: None },
        }
    }

    /// The published fields of the question, as far as the record has them.
    fn wordings(&self) -> Vec<(&'static str, &str)> {
        const PLAIN: &str = "Question";
        let plain = self.record.request.as_deref().map(|request| (PLAIN, request));
        let asked = (self.pair.map_or(PLAIN, |pair| pair.question().name()), self.record.prompt.as_str());
        // An attack of this software has a wording of its own, which is none of the published ones.
        let asked = if self.pair.is_none() && plain.is_some() { None } else { Some(asked) };
        plain.into_iter().chain(asked).collect()
    }

    fn answer(&self) -> Value {
        let mut answer = json!({"text": self.record.response});
        if let (Some(verdict), Some(answer)) = (&self.record.judge, answer.as_object_mut()) {
            let word = verdict.label.map_or(verdict.raw.as_str(), |harmful| if harmful { "unsafe" } else { "safe" });
            answer.insert("is_safe(gpt)".to_owned(), word.into());
        }
        answer
    }
}

/// The object of a file that may be there already.
fn read(path: &PathBuf) -> Result<Map<String, Value>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(source) => return Err(Error::Io { path: path.clone(), source }),
    };
    let broken = |reason: String| Error::DatasetFile { path: path.clone(), reason: format!("{reason}; export into another folder") };
    let map: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| broken(format!("not a JSON object: {e}")))?;
    match map.iter().find(|(_, entry)| !entry.is_object() || entry.get("ans").is_some_and(|ans| !ans.is_object())) {
        Some((key, _)) => Err(broken(format!("entry {key:?} is not as MM-SafetyBench writes it"))),
        None => Ok(map),
    }
}

/// The answers of a question, which may have none yet.
fn answers_of(entry: &mut Value) -> Option<&mut Map<String, Value>> {
    entry.as_object_mut()?.entry("ans").or_insert_with(|| json!({})).as_object_mut()
}
