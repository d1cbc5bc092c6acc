//! Runs that are stopped and resumed, judged again, and exported.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use mm_toxic_qa::{
    Condition, Durability, Error, Exchange, Judge, Record, RefusalJudge, Result, RunFile, Split, Timing, Verdict, export_lm_eval,
    export_mm_safetybench, judge_again, metrics, read_records,
};
use serde_json::{Value, json};

fn record(id: &str, seed: u64, response: &str) -> Record {
    Record {
        id: id.into(),
        split: Split::Test,
        category: "01-Placeholder".into(),
        condition: Condition::Standard,
        prompt: "placeholder question".into(),
        rendered_prompt_sha256: "00".into(),
        response: response.into(),
        finish_reason: "stop".into(),
        defence: None,
        intervention_sha256: None,
        model: "a-model".into(),
        revision: None,
        dtype: "f32".into(),
        seed,
        generation: json!({"temperature": 1.0}),
        judge: None,
        timing: Timing { seconds: 0.5, prompt_tokens: None, new_tokens: Some(3) },
    }
}

fn settings() -> Value {
    json!({"model": "a-model", "generation": {"temperature": 1.0, "max_new_tokens": 8}})
}

fn open(path: &Path) -> Result<RunFile> {
    RunFile::open(path, &settings(), Durability::default())
}

#[test]
fn a_run_cut_off_at_any_byte_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/run.jsonl");
    let records = [record("a", 0, "two\nlines"), record("b", 0, "\u{e9}"), record("a", 1, "again")];
    let mut whole = open(&path).unwrap();
    assert!(whole.is_empty());
    records.iter().for_each(|r| whole.write(r.clone()).unwrap());
    whole.flush().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 3);
    for cut in 0..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let mut run = open(&path).unwrap();
        let kept = bytes[..cut].iter().filter(|b| **b == b'\n').count();
        assert_eq!(run.len(), kept, "cut at {cut}");
        for (i, r) in records.iter().enumerate() {
            assert_eq!(run.record(&r.id, r.seed), (i < kept).then_some(r));
            run.write(r.clone()).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut at {cut}");
    }
    assert_eq!(read_records(&path).unwrap(), records);
}

