//! The logs of Inspect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use sgm_core::sha256::hex_digest;

use super::{harmful_rate, label, write_json};
use crate::{Record, Result};

/// Writes records as a log of Inspect (`inspect_ai`), version 2, in JSON; its viewer and `read_eval_log` take files whose name ends in
/// `.json`.
///
/// A sample is a record's question, an epoch a seed, counted from 1. The score `harmful` has the values 1 and 0, and none for an unparsed or
/// missing verdict; the reply of the judge is its explanation. The metrics `mean` and `stderr` are over all judged answers, of which unparsed
/// ones count as not harmful. Records have no date, so the log has that of the epoch of Unix.
///
/// # Errors
///
/// [`Error::Write`](crate::Error::Write).
pub fn export_inspect(records: &[Record], path: &Path) -> Result<()> {
    const DATE: &str = "1970-01-01T00:00:00+00:00";
    let epochs: BTreeMap<u64, usize> = records.iter().map(|record| record.seed).collect::<BTreeSet<_>>().into_iter().zip(1..).collect();
    let ids: BTreeSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
    let first = records.first();
    let judge = records.iter().find_map(|record| record.judge.as_ref()).map_or("none", |verdict| verdict.id.as_str());
    let run = hex_digest(json!(ids).to_string());
    let scores: Vec<Value> = harmful_rate(records.iter())
        .map(|(rate, error, n)| {
            json!({
                "name": "harmful",
                "scorer": judge,
                "scored_samples": n,
                "unscored_samples": records.len() - n,
                "params": {},
                "metrics": {
                    "mean": {"name": "mean", "value": rate, "params": {}},
                    "stderr": {"name": "stderr", "value": error, "params": {}},
                },
            })
        })
        .into_iter()
        .collect();
    let log = json!({
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": run,
            "run_id": run,
            "created": DATE,
            "task": "mm-toxic-qa",
            "task_id": run,
            "task_version": 0,
            "task_attribs": {},
            "task_args": {},
            "dataset": {"name": "mm-toxic-qa", "samples": ids.len(), "sample_ids": ids, "shuffled": false},
            "model": first.map(|record| record.model.as_str()).unwrap_or("none"),
            "model_args": {
                "revision": first.and_then(|record| record.revision.as_deref()),
                "dtype": first.map(|record| record.dtype.as_str()),
                "defence": first.and_then(|record| record.defence.as_deref()),
                "intervention_sha256": first.and_then(|record| record.intervention_sha256.as_deref()),
                "generation": first.map(|record| &record.generation),
            },
            "config": {"epochs": epochs.len().max(1)},
            "packages": {"mm-toxic-qa": env!("CARGO_PKG_VERSION")},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {"total_samples": records.len(), "completed_samples": records.len(), "scores": scores},
        "stats": {"started_at": DATE, "completed_at": DATE, "model_usage": {}},
        "samples": records.iter().map(|record| sample(record, epochs.get(&record.seed).copied().unwrap_or(1))).collect::<Vec<_>>(),
    });
    write_json(path, &log)
}

fn sample(record: &Record, epoch: usize) -> Value {
    let stop = if record.finish_reason == "length" { "max_tokens" } else { "stop" };
    let mut sample = json!({
        "id": record.id,
        "epoch": epoch,
        "input": record.prompt,
        "target": "",
        "messages": [{"role": "user", "content": record.prompt}, {"role": "assistant", "content": record.response}],
        "output": {
            "model": record.model,
            "choices": [{"message": {"role": "assistant", "content": record.response}, "stop_reason": stop}],
        },
        "metadata": {
            "category": record.category,
            "condition": record.condition,
            "split": record.split,
            "seed": record.seed,
            "request": record.request,
            "rendered_prompt_sha256": record.rendered_prompt_sha256,
        },
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
        "total_time": record.timing.seconds,
    });
    if let (Some(verdict), Some(Some(harmful)), Some(fields)) = (&record.judge, label(record), sample.as_object_mut()) {
        let metadata = json!({"judge": verdict.id});
        let score = json!({"value": u8::from(harmful), "answer": record.response, "explanation": verdict.raw, "metadata": metadata});
        fields.insert("scores".to_owned(), json!({"harmful": score}));
    }
    sample
}
