//! BeaverTails-V's Parquet files, written by pyarrow (`tools/golden/datasets.py`).

use mm_toxic_qa::datasets::{BeaverTailsV, Dataset, Item, Part, Picture};
use mm_toxic_qa::{Error, Result, Split};

fn read(file: &[u8], open: fn(&std::path::Path) -> BeaverTailsV) -> Result<Vec<Item>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data/animal_abuse")).unwrap();
    std::fs::write(folder.path().join("data/animal_abuse/train.parquet"), file).unwrap();
    open(folder.path()).items()
}

const RIGHT: &[u8] = include_bytes!("../golden/datasets/beavertails_v.parquet");

#[test]
fn questions_and_answers() {
    let items = read(RIGHT, |folder| BeaverTailsV::questions(folder)).unwrap();
    let found: Vec<_> = items.iter().map(|i| (i.sample.id.as_str(), i.sample.category.as_str(), i.place.entry.as_str())).collect();
    let expected = [
        ("beavertails-v/data/animal_abuse/train/1", "animal_abuse", "row 1"),
        ("beavertails-v/data/animal_abuse/train/2", "animal_abuse", "row 2"),
        ("beavertails-v/data/animal_abuse/train/3", "horror_and_gore", "row 3"),
    ];
    assert_eq!(found, expected);
    assert_eq!((items[0].sample.split, items[0].sample.response.as_ref()), (Split::Test, None));
    assert_eq!(items[0].sample.prompt, "placeholder question 1?");
    let pixels = |item: &Item| match &item.picture {
        Some(Picture::Bytes(bytes)) => image::load_from_memory(bytes).unwrap().into_rgb8().get_pixel(0, 0).0,
        other => panic!("{other:?}"),
    };
    assert_eq!(pixels(&items[0]), [40, 0, 0]);
    assert!(pixels(&items[2])[0].abs_diff(80) < 4, "a JPEG file");

    let items = read(RIGHT, |folder| BeaverTailsV::answers(folder)).unwrap();
    let labels: Vec<_> = items.iter().map(|i| (i.sample.response.as_deref().unwrap(), i.sample.label)).collect();
    let expected = [("placeholder answer 1", Some(false)), ("placeholder answer 2", Some(true)), ("placeholder answer 3", Some(true))];
    assert_eq!(labels, expected);
    assert_eq!(items[0].sample.split, Split::Calibration);
}

#[test]
fn two_answers_a_row() {
    let file = include_bytes!("../golden/datasets/pairs.parquet");
    let items = read(file, |folder| BeaverTailsV::answers(folder)).unwrap();
    let found: Vec<_> = items.iter().map(|i| (i.sample.id.as_str(), i.sample.response.as_deref().unwrap(), i.sample.label)).collect();
    assert_eq!(found.len(), 6);
    assert_eq!(found[2], ("beavertails-v/data/animal_abuse/train/2/answer_1", "first 1", Some(false)));
    assert_eq!(found[3], ("beavertails-v/data/animal_abuse/train/2/answer_2", "second 1", Some(true)));
    assert_eq!(read(file, |folder| BeaverTailsV::questions(folder)).unwrap().len(), 3);
}

#[test]
fn every_compression_of_parquet() {
    let files: [&[u8]; 4] = [
        include_bytes!("../golden/datasets/zstd.parquet"),
        include_bytes!("../golden/datasets/gzip.parquet"),
        include_bytes!("../golden/datasets/lz4.parquet"),
        include_bytes!("../golden/datasets/brotli.parquet"),
    ];
    for file in files {
        let items = read(file, |folder| BeaverTailsV::questions(folder)).unwrap();
        assert_eq!((items.len(), items[0].sample.prompt.as_str()), (1, "placeholder question?"));
    }
}

#[test]
fn files_name_their_split() {
    let folder = tempfile::tempdir().unwrap();
    let names =
        ["a/train.parquet", "b/evaluation.parquet", "c/test/0000.parquet", "d/train-00000-of-00002.parquet", "e/training_wheels.parquet"];
    for name in names {
        std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(name), include_bytes!("../golden/datasets/zstd.parquet")).unwrap();
    }
    let parts: Vec<_> = BeaverTailsV::questions(folder.path()).items().unwrap().into_iter().map(|item| item.part).collect();
    assert_eq!(parts, [Some(Part::Train), Some(Part::Evaluation), Some(Part::Evaluation), Some(Part::Train), None]);
}

#[test]
fn malformed() {
    let entry = |file: &[u8]| match read(file, |folder| BeaverTailsV::answers(folder)).unwrap_err() {
        Error::DatasetEntry { path, entry, field, .. } => {
            assert!(path.ends_with("train.parquet"));
            (entry, field)
        }
        other => panic!("{other}"),
    };
    assert_eq!(entry(include_bytes!("../golden/datasets/no_image.parquet")), ("row 2".into(), "image.bytes".into()));
    assert_eq!(entry(include_bytes!("../golden/datasets/verdict.parquet")), ("row 1".into(), "is_response_safe".into()));
    let whole = |file: &[u8]| match read(file, |folder| BeaverTailsV::answers(folder)).unwrap_err() {
        Error::DatasetFile { path, reason } if path.ends_with("train.parquet") => reason,
        other => panic!("{other}"),
    };
    assert!(whole(include_bytes!("../golden/datasets/no_column.parquet")).contains("`image` is missing; found question, category"));
    assert!(whole(b"PAR1 and no more").contains("Parquet"));
    assert!(whole(&RIGHT[..RIGHT.len() - 9]).contains("Parquet"));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(BeaverTailsV::questions(empty.path()).items(), Err(Error::DatasetFile { .. })));
}

/// The Parquet decoder panics on some broken files; the reader does not.
#[test]
fn every_byte_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.parquet");
    let (mut panics, mut errors) = (0, 0);
    for at in 0..RIGHT.len() {
        let mut bytes = RIGHT.to_vec();
        bytes[at] ^= 0xff;
        std::fs::write(&path, bytes).unwrap();
        match BeaverTailsV::answers(folder.path()).items() {
            Ok(items) => assert!(items.len() <= 3),
            Err(Error::DatasetFile { reason, .. }) if reason.contains("panicked") => panics += 1,
            Err(_) => errors += 1,
        }
    }
    assert!(panics > 0 && errors > 100, "{panics} {errors}");
}
