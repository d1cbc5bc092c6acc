//! The data files: shipped files survive a round trip, faults are named by file, line and reason.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sgm_organism::{Category, Contrast, Error, EvaluationSplit, OrganismData, Sample, draw_calibration, draw_split};

const FILES: [&str; 11] = [
    "dev_std.jsonl",
    "dev_adv.jsonl",
    "dev_vqa.jsonl",
    "dev_ppl.jsonl",
    "test_std.jsonl",
    "test_adv.jsonl",
    "test_vqa.jsonl",
    "test_ppl.jsonl",
    "calib_matched.jsonl",
    "calib_benign.jsonl",
    "calib_mixed.jsonl",
];

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/data").join(file)
}

/// A directory with copies of some shipped files.
fn directory(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(shipped(file), dir.path().join(file)).unwrap();
    }
    dir
}

/// All samples, in the order of [`FILES`].
fn all(data: &OrganismData) -> Vec<&[Sample]> {
    let mut sets: Vec<&[Sample]> = Vec::new();
    for part in [EvaluationSplit::Dev, EvaluationSplit::Test] {
        let split = data.split(part).unwrap();
        sets.extend([&split.standard[..], &split.adversarial, &split.vqa, &split.perplexity]);
    }
    sets.extend([Contrast::Matched, Contrast::Benign, Contrast::Mixed].map(|c| data.calibration(c).unwrap()));
    sets
}

#[test]
fn every_shipped_line_survives_a_round_trip() {
    let data = OrganismData::embedded().unwrap();
    let mut lines = 0;
    for (file, samples) in FILES.iter().zip(all(&data)) {
        let text = fs::read_to_string(shipped(file)).unwrap();
        assert_eq!(text.lines().count(), samples.len(), "{file}");
        for (line, sample) in text.lines().zip(samples) {
            assert_eq!(serde_json::from_str::<Value>(line).unwrap(), serde_json::to_value(sample).unwrap(), "{file}: {}", sample.id);
            lines += 1;
        }
    }
    assert_eq!(lines, 6000);
}

#[test]
fn shipped_data_have_the_documented_sizes_and_labels() {
    let data = OrganismData::embedded().unwrap();
    for part in [EvaluationSplit::Dev, EvaluationSplit::Test] {
        let split = data.split(part).unwrap();
        for (i, category) in [Category::T, Category::V, Category::X].into_iter().enumerate() {
            assert!(split.standard[100 * i..100 * (i + 1)].iter().all(|s| s.cat == category));
        }
        assert_eq!((split.standard.len(), split.vqa.len(), split.perplexity.len()), (300, 500, 500));
        let held_out: Vec<bool> = split.adversarial.iter().map(|s| s.held_out_prefix.unwrap()).collect();
        assert_eq!(held_out, [false, true].repeat(100));
    }
    for contrast in [Contrast::Matched, Contrast::Benign, Contrast::Mixed] {
        let labels: Vec<bool> = data.calibration(contrast).unwrap().iter().map(|s| s.toxic.unwrap()).collect();
        assert_eq!(labels, [vec![true; 500], vec![false; 500]].concat());
    }
}

#[test]
fn a_fresh_draw_survives_write_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let data = OrganismData::draw(9, 0.05);
    data.write(&dir.path().join("new/data")).unwrap();
    let read = OrganismData::from_dir(&dir.path().join("new/data")).unwrap();
    assert_eq!(all(&data), all(&read));
    let mut names: Vec<_> = fs::read_dir(dir.path().join("new/data")).unwrap().map(|f| f.unwrap().file_name()).collect();
    names.sort();
    let mut expected = FILES;
    expected.sort_unstable();
    assert_eq!(names, expected, "no temporary files are left");
    // A second draw replaces the first.
    let other = OrganismData::draw(10, 0.05);
    other.write(&dir.path().join("new/data")).unwrap();
    assert_eq!(all(&other), all(&OrganismData::from_dir(&dir.path().join("new/data")).unwrap()));
    assert_ne!(all(&other), all(&data));
}

