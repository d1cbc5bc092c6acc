//! The manifest reader: accepted files, and one test for each fault of a file.

use std::path::{Path, PathBuf};

use mm_toxic_qa::{Condition, Error, ImageRef, Reference, Sample, Split, Task, manifest};

use crate::greys::Greys;

const DEV: &str =
    r#"{"schema": 1, "id": "d1", "source": "mine", "split": "dev", "category": "hate", "condition": "standard", "prompt": "why?"}"#;
const CALIBRATION: &str = concat!(
    r#"{"schema": 1, "id": "c1", "source": "mine", "split": "calibration", "category": "hate", "condition": "standard", "#,
    r#""prompt": "why?", "response": "because.", "label": 1}"#,
);
const VQA: &str = concat!(
    r#"{"schema": 1, "id": "v1", "source": "mine", "split": "utility", "task": "vqa", "category": "benign", "condition": "standard", "#,
    r#""prompt": "what?", "image": "a.png", "reference": {"kind": "open", "answers": ["a car"]}}"#,
);
const PERPLEXITY: &str = concat!(
    r#"{"schema": 1, "id": "p1", "source": "mine", "split": "utility", "task": "perplexity", "category": "benign", "#,
    r#""condition": "standard", "prompt": "what?", "response": "a car."}"#,
);
const SCENE: &str = concat!(
    r#"{"schema": 1, "id": "s1", "source": "greys", "split": "test", "category": "V", "condition": "adversarial", "attack": "prefix", "#,
    r#""prompt": "what?", "image": {"scene": {"level": 7, "form": "dot"}}, "#,
    r#""reference": {"kind": "greys/level", "key": ["7"], "answers": ["it is 7"]}}"#,
);

fn parse(text: &str) -> Result<Vec<Sample>, Error> {
    manifest::parse_with(text.as_bytes(), Path::new("set/manifest.jsonl"), &Greys)
}

/// The error of a file whose second line is `line`.
fn error(line: &str) -> Error {
    parse(&format!("{DEV}\n{line}\n")).unwrap_err()
}

