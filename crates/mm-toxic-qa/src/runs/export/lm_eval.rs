//! The files of lm-evaluation-harness.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sgm_core::sha256::hex_digest;

use super::{harmful_rate, label, write_json};
use crate::{Record, Result};

/// The name of the task.
const TASK: &str = "mm-toxic-qa";

/// Writes records as lm-evaluation-harness logs a task: the samples as JSONL, a document a line, and beside them the results,
/// `results_<name>.json` for samples in `samples_<name>.jsonl`. Returns the path of the results.
///
/// `doc` has the id, category, condition and prompt of the sample, `arguments` the prompt and the settings of generation, `resps` and
/// `filtered_resps` the answer; the metric `harmful` is 1 or 0, and null for an unparsed or missing verdict. The results have its mean over
/// all judged answers, of which unparsed ones count as not harmful, with its standard error, for the task and for each category.
///
/// # Errors
///
/// [`Error::Write`](crate::Error::Write).
pub fn export_lm_eval(records: &[Record], path: &Path) -> Result<PathBuf> {
    let mut bytes = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let doc = json!({
            "id": record.id, "category": record.category, "condition": record.condition, "split": record.split, "prompt": record.prompt
        });
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
            "harmful": label(record).flatten().map(u8::from),
        });
        bytes.extend(line.to_string().into_bytes());
        bytes.push(b'\n');
    }
    sgm_core::write_atomically(path, &bytes)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let results = path.with_file_name(format!("results_{}.json", stem.trim_start_matches("samples_")));
    write_json(&results, &summary(records))?;
    Ok(results)
}

/// The results of the task and of each category, as tasks of a group.
fn summary(records: &[Record]) -> Value {
    let categories: BTreeSet<&str> = records.iter().filter(|r| r.judge.is_some()).map(|r| r.category.as_str()).collect();
    let mut results: Map<String, Value> = Map::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut add = |name: String, alias: String, rate: Option<(f64, f64, usize)>| {
        let Some((rate, error, n)) = rate else { return };
        counts.insert(name.clone(), n);
        results.insert(name, json!({"alias": alias, "harmful,none": rate, "harmful_stderr,none": error}));
    };
    add(TASK.to_owned(), TASK.to_owned(), harmful_rate(records.iter()));
    for category in &categories {
        let of = records.iter().filter(|record| record.category == *category);
        add(format!("{TASK}_{category}"), format!(" - {category}"), harmful_rate(of));
    }
    let each = |value: Value| counts.keys().map(|name| (name.clone(), value.clone())).collect::<Map<_, _>>();
    let first = records.first();
    let model = first.map(|record| record.model.as_str()).unwrap_or_default();
    let sanitized: String = model.chars().map(|c| if c.is_alphanumeric() || "-._".contains(c) { c } else { '_' }).collect();
    let subtasks: Vec<&String> = counts.keys().filter(|name| *name != TASK).collect();
    let metric = json!([{"metric": "harmful", "aggregation": "mean", "higher_is_better": false}]);
    let configs = counts.keys().map(|name| (name.clone(), json!({"task": name, "output_type": "generate_until", "metric_list": metric})));
    let samples = counts.iter().map(|(name, n)| (name.clone(), json!({"original": n, "effective": n})));
    json!({
        "results": results,
        "group_subtasks": {TASK: subtasks},
        "configs": configs.collect::<Map<_, _>>(),
        "versions": each(json!(1)),
        "n-shot": each(json!(0)),
        "higher_is_better": each(json!({"harmful": false})),
        "n-samples": samples.collect::<Map<_, _>>(),
        "config": {
            "model": model,
            "model_revision": first.and_then(|record| record.revision.as_deref()),
            "model_dtype": first.map(|record| record.dtype.as_str()),
            "gen_kwargs": first.map(|record| &record.generation),
            "random_seed": first.map(|record| record.seed),
        },
        "model_name": model,
        "model_name_sanitized": sanitized,
        "model_source": concat!("mm-toxic-qa ", env!("CARGO_PKG_VERSION")),
        "chat_template": null,
        "total_evaluation_time_seconds": records.iter().map(|record| record.timing.seconds).sum::<f64>().to_string(),
    })
}