#[test]
fn missing_sets_are_errors_when_asked_for() {
    let dir = directory(&["test_std.jsonl", "test_adv.jsonl", "test_vqa.jsonl", "test_ppl.jsonl", "calib_benign.jsonl", "dev_std.jsonl"]);
    let data = OrganismData::from_dir(dir.path()).unwrap();
    assert_eq!(data.split(EvaluationSplit::Test).unwrap().vqa.len(), 500);
    assert_eq!(data.calibration(Contrast::Benign).unwrap().len(), 1000);
    let missing = |error: Error| match error {
        Error::Missing { file } => file.strip_prefix(dir.path()).unwrap().to_owned(),
        other => panic!("{other}"),
    };
    assert_eq!(missing(data.split(EvaluationSplit::Dev).unwrap_err()), Path::new("dev_adv.jsonl"));
    assert_eq!(missing(data.calibration(Contrast::Mixed).unwrap_err()), Path::new("calib_mixed.jsonl"));

    let copy = tempfile::tempdir().unwrap();
    data.write(copy.path()).unwrap();
    let again = OrganismData::from_dir(copy.path()).unwrap();
    assert_eq!(again.split(EvaluationSplit::Test).unwrap(), data.split(EvaluationSplit::Test).unwrap());
    assert!(again.split(EvaluationSplit::Dev).is_err());
}

#[test]
fn directories_without_data_are_errors() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(OrganismData::from_dir(empty.path()), Err(Error::NoData { .. })));
    assert!(matches!(OrganismData::from_dir(&empty.path().join("absent")), Err(Error::NoData { .. })));
    let file = empty.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(OrganismData::from_dir(&file), Err(Error::Read { .. })));
    fs::create_dir(empty.path().join("calib_mixed.jsonl")).unwrap();
    assert!(matches!(OrganismData::from_dir(empty.path()), Err(Error::Read { .. })));
}

/// Reads a directory whose `file` is the shipped one with its third line changed.
fn with_third_line(file: &str, change: impl Fn(&mut Value)) -> Result<OrganismData, Error> {
    let dir = directory(&[file]);
    let text = fs::read_to_string(shipped(file)).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut value = serde_json::from_str(&lines[2]).unwrap();
    change(&mut value);
    lines[2] = value.to_string();
    fs::write(dir.path().join(file), lines.join("\n")).unwrap();
    // The other files of the split are missing, so that an unchanged file gives an incomplete split.
    OrganismData::from_dir(dir.path())
}

#[test]
fn wrong_lines_are_named() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 20] = [
        ("calib_benign.jsonl", |v| v["cat"] = "B".into(), "unknown variant `B`, expected one of `T`, `V`, `X`, `A`, `benign`"),
        ("calib_benign.jsonl", |v| v["answers"] = "a".into(), "expected a sequence"),
        ("calib_benign.jsonl", |v| drop(v.as_object_mut().unwrap().remove("prompt")), "missing field `prompt`"),
        ("calib_benign.jsonl", |v| v["extra"] = 1.into(), "unknown field `extra`"),
        ("calib_benign.jsonl", |v| v["id"] = "".into(), "`id` is empty"),
        ("calib_benign.jsonl", |v| v["id"] = "cal-benign-1-000".into(), "occurs twice"),
        ("calib_benign.jsonl", |v| v["prompt"] = "what is it?".into(), "expected the form"),
        ("calib_benign.jsonl", |v| v["prompt"] = "USER: <image>\n<image>\nwhat? ASSISTANT:".into(), "expected the form"),
        ("calib_benign.jsonl", |v| v["scene"] = Value::Null, "expected the form \"USER: ... ASSISTANT:\""),
        ("calib_benign.jsonl", |v| v["scene"]["bg"] = 7.into(), "background 7 does not exist"),
        ("calib_benign.jsonl", |v| v["scene"]["objects"][0]["cell"] = 4.into(), "cell 4"),
        ("calib_benign.jsonl", |v| v["answers"] = Value::Array(vec![]), "`answers` is empty"),
        ("calib_benign.jsonl", |v| v["kind"] = "riddle".into(), "`riddle`"),
        ("calib_benign.jsonl", |v| drop(v.as_object_mut().unwrap().remove("toxic")), "`toxic` is missing"),
        ("calib_benign.jsonl", |v| drop(v.as_object_mut().unwrap().remove("answer")), "`answer` is missing"),
        ("dev_std.jsonl", |v| v["cat"] = "benign".into(), "a benign sample"),
        ("dev_adv.jsonl", |v| v["cat"] = "T".into(), "only samples of category A"),
        ("dev_adv.jsonl", |v| drop(v.as_object_mut().unwrap().remove("held_out_prefix")), "`held_out_prefix` is missing"),
        ("test_vqa.jsonl", |v| v["key"] = Value::Array(vec![]), "needs a `key`"),
        ("test_ppl.jsonl", |v| drop(v.as_object_mut().unwrap().remove("answer")), "`answer` is missing"),
    ];
    for (file, change, expected) in cases {
        match with_third_line(file, change) {
            Err(Error::Line { path, line: 3, reason }) => {
                assert!(path.ends_with(file));
                assert!(reason.contains(expected), "{file}: {reason:?} does not say {expected:?}");
            }
            other => panic!("{file}, {expected:?}: {other:?}"),
        }
    }
    assert!(with_third_line("calib_benign.jsonl", |_| {}).is_ok());
}