/// A line with one field replaced, or removed where `value` is empty.
fn with(line: &str, field: &str, value: &str) -> String {
    let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    fields.insert("id".into(), "other".into());
    if value.is_empty() {
        assert!(fields.remove(field).is_some(), "{field} is not there to be removed");
    } else {
        fields.insert(field.into(), serde_json::from_str(value).unwrap());
    }
    serde_json::to_string(&fields).unwrap()
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn reads_every_kind_of_sample() {
    let text = format!("\u{feff}{DEV}\r\n\n{CALIBRATION}\n   {VQA}  \n{PERPLEXITY}\n{SCENE}");
    let samples = parse(&text).unwrap();
    let [dev, calibration, vqa, perplexity, scene] = &samples[..] else { panic!("five samples") };
    assert_eq!(
        dev,
        &Sample {
            id: "d1".into(),
            source: "mine".into(),
            split: Split::Dev,
            category: "hate".into(),
            condition: Condition::Standard,
            attack: None,
            image: None,
            prompt: "why?".into(),
            response: None,
            label: None,
            reference: None,
            task: None,
            subcategory: None,
            request: None,
        }
    );
    assert_eq!((calibration.split, calibration.label), (Split::Calibration, Some(true)));
    assert_eq!(calibration.response.as_deref(), Some("because."));
    assert_eq!((vqa.split, vqa.task), (Split::Utility, Some(Task::Vqa)));
    assert_eq!(vqa.image, Some(ImageRef::File { folder: "set".into(), path: "a.png".into() }));
    let reference = Reference { kind: "open".into(), key: None, answers: vec!["a car".into()] };
    assert_eq!(vqa.reference, Some(reference));
    assert_eq!(perplexity.task, Some(Task::Perplexity));
    assert_eq!((scene.condition, scene.attack.as_deref()), (Condition::Adversarial, Some("prefix")));
    assert_eq!(scene.image().unwrap().unwrap().dimensions(), (1, 1));
    assert_eq!(dev.image().unwrap(), None);
    assert_eq!(parse("").unwrap(), []);
}

#[test]
fn null_is_absent() {
    assert!(parse(&with(DEV, "response", "null")).unwrap()[0].response.is_none());
    assert!(matches!(error(&with(CALIBRATION, "label", "null")), Error::MissingField { field: "label", .. }));
}

#[test]
fn errors_name_file_line_field_and_expectation() {
    let text = error(&with(DEV, "split", "\"train\"")).to_string();
    for part in ["set/manifest.jsonl:2", "`split`", "\"train\"", "calibration, dev, test, utility"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn io() {
    assert!(matches!(manifest::read(Path::new("/nowhere/m.jsonl")), Err(Error::Io { .. })));
    assert!(matches!(manifest::read(&std::env::temp_dir()), Err(Error::Io { .. })), "a folder");
}

#[test]
fn line_too_long() {
    let line = format!("{DEV}\n\"{}\"", "x".repeat(17 << 20));
    assert!(matches!(parse(&line), Err(Error::LineTooLong { line: 2, .. })));
}

#[test]
fn not_utf8() {
    let bytes = [DEV.as_bytes(), b"\n{\"id\": \"\xff\"}"].concat();
    let result = manifest::parse(&bytes[..], Path::new("m.jsonl"));
    assert!(matches!(result, Err(Error::NotUtf8 { line: 2, .. })));
}

#[test]
fn syntax() {
    let deep = "[".repeat(10_000);
    for line in ["{", "[]", "1", "null", "\"text\"", "{} {}", "{'id': 1}", "{\"a\": NaN}", deep.as_str()] {
        let e = error(line);
        assert!(matches!(e, Error::Syntax { line: 2, .. }), "{line:.20}: {e}");
    }
    assert!(!error("{").to_string().contains("line 1"), "the parser's own line number is no help");
}

#[test]
fn newer_schema() {
    let line = r#"{"schema": 2, "id": {"new": "form"}, "colour": "unknown"}"#;
    let e = error(line);
    assert!(matches!(e, Error::NewerSchema { line: 2, found: 2, supported: 1, .. }), "{e}");
    assert!(e.to_string().contains("update"), "{e}");
}

#[test]
fn missing_fields() {
    for field in ["schema", "id", "source", "split", "category", "condition", "prompt"] {
        let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(DEV).unwrap();
        fields.remove(field);
        let e = error(&serde_json::to_string(&fields).unwrap());
        assert!(matches!(e, Error::MissingField { field: f, line: 2, .. } if f == field), "{field}: {e}");
    }
    let cases = [
        (CALIBRATION, "response", "response"),
        (CALIBRATION, "label", "label"),
        (PERPLEXITY, "response", "response"),
        (PERPLEXITY, "task", "task"),
        (VQA, "reference", "reference"),
    ];
    for (line, removed, named) in cases {
        let e = error(&with(line, removed, ""));
        assert!(matches!(e, Error::MissingField { field, .. } if field == named), "{removed}: {e}");
    }
    let no_answer = with(VQA, "reference", r#"{"kind": "open", "answers": []}"#);
    assert!(matches!(error(&no_answer), Error::MissingField { field: "reference.answers", .. }));
    let no_key = with(SCENE, "reference", r#"{"kind": "greys/level", "key": [], "answers": ["it is 7"]}"#);
    assert!(matches!(error(&no_key), Error::MissingField { field: "reference.key", .. }));
}

#[test]
fn invalid_fields() {
    let cases = [
        ("schema", "0"),
        ("schema", "-1"),
        ("schema", "1.5"),
        ("schema", "\"1\""),
        ("source", "7"),
        ("source", "\" \""),
        ("split", "\"Dev\""),
        ("split", "{\"dev\": 1}"),
        ("condition", "true"),
        ("category", "[]"),
        ("category", "\"\""),
        ("prompt", "{}"),
        ("prompt", "\"\\n\""),
        ("attack", "1"),
        ("response", "[\"a\"]"),
        ("label", "2"),
        ("label", "true"),
        ("label", "\"1\""),
        ("label", "-1"),
        ("image", "3"),
        ("image", "\"\""),
        ("image", "\".\""),
        ("image", "{}"),
        ("image", "{\"file\": \"a.png\"}"),
        ("image", "{\"scene\": {}, \"file\": \"a.png\"}"),
        ("reference", "\"car\""),
        ("reference", "{\"kind\": \"open\", \"answers\": \"car\"}"),
        ("reference", "{\"kind\": \"open\", \"answer\": [\"car\"]}"),
        ("task", "\"vqa\""),
        ("task", "\"chess\""),
    ];
    for (name, value) in cases {
        let e = error(&with(DEV, name, value));
        assert!(matches!(e, Error::InvalidField { field, line: 2, .. } if field == name), "{name} {value}: {e}");
    }
    let mut id: serde_json::Value = serde_json::from_str(DEV).unwrap();
    id["id"] = 5.into();
    assert!(matches!(error(&id.to_string()), Error::InvalidField { field: "id", .. }));

    let scenes = [r#"{"level": 7}"#, r#"{"level": 255, "form": "dot"}"#, "[]", "null"];
    for scene in scenes {
        let e = error(&with(DEV, "image", &format!("{{\"scene\": {scene}}}")));
        assert!(matches!(e, Error::InvalidField { field: "image.scene", .. }), "{scene}: {e}");
    }
    let not_visual = with(VQA, "reference", r#"{"kind": "greys/talk", "answers": ["hello."]}"#);
    assert!(matches!(error(&not_visual), Error::InvalidField { field: "reference.kind", .. }));
}

#[test]
fn long_values_are_shortened_in_errors() {
    let e = error(&with(DEV, "label", &format!("\"{}\"", "é".repeat(5_000))));
    assert!(e.to_string().chars().count() < 300, "{e}");
}

#[test]
fn unknown_field() {
    let e = error(&with(DEV, "lable", "1"));
    assert!(matches!(&e, Error::UnknownField { field, line: 2, .. } if field == "lable"), "{e}");
    assert!(e.to_string().contains("label"), "{e}");
}

#[test]
fn duplicate_id() {
    let e = parse(&format!("{DEV}\n{CALIBRATION}\n\n{DEV}")).unwrap_err();
    assert!(matches!(&e, Error::DuplicateId { id, first: 1, line: 4, .. } if id == "d1"), "{e}");
}

#[test]
fn image_outside() {
    for path in ["/etc/passwd", "../a.png", "a/../../b.png", "a/..", "..", "..\\\\a.png", "C:\\\\a.png"] {
        let e = error(&with(DEV, "image", &format!("\"{path}\"")));
        assert!(matches!(e, Error::ImageOutside { line: 2, .. }), "{path}: {e}");
    }
    assert!(parse(&with(DEV, "image", "\"./a/b/..c.png\"")).is_ok());
}

#[test]
fn images_are_decoded_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let pixels = image::RgbaImage::from_fn(3, 2, |x, y| image::Rgba([u8::try_from(x).unwrap(), u8::try_from(y).unwrap(), 9, 128]));
    std::fs::create_dir(folder.path().join("images")).unwrap();
    pixels.save(folder.path().join("images/a.png")).unwrap();
    // The extension of a file name does not matter.
    std::fs::copy(folder.path().join("images/a.png"), folder.path().join("images/b.jpg")).unwrap();
    for name in ["images/a.png", "images/b.jpg"] {
        let path = write(folder.path(), "m.jsonl", &with(DEV, "image", &format!("\"{name}\"")));
        let image = manifest::read(&path).unwrap()[0].image().unwrap().unwrap();
        assert_eq!(image.dimensions(), (3, 2));
        // Half transparent pixels are half white; the numbers are those of Pillow.
        assert_eq!(image.get_pixel(2, 1).0, [128, 128, 132]);
    }
}

#[test]
fn broken_images() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "text.png", "not a picture");
    write(folder.path(), "cut.png", "\u{89}PNG");
    std::fs::create_dir(folder.path().join("folder.png")).unwrap();
    // A PNG header that promises 60,000 x 60,000 pixels in 57 bytes.
    let mut bomb = vec![0x89, b'P', b'N', b'G', 13, 10, 26, 10, 0, 0, 0, 13];
    let mut header = b"IHDR".to_vec();
    header.extend(60_000u32.to_be_bytes());
    header.extend(60_000u32.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let crc = crc32(&header);
    bomb.extend(header);
    bomb.extend(crc.to_be_bytes());
    // The data begin, with none.
    bomb.extend([0, 0, 0, 0]);
    bomb.extend(b"IDAT");
    bomb.extend(crc32(b"IDAT").to_be_bytes());
    std::fs::write(folder.path().join("bomb.png"), bomb).unwrap();
    for name in ["absent.png", "text.png", "cut.png", "folder.png", "bomb.png"] {
        let path = write(folder.path(), "m.jsonl", &with(DEV, "image", &format!("\"{name}\"")));
        let e = manifest::read(&path).unwrap()[0].image().unwrap_err();
        assert!(matches!(&e, Error::Image { id, .. } if id == "other"), "{e}");
        assert!(e.to_string().contains(name), "{e}");
        if name == "bomb.png" {
            assert!(e.to_string().contains("60000 x 60000 pixels are more than"), "{e}");
        }
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 }))
}

#[test]
fn written_manifests_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let text = [DEV, CALIBRATION, VQA, PERPLEXITY, SCENE].join("\n");
    let source = write(folder.path(), "a.jsonl", &text);
    let copy = folder.path().join("b.jsonl");
    let samples = manifest::read_with(&source, &Greys).unwrap();
    manifest::write_with(&copy, &samples, &Greys).unwrap();
    assert_eq!(manifest::read_with(&copy, &Greys).unwrap(), samples);
    let lines = std::fs::read_to_string(&copy).unwrap();
    assert_eq!(lines.lines().count(), 5);
    assert!(lines.lines().all(|line| line.starts_with("{\"schema\":1,\"id\":")), "{lines}");
}

#[test]
fn unreadable_manifests_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.jsonl");
    let mut samples = parse(&format!("{DEV}\n{CALIBRATION}")).unwrap();
    samples[1].label = None;
    assert!(matches!(manifest::write(&path, &samples), Err(Error::MissingField { field: "label", line: 2, .. })));
    let twice = [samples[0].clone(), samples[0].clone()];
    assert!(matches!(manifest::write(&path, &twice), Err(Error::DuplicateId { first: 1, line: 2, .. })));
    let elsewhere = parse(VQA).unwrap();
    assert!(matches!(manifest::write(&path, &elsewhere), Err(Error::InvalidField { field: "image", .. })));
    assert!(!path.exists());
    let blocked = folder.path().join("m.jsonl/x");
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(manifest::write(&blocked, &samples[..1]), Err(Error::Write(_))));
}

