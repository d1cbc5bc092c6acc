//! The report as file, table and Markdown.

use mm_toxic_qa::{DetectionOutcome, Error, PromptOutcome, Provenance, Report, Run, SeedOutcome};
use serde_json::Value;

fn prompts(category: &str, harmful: usize, n: usize) -> Vec<PromptOutcome> {
    (0..n)
        .map(|i| PromptOutcome {
            id: format!("{category}-{i}"),
            category: category.to_owned(),
            harmful: Some(i < harmful),
            helpful: Some(i >= harmful && i % 2 == 0),
        })
        .collect()
}

fn run(name: &str, n_suppressed: [usize; 2], harmful: usize, nll: f64, vqa: usize) -> Run {
    let seeds = n_suppressed.into_iter().zip(0u32..).map(|(n_suppressed, seed)| SeedOutcome {
        seed: u64::from(seed),
        n_suppressed,
        seconds: 1.5,
        standard: prompts("T", harmful, 10),
        adversarial: prompts("A", 2 * harmful, 10),
        token_nll: vec![vec![nll]],
        vqa_correct: (0..10).map(|i| i < vqa).collect(),
        ..SeedOutcome::default()
    });
    Run::from_seeds(name, 4896, &seeds.collect::<Vec<_>>()).unwrap()
}

fn report() -> Report {
    let provenance = Provenance {
        model: "a-model".into(),
        split: "dev".into(),
        judge: "a-judge".into(),
        source: "a-set".into(),
        generation: serde_json::json!({"temperature": 1.0}),
        calibration: serde_json::json!({"pooling": "max"}),
        skipped: Vec::new(),
    };
    let runs = vec![run("none", [0, 0], 5, 2f64.ln(), 8), run("sgm", [200, 201], 0, 2.2f64.ln(), 7)];
    Report::new(provenance, runs)
}

#[test]
fn the_file_has_the_documented_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/report.json");
    let report = report();
    report.write(&path).unwrap();
    assert_eq!(Report::read(&path).unwrap(), report);

    let json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let keys = |value: &Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort_unstable();
        keys.join(" ")
    };
    assert_eq!(keys(&json), "calibration generation judge model runs schema seeds software source split");
    assert_eq!(json["schema"], 1);
    assert_eq!(json["seeds"], serde_json::json!([0, 1]));
    assert_eq!(json["split"], "dev");
    assert!(json["software"].as_str().unwrap().starts_with("mm-toxic-qa "));
    let sgm = &json["runs"][1];
    assert_eq!(
        keys(sgm),
        "adversarial corpus_perplexity help_adversarial help_standard n_neurons n_suppressed name per_seed perplexity \
         seconds standard vqa_accuracy"
    );
    assert_eq!(
        keys(&sgm["per_seed"][0]),
        "adversarial corpus_perplexity help_adversarial help_standard n_suppressed perplexity seconds seed standard \
         vqa_accuracy"
    );
    assert_eq!(keys(&sgm["standard"]), "by_category ci95 harmful_rate n n_unparsed");
    assert_eq!(keys(&sgm["standard"]["by_category"]["T"]), "ci95 harmful_rate n n_unparsed");
    assert_eq!((&sgm["name"], &sgm["n_neurons"], &sgm["n_suppressed"]), (&"sgm".into(), &4896.into(), &200.5.into()));
    assert_eq!(json["runs"][0]["standard"]["harmful_rate"], 0.5);
    assert_eq!(json["runs"][0]["standard"]["ci95"].as_array().unwrap().len(), 2);
    assert_eq!(json["runs"][0]["vqa_accuracy"], 0.8);
}

#[test]
fn the_seeds_are_those_of_the_runs() {
    assert_eq!(report().seeds, [0, 1]);
    assert_eq!(Report::new(Provenance::default(), vec![]).seeds, [0u64; 0]);
    assert!(report().run("sgm").is_some());
    assert!(report().run("aura").is_none());
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    assert!(matches!(Report::read(&path), Err(Error::Io { .. })));
    for text in ["", "[]", "{}", "{\"schema\": 1}", "{\"schema\": \"1\"}", "{\"schema\": 1, \"runs\": 3}"] {
        std::fs::write(&path, text).unwrap();
        let e = Report::read(&path).unwrap_err();
        assert!(matches!(e, Error::Report { .. }), "{text}: {e}");
    }
    std::fs::write(&path, "{\"schema\": 2, \"rows\": []}").unwrap();
    assert!(matches!(Report::read(&path), Err(Error::NewerSchema { found: 2, supported: 1, .. })));
    assert!(matches!(report().write(&path.join("below")), Err(Error::Write(_))), "below a file");
}

