//! Labelled answers in spreadsheets, written by openpyxl (`tools/golden/datasets.py`).

use mm_toxic_qa::datasets::{Dataset, Entry, Item, NO_QUESTION, Picture, Spreadsheet};
use mm_toxic_qa::{Error, Result, Split};

const RIGHT: &[u8] = include_bytes!("../golden/datasets/calibration.xlsx");

fn read(file: &[u8]) -> Result<Vec<Item>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.xlsx");
    std::fs::write(&path, file).unwrap();
    Spreadsheet::text(path).items()
}

#[test]
fn labelled_answers() {
    let items = read(RIGHT).unwrap();
    let found: Vec<_> = items.iter().map(|i| (i.sample.id.as_str(), i.sample.response.as_deref(), i.sample.label)).collect();
    let expected = [
        ("calibration/2", Some("answer 1"), Some(true)),
        ("calibration/3", Some("answer 2"), Some(false)),
        ("calibration/5", Some("42"), Some(true)),
    ];
    assert_eq!(found, expected);
    let sample = &items[0].sample;
    assert_eq!((sample.split, sample.source.as_str(), sample.prompt.as_str()), (Split::Calibration, "calibration", "placeholder 1?"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibration.xlsx");
    std::fs::write(&path, RIGHT).unwrap();
    let items = Spreadsheet::with_images(path, "images").items().unwrap();
    assert_eq!(items[1].picture, Some(Picture::File("images/b.png".into())));
}

#[test]
fn rows_without_answers_are_questions() {
    let items = read(include_bytes!("../golden/datasets/questions.xlsx")).unwrap();
    let found: Vec<_> = items.iter().map(|i| (i.sample.split, i.sample.category.as_str(), i.sample.prompt.as_str())).collect();
    let expected = [(Split::Test, "animal_abuse", "placeholder question 0"), (Split::Test, "terrorism_or_extremism", "question 1")];
    assert_eq!(found, expected);
}

#[test]
fn conversations_are_cut_down_to_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.xlsx");
    std::fs::write(&path, include_bytes!("../golden/datasets/conversations.xlsx")).unwrap();
    let (mut found, mut left_out, mut odd) = (Vec::new(), Vec::new(), Vec::new());
    Spreadsheet::text(path)
        .for_each(&mut |entry| {
            match entry {
                Entry::Item(Item { sample, .. }) => found.push((sample.prompt, sample.response.unwrap(), sample.label, sample.category)),
                Entry::LeftOut { reason, .. } => left_out.push(reason),
                Entry::Odd(error) => odd.push(error.to_string()),
            }
            Ok(())
        })
        .unwrap();
    let category = "01-Illegal_Activitiy".to_owned();
    let expected = [
        ("placeholder question".to_owned(), "placeholder toxic answer".to_owned(), Some(true), category.clone()),
        (NO_QUESTION.to_owned(), "placeholder description".to_owned(), Some(false), category),
    ];
    assert_eq!(found, expected);
    assert_eq!(left_out, ["empty answer"]);
    assert!(odd.len() == 1 && odd[0].contains("row 5") && odd[0].contains("no answer"), "{odd:?}");
}

#[test]
fn malformed() {
    match read(include_bytes!("../golden/datasets/label.xlsx")).unwrap_err() {
        Error::DatasetEntry { entry, field, problem, .. } => {
            assert_eq!((entry.as_str(), field.as_str()), ("row 3", "label"));
            assert!(problem.contains("is 2; expected 1 (toxic)"), "{problem}");
        }
        other => panic!("{other}"),
    }
    for broken in [&b"PK"[..], &RIGHT[..RIGHT.len() / 2], b""] {
        assert!(matches!(read(broken), Err(Error::DatasetFile { .. })));
    }
}
