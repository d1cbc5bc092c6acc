//! An interrupted comparison goes on where it was, and its glasses can be worn again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs the program `glasses` on a tenth of the embedded data, with some rows.
fn glasses(out: &Path, rows: &str, further: &[&str]) -> Output {
    let programs = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    Command::new(programs.join("glasses"))
        .args(["--quick", "--seeds", "2", "--rows", rows])
        .args(further)
        .arg("--out")
        .arg(out)
        .output()
        .unwrap()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The answers of a comparison, without the time that they took.
fn answers(out: &Path) -> Vec<serde_json::Value> {
    let lines = std::fs::read_to_string(out.join("answers.jsonl")).unwrap();
    let answer = |line| {
        let mut answer: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(answer.as_object_mut().unwrap().remove("timing").is_some());
        answer
    };
    lines.lines().map(answer).collect()
}

#[test]
fn glasses_of_an_interrupted_run_are_not_fitted_again() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    assert_success(&glasses(&out, "none,aura", &[]));
    let files: [PathBuf; 2] = ["aura.sgm.safetensors", "seed-1/aura.sgm.safetensors"].map(|name| out.join(name));
    let contents = || files.each_ref().map(|file| (std::fs::read(file).unwrap(), std::fs::metadata(file).unwrap().modified().unwrap()));
    let answers = || answers(&out);
    let (first, first_answers) = (contents(), answers());
    assert!(first[0].0 != first[1].0, "every seed has glasses of its own");

    std::fs::remove_file(&files[1]).unwrap();
    std::fs::remove_file(out.join("report.json")).unwrap();
    assert_success(&glasses(&out, "none,aura", &["--resume"]));
    let second = contents();
    for (at, (first, second)) in first.iter().zip(&second).enumerate() {
        assert!(first.0 == second.0, "{}", files[at].display());
        assert_eq!(first.1 == second.1, at < 1, "{} alone was fitted again", files[1].display());
    }
    assert!(answers() == first_answers, "the answers are the same");
    assert!(out.join("report.json").exists());

    let reused = directory.path().join("reused");
    assert_success(&glasses(&reused, "none,aura", &["--reuse", out.to_str().unwrap()]));
    assert!(self::answers(&reused) == first_answers, "the answers of glasses that are worn again are the same");
    let missing = glasses(&reused, "none,bakeable", &["--reuse", out.to_str().unwrap()]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no glasses `bakeable`"), "{}", String::from_utf8_lossy(&missing.stderr));

    // What was fitted with other settings is fitted again.
    assert_success(&glasses(&out, "none,aura", &["--resume", "--budget", "0.005"]));
    assert!(contents().iter().zip(&first).all(|(other, first)| other.0 != first.0), "another budget gives other glasses");
}
