//! Records in the file formats of other benchmarks.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use sgm_core::sha256::hex_digest;

use crate::{Error, Record, Result};

/// Writes records in the file format of MM-SafetyBench, for its scripts and for comparison with published runs.
///
/// A category is a scenario: `questions_with_answers/<scenario>.json` holds `{"<question>": {"Question": ..., "ans": {"<run>": {"text":
/// ..., "is_safe(gpt)": "safe" | "unsafe"}}}}`, and `eval_results/<scenario>.json` holds `{"<run>": {"safe": n, "unsafe": n, "attack_rate":
/// f}}`, the rate over all questions. The name of a question is the part of the record's id after the last `/`. An unparsed verdict is
/// written as the reply of the judge and counted as neither; an answer without a verdict has no `is_safe(gpt)`. Unlike in the original,
/// `Question` is the prompt as asked.
///
/// # Errors
///
/// [`Error::DuplicateId`] when two records of a scenario have the same name, as records of several seeds do; [`Error::InvalidField`] for a
/// category that is not a file name; [`Error::Write`].
pub fn export_mm_safetybench(records: &[Record], run: &str, folder: &Path) -> Result<()> {
    let mut scenarios: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (line, record) in (1..).zip(records) {
        let scenario = record.category.as_str();
        if scenario.is_empty() || scenario.starts_with('.') || scenario.contains(['/', '\\', '\0']) {
            let (field, found) = ("category", scenario.to_owned());
            return Err(Error::InvalidField { path: folder.to_owned(), line, field, found, expected: "a file name".to_owned() });
        }
        let question = record.id.rsplit('/').next().unwrap_or_default();
        if let Some(first) = seen.insert((scenario, question), line) {
            return Err(Error::DuplicateId { path: folder.join(scenario), line, id: question.to_owned(), first });
        }
        let mut answer = json!({"text": record.response});
        if let (Some(verdict), Some(answer)) = (&record.judge, answer.as_object_mut()) {
            let word = verdict.label.map_or(verdict.raw.as_str(), |harmful| if harmful { "unsafe" } else { "safe" });
            answer.insert("is_safe(gpt)".to_owned(), word.into());
        }
        let entry = json!({"Question": record.prompt, "ans": {run: answer}});
        scenarios.entry(scenario).or_default().insert(question.to_owned(), entry);
    }
    for (scenario, questions) in scenarios {
        let of = |harmful| {
            records.iter().filter(|r| r.category == scenario && r.judge.as_ref().is_some_and(|v| v.label == Some(harmful))).count()
        };
        let (safe, not_safe) = (of(false), of(true));
        let results = json!({run: {"safe": safe, "unsafe": not_safe, "attack_rate": not_safe as f64 / questions.len() as f64}});
        write_json(&folder.join("questions_with_answers").join(format!("{scenario}.json")), &Value::Object(questions))?;
        write_json(&folder.join("eval_results").join(format!("{scenario}.json")), &results)?;
    }
    Ok(())
}

/// Writes records in the sample log format of lm-evaluation-harness: JSONL, a document a line.
///
/// `doc` has the id, category, condition and prompt of the sample, `arguments` the prompt and the settings of generation, `resps` and
/// `filtered_resps` the answer; the metric `harmful` is 1 or 0, and null for an unparsed or missing verdict.
///
/// # Errors
///
/// [`Error::Write`].
pub fn export_lm_eval(records: &[Record], path: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let doc = json!({
            "id": record.id, "category": record.category, "condition": record.condition, "split": record.split, "prompt": record.prompt
        });
        let harmful = record.judge.as_ref().and_then(|verdict| verdict.label).map(u8::from);
        let line = json!({
            "doc_id": number,
            "doc_hash": hex_digest(doc.to_string().as_bytes()),
            "doc": doc,
            "target": "",
            "target_hash": hex_digest(b""),
            "arguments": {"gen_args_0": {"arg_0": record.prompt, "arg_1": record.generation}},
            "prompt_hash": record.rendered_prompt_sha256,
            "resps": [[record.response]],
            "filtered_resps": [record.response],
            "filter": "none",
            "metrics": ["harmful"],
            "harmful": harmful,
        });
        bytes.extend(line.to_string().into_bytes());
        bytes.push(b'\n');
    }
    Ok(sgm_core::write_atomically(path, &bytes)?)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| Error::Report { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    Ok(sgm_core::write_atomically(path, &bytes)?)
}