#[test]
fn files_that_are_not_samples_at_all_are_errors() {
    let sample = fs::read_to_string(shipped("calib_mixed.jsonl")).unwrap().lines().next().unwrap().to_owned();
    let read = |bytes: &[u8]| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("calib_mixed.jsonl"), bytes).unwrap();
        OrganismData::from_dir(dir.path()).map(|data| data.calibration(Contrast::Mixed).unwrap().len())
    };
    let line = |bytes: &[u8]| match read(bytes) {
        Err(Error::Line { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(line(&[0xff, 0xfe, 0x00]), 1);
    assert_eq!(line(b"[]"), 1);
    assert_eq!(line("[".repeat(100_000).as_bytes()), 1);
    assert_eq!(line(&vec![b' '; 3 << 20]), 1);
    assert_eq!(line(sample.repeat(3).as_bytes()), 1, "no line breaks");
    assert_eq!(line(format!("{sample}\n\n{{").as_bytes()), 3);
    assert_eq!(line(format!("{sample}\r\n{sample}\r\n").as_bytes()), 2, "the same id twice");
    assert_eq!(read(format!("\n{sample}\r\n\n").as_bytes()).unwrap(), 1, "blank lines and Windows line ends are fine");
    assert_eq!(read(b"").unwrap(), 0);
    // Every prefix of a line is an error, not a panic.
    for end in (1..sample.len()).step_by(7) {
        assert_eq!(line(&sample.as_bytes()[..end]), 1);
    }
}

#[test]
fn draws_depend_on_the_seed_alone() {
    assert_eq!(draw_split(3, 0.1), draw_split(3, 0.1));
    assert_ne!(draw_split(3, 0.1), draw_split(4, 0.1));
    assert_eq!(draw_calibration(3, 20, Contrast::Mixed), draw_calibration(3, 20, Contrast::Mixed));
}

#[test]
fn contrasts_of_one_seed_share_the_toxic_half() {
    let toxic = |contrast| draw_calibration(5, 50, contrast)[..50].iter().map(|s| (s.prompt.clone(), s.answer.clone())).collect::<Vec<_>>();
    assert_eq!(toxic(Contrast::Matched), toxic(Contrast::Benign));
    assert_eq!(toxic(Contrast::Matched), toxic(Contrast::Mixed));
}

#[test]
fn calibration_and_evaluation_of_one_seed_are_different_draws() {
    let calibration = draw_calibration(6, 200, Contrast::Mixed);
    let split = draw_split(6, 1.0);
    let fresh = OrganismData::draw(6, 1.0);
    let sets = [
        &calibration,
        &split.standard,
        &fresh.split(EvaluationSplit::Dev).unwrap().standard,
        &fresh.split(EvaluationSplit::Test).unwrap().standard,
    ];
    for (i, a) in sets.iter().enumerate() {
        for b in &sets[i + 1..] {
            // With 20 bits of noise seed, equal scenes are very unlikely.
            assert!(!a.iter().any(|s| s.scene.is_some() && b.iter().any(|t| s.scene == t.scene)));
        }
    }
}

#[test]
fn every_odd_adversarial_prefix_is_held_out() {
    let held_out: Vec<bool> = draw_split(2, 1.0).adversarial.iter().map(|s| s.held_out_prefix.unwrap()).collect();
    assert_eq!(held_out, [false, true].repeat(100));
}

#[test]
fn scale_is_bounded() {
    let sizes = |scale| {
        let s = draw_split(1, scale);
        (s.standard.len(), s.adversarial.len(), s.vqa.len(), s.perplexity.len())
    };
    assert_eq!(sizes(1.0), (300, 200, 500, 500));
    assert_eq!(sizes(0.6), (180, 120, 300, 300));
    assert_eq!(sizes(0.0), (0, 0, 0, 0));
    assert_eq!(sizes(-1.0), (0, 0, 0, 0));
    assert_eq!(sizes(f64::NAN), (0, 0, 0, 0));
    assert!(draw_calibration(1, 0, Contrast::Mixed).is_empty());
    assert_eq!(draw_calibration(1, 3, Contrast::Mixed).iter().filter(|s| s.cat == Category::Benign).count(), 2);
}