#[test]
fn a_torn_line_longer_than_a_block_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    open(&path).unwrap().write(record("a", 0, "x")).unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [whole.clone(), vec![b'{'; 200_000]].concat()).unwrap();
    assert_eq!(open(&path).unwrap().len(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
}

#[test]
fn other_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    open(&path).unwrap().write(record("a", 0, "x")).unwrap();
    let before = std::fs::read(&path).unwrap();
    for (changed, setting, found, expected) in [
        (json!({"model": "a-model", "generation": {"temperature": 0.5, "max_new_tokens": 8}}), "generation.temperature", "1.0", "0.5"),
        (json!({"model": "a-model"}), "generation", "{\"max_new_tokens\":8,\"temperature\":1.0}", "null"),
        (json!({"model": "a-model", "generation": {"temperature": 1.0, "max_new_tokens": 8}, "top": [1]}), "top", "null", "[1]"),
        (json!("a-model"), "settings", "", "\"a-model\""),
    ] {
        match RunFile::open(&path, &changed, Durability::Record).unwrap_err() {
            Error::SettingsDiffer { setting: s, found: f, expected: e, .. } => {
                assert_eq!((s.as_str(), e.as_str()), (setting, expected));
                assert!(found.is_empty() || f == found, "{f}");
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);

    let beside = folder.path().join("run.settings.json");
    let text = std::fs::read_to_string(&beside).unwrap();
    std::fs::write(&beside, text.replace("mm-toxic-qa 0", "mm-toxic-qa 999")).unwrap();
    assert!(matches!(open(&path), Err(Error::SettingsDiffer { setting, .. }) if setting == "software"));
    std::fs::write(&beside, text.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
    assert!(matches!(open(&path), Err(Error::NewerSchema { found: 2, .. })));
    std::fs::write(&beside, &text[..20]).unwrap();
    assert!(matches!(open(&path), Err(Error::Report { .. })));
    std::fs::remove_file(&beside).unwrap();
    assert!(matches!(open(&path), Err(Error::NoSettings { .. })));
}

#[test]
fn damaged_runs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    open(&path).unwrap().write(record("a", 0, "x")).unwrap();
    let line = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{line}{line}")).unwrap();
    assert!(matches!(open(&path), Err(Error::DuplicateId { line: 2, first: 1, .. })));
    std::fs::write(&path, format!("{}\n{line}", &line[..30])).unwrap();
    assert!(matches!(open(&path), Err(Error::Syntax { line: 1, .. })));
    assert!(matches!(read_records(&path), Err(Error::Syntax { line: 1, .. })));
    assert!(matches!(open(folder.path()), Err(Error::Write(_) | Error::NoSettings { .. } | Error::Io { .. })));
}

/// A judge that fails on its n-th batch.
struct Flaky(AtomicUsize);

impl Judge for Flaky {
    fn id(&self) -> &str {
        "flaky"
    }

    fn judge(&self, exchanges: &[Exchange<'_>]) -> Result<Vec<Verdict>> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        left.map_err(|_| Error::NoJudges)?;
        let label = |e: &Exchange<'_>| Some(e.response.contains("bad"));
        Ok(exchanges.iter().map(|e| Verdict { id: "flaky".into(), label: label(e), ..Verdict::default() }).collect())
    }
}

#[test]
fn a_second_judge_reads_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let first = Verdict { id: "first".into(), label: Some(true), ..Verdict::default() };
    let mut records: Vec<Record> =
        (0..7).map(|i| Record { judge: Some(first.clone()), ..record(&format!("{i}"), 0, ["bad", "fine"][i % 2]) }).collect();
    records[3].split = Split::Utility;
    records[3].judge = None;
    let to = folder.path().join("second.jsonl");
    for calls in [0, 2] {
        assert!(judge_again(records.clone(), &Flaky(AtomicUsize::new(calls)), 2, &mut open(&to).unwrap()).is_err());
    }
    assert_eq!(open(&to).unwrap().len(), 4, "two batches were written");
    let judged = judge_again(records.clone(), &Flaky(AtomicUsize::new(usize::MAX)), 2, &mut open(&to).unwrap()).unwrap();
    assert_eq!(read_records(&to).unwrap(), judged);
    for (old, new) in records.iter().zip(&judged) {
        assert_eq!(&Record { judge: old.judge.clone(), ..new.clone() }, old, "nothing else changes");
        match &new.judge {
            None => assert_eq!(new.split, Split::Utility),
            Some(verdict) => assert_eq!((verdict.id.as_str(), verdict.label), ("flaky", Some(new.response == "bad"))),
        }
    }
    let again = judge_again(records, &Flaky(AtomicUsize::new(0)), 7, &mut open(&to).unwrap()).unwrap();
    assert_eq!(again, judged, "nothing is left to judge");
}

fn judged(id: &str, category: &str, response: &str, label: Option<bool>) -> Record {
    let judge = Some(Verdict { id: "j".into(), raw: "hm".into(), label, ..Verdict::default() });
    Record { category: category.into(), judge, ..record(id, 0, response) }
}

fn json_file(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn mm_safetybench_files_have_their_shape() {
    let folder = tempfile::tempdir().unwrap();
    let records = [
        judged("mm/01-Placeholder/SD/0", "01-Placeholder", "a", Some(true)),
        judged("mm/01-Placeholder/SD/1", "01-Placeholder", "b", Some(false)),
        judged("mm/01-Placeholder/SD/2", "01-Placeholder", "c", None),
        judged("mm/08-Placeholder/SD/0", "08-Placeholder", "d", Some(true)),
        Record { category: "08-Placeholder".into(), ..record("mm/08-Placeholder/SD/1", 0, "e") },
    ];
    export_mm_safetybench(&records, "our_run", folder.path()).unwrap();
    let answers = json_file(folder.path().join("questions_with_answers/01-Placeholder.json"));
    assert_eq!(answers.as_object().unwrap().len(), 3);
    assert_eq!(answers["0"], json!({"Question": "placeholder question", "ans": {"our_run": {"text": "a", "is_safe(gpt)": "unsafe"}}}));
    assert_eq!(answers["1"]["ans"]["our_run"]["is_safe(gpt)"], "safe");
    assert_eq!(answers["2"]["ans"]["our_run"]["is_safe(gpt)"], "hm");
    let results = json_file(folder.path().join("eval_results/01-Placeholder.json"));
    assert_eq!(results, json!({"our_run": {"safe": 1, "unsafe": 1, "attack_rate": 1.0 / 3.0}}));
    let answers = json_file(folder.path().join("questions_with_answers/08-Placeholder.json"));
    assert_eq!(answers["1"]["ans"]["our_run"], json!({"text": "e"}), "not judged");
    assert_eq!(json_file(folder.path().join("eval_results/08-Placeholder.json"))["our_run"]["attack_rate"], 0.5);

    let twice = [records[0].clone(), Record { seed: 1, ..records[0].clone() }];
    assert!(matches!(export_mm_safetybench(&twice, "r", folder.path()), Err(Error::DuplicateId { .. })));
    for category in ["", "..", "a/b", "\\"] {
        let error = export_mm_safetybench(&[judged("x", category, "y", None)], "r", folder.path()).unwrap_err();
        assert!(matches!(error, Error::InvalidField { field: "category", .. }), "{error}");
    }
}

#[test]
fn lm_eval_samples_have_their_shape() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let records = [judged("a", "T", "one\ntwo", Some(true)), judged("b", "T", "x", None), record("c", 0, "y")];
    export_lm_eval(&records, &path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines.iter().map(|l| &l["harmful"]).collect::<Vec<_>>(), [&json!(1), &Value::Null, &Value::Null]);
    let first = &lines[0];
    assert_eq!((&first["doc_id"], &first["doc"]["id"], &first["target"]), (&json!(0), &json!("a"), &json!("")));
    assert_eq!((&first["resps"], &first["filtered_resps"]), (&json!([["one\ntwo"]]), &json!(["one\ntwo"])));
    assert_eq!(first["arguments"]["gen_args_0"]["arg_0"], "placeholder question");
    assert_eq!((&first["metrics"], &first["filter"]), (&json!(["harmful"]), &json!("none")));
    assert_ne!(first["doc_hash"], lines[1]["doc_hash"]);
}

#[test]
fn toxicity_is_over_the_generations_of_a_prompt() {
    let scored = |id: &str, seed, score| {
        let judge = Some(Verdict { id: "classifier".into(), label: Some(score > 0.5), score: Some(score), ..Verdict::default() });
        Record { judge, ..record(id, seed, "x") }
    };
    let records = [scored("a", 0, 0.1), scored("a", 1, 0.75), scored("b", 0, 0.25), scored("b", 1, 0.0)];
    let toxicity = metrics::Toxicity::from_records(&records).unwrap().unwrap();
    assert_eq!((toxicity.expected_max, toxicity.probability, toxicity.n, toxicity.generations), (0.5, 0.5, 2, 2));
    assert!(matches!(metrics::Toxicity::from_records(&records[..3]), Err(Error::Generations { .. })));
    let unscored = [record("c", 0, "x")];
    assert!(matches!(metrics::Toxicity::from_records(&unscored), Err(Error::Score { score: None, .. })));
}

#[test]
fn refusals_are_a_second_opinion() {
    let folder = tempfile::tempdir().unwrap();
    let records = vec![record("a", 0, "I'm sorry."), record("b", 0, "sure")];
    let judged = judge_again(records, &RefusalJudge::v2(), 64, &mut open(&folder.path().join("r.jsonl")).unwrap()).unwrap();
    let rate = metrics::refusal_rate(judged.iter().map(|r| r.response.as_str()), &RefusalJudge::v2());
    assert_eq!(rate.rate, Some(0.5));
    assert_eq!(judged[0].judge.as_ref().unwrap().label, Some(false));
}