#[test]
fn the_hash_is_of_the_content() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let picture = |value| image::RgbImage::from_pixel(2, 2, image::Rgb([value; 3]));
    picture(1).save(a.path().join("a.png")).unwrap();
    picture(1).save(b.path().join("z.png")).unwrap();
    let read = |folder: &Path, text: &str| manifest::read_with(&write(folder, "m.jsonl", text), &Greys).unwrap();
    let one = read(a.path(), &format!("{DEV}\n{VQA}\n{SCENE}"));
    let hash = manifest::sha256(&one).unwrap();
    assert_eq!(hash.len(), 64);

    // Another order, other white space, another place and name of the same picture: the same set.
    let reordered = format!("{SCENE}\n{}\n  {DEV}", VQA.replace("a.png", "z.png").replace(": ", ":"));
    assert_eq!(manifest::sha256(&read(b.path(), &reordered)).unwrap(), hash);

    // Another picture under the same name, another label, one sample less or twice: another set.
    picture(2).save(a.path().join("a.png")).unwrap();
    assert_ne!(manifest::sha256(&one).unwrap(), hash);
    picture(1).save(a.path().join("a.png")).unwrap();
    assert_eq!(manifest::sha256(&one).unwrap(), hash);
    assert_ne!(manifest::sha256(&one[1..]).unwrap(), hash);
    assert_ne!(manifest::sha256(&[&one[..], &one[..1]].concat()).unwrap(), hash);
    let mut other = one.clone();
    other[0].label = Some(false);
    assert_ne!(manifest::sha256(&other).unwrap(), hash);

    std::fs::remove_file(a.path().join("a.png")).unwrap();
    assert!(matches!(manifest::sha256(&one), Err(Error::Io { .. })));
}