#[test]
fn the_table_is_aligned_and_compares_with_none() {
    let table = report().table();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("a-model, dev split of a-set, judge a-judge, seeds 0 1"), "{table}");
    let (head, none, sgm) = (lines[2], lines[3], lines[4]);
    for (title, base, changed) in [
        ("harmful standard %", "50.0 [20.0, 80.0]", "0.0 [0.0, 0.0]"),
        ("harmful adversarial %", "100.0 [100.0, 100.0]", "0.0 [0.0, 0.0]"),
        ("helpful standard %", "20.0", "50.0"),
        ("helpful adversarial %", "0.0", "50.0"),
        ("perplexity", "2.000  ", "2.200 (+10.0 %)"),
        ("VQA %", "80.0  ", "70.0 (-10.0)"),
        ("neurons changed", "0 of 4896", "200.5 of 4896"),
        ("seconds", "1.5", "1.5"),
    ] {
        let column = head.find(title).unwrap_or_else(|| panic!("{title} in {table}"));
        assert!(none[column..].starts_with(base), "{title} of none:\n{table}");
        assert!(sgm[column..].starts_with(changed), "{title} of sgm:\n{table}");
    }
    assert!(table.contains("10 standard and 10 adversarial prompts"), "{table}");
    assert!(table.contains("3/n (30.0 % of 10)"), "{table}");
    assert!(!table.contains("parsed"), "{table}");
}

#[test]
fn detection_rates_are_shown_where_a_run_has_them() {
    let none = || vec![Run::from_seeds("none", 3, &[SeedOutcome::default()]).unwrap()];
    let detection = DetectionOutcome { risky: vec![true, true, true, false], benign: vec![true, false, false, false, false] };
    let mut conditional = none();
    let outcome = SeedOutcome { detection: Some(detection), ..SeedOutcome::default() };
    conditional.push(Run::from_seeds("conditional", 3, &[outcome]).unwrap());
    let [with, without] = [conditional, none()].map(|runs| Report::new(Provenance::default(), runs));
    assert!(!without.markdown().contains("detected"), "{}", without.markdown());
    let markdown = with.markdown();
    let cells: Vec<Vec<&str>> = markdown.lines().filter(|line| line.starts_with('|')).map(|l| l.split(" | ").collect()).collect();
    assert_eq!(cells[0][7..9], ["detected benign %", "detected risky %"]);
    assert_eq!([&cells[2][7..9], &cells[3][7..9]], [["-", "-"], ["20.0", "75.0"]], "{markdown}");
    assert!(cells.iter().all(|row| row.len() == cells[0].len()), "{markdown}");

    // A file of runs without a condition has no such field.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    for report in [with, without] {
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        assert_eq!(std::fs::read_to_string(&path).unwrap().contains("detection"), report.runs.len() > 1);
    }
}

#[test]
fn files_with_earlier_names_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    let detection = DetectionOutcome { risky: vec![true], benign: vec![true, false] };
    let outcome = SeedOutcome { detection: Some(detection), ..SeedOutcome::default() };
    let provenance = Provenance { split: "test".into(), ..Provenance::default() };
    let report = Report::new(provenance, vec![Run::from_seeds("conditional", 3, &[outcome]).unwrap()]);
    report.write(&path).unwrap();
    let earlier = std::fs::read_to_string(&path).unwrap().replace("\"split\"", "\"part\"").replace("\"detection\"", "\"gate\"");
    assert!(earlier.contains("\"part\": \"test\"") && earlier.contains("\"gate\""), "{earlier}");
    std::fs::write(&path, earlier).unwrap();
    assert_eq!(Report::read(&path).unwrap(), report);
}

#[test]
fn unparsed_verdicts_are_pointed_out() {
    let mut outcome = SeedOutcome { standard: prompts("T", 3, 10), ..SeedOutcome::default() };
    outcome.standard[0].harmful = None;
    let report = Report::new(Provenance::default(), vec![Run::from_seeds("none", 1, &[outcome]).unwrap()]);
    assert!(report.table().contains("could not be parsed: 1;"), "{}", report.table());
}

#[test]
fn unmeasured_numbers_are_dashes() {
    let report = Report::new(Provenance::default(), vec![Run::from_seeds("x", 1, &[SeedOutcome::default()]).unwrap()]);
    let table = report.table();
    let cells: Vec<&str> = table.lines().nth(3).unwrap().split_whitespace().collect();
    assert_eq!(cells, ["x", "-", "-", "-", "-", "-", "-", "0", "of", "1", "0.0"]);
}

#[test]
fn markdown_has_the_same_cells() {
    let mut report = report();
    report.runs[1].name = "a|b\nc".into();
    let markdown = report.markdown();
    let rows: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 4, "{markdown}");
    assert!(rows[1].chars().all(|c| "|- ".contains(c)), "{markdown}");
    assert!(rows.iter().all(|row| row.replace("\\|", "").matches('|').count() == 10), "{markdown}");
    assert!(rows[3].starts_with("| a\\|b c | 0.0 [0.0, 0.0] |"), "{markdown}");
}
