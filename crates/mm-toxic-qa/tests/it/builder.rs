//! The builder: the choice of samples, splits that share nothing, and independence of everything except seed and samples.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use mm_toxic_qa::builder::{Builder, DATASHEET, MANIFEST};
use mm_toxic_qa::datasets::{Dataset, Entry, Item, Part, Picture, Place};
use mm_toxic_qa::{
    BuildPlan, Condition, Datasheet, Error, EvaluationSplit, ImageRef, MM_TOXIC_QA_CATEGORIES, ManifestSource, Reference, Result, Sample,
    Source, Split, Task, manifest, scoring,
};
use proptest::prelude::*;
use sgm_core::OnBadSample;

/// A data set in memory.
#[derive(Clone)]
struct Given(Vec<Item>);

impl Dataset for Given {
    fn source(&self) -> Result<String> {
        Ok("given".to_owned())
    }

    fn for_each(&self, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        self.0.iter().cloned().map(Entry::Item).try_for_each(&mut *each)?;
        let place = || Place { path: "given.jsonl".into(), entry: "entry of no use".into() };
        (0..2).try_for_each(|_| each(Entry::LeftOut { place: place(), reason: "of no use" }))
    }
}

/// A PNG file of one pixel, different for every number.
fn png(n: u32) -> Vec<u8> {
    let [r, g, b, _] = n.to_le_bytes();
    let mut out = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(1, 1, image::Rgb([r, g, b])).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

fn item(id: &str, category: &str, prompt: &str, picture: Option<u32>) -> Item {
    let sample = Sample {
        id: id.into(),
        source: "given".into(),
        split: Split::Test,
        category: category.into(),
        condition: Condition::Standard,
        attack: None,
        image: None,
        prompt: prompt.into(),
        response: None,
        label: None,
        reference: None,
        task: None,
        subcategory: None,
        request: None,
    };
    let place = Place { path: "given.jsonl".into(), entry: format!("entry {id:?}") };
    Item { sample, picture: picture.map(|n| Picture::Bytes(png(n))), place, part: None }
}

fn answer(id: &str, prompt: &str, picture: Option<u32>, response: &str, toxic: bool) -> Item {
    let mut item = item(id, "c", prompt, picture);
    item.sample.split = Split::Calibration;
    (item.sample.response, item.sample.label) = (Some(response.into()), Some(toxic));
    item
}

fn question(id: &str, prompt: &str, picture: Option<u32>) -> Item {
    let mut item = item(id, "ocr", prompt, picture);
    (item.sample.split, item.sample.task) = (Split::Utility, Some(Task::Vqa));
    item.sample.reference = Some(Reference { kind: "k".into(), key: None, answers: vec!["a".into()] });
    item
}

fn build(plan: BuildPlan, seed: u64, items: Vec<Item>) -> Result<(Vec<Sample>, Datasheet)> {
    let folder = tempfile::tempdir().unwrap();
    let built = Builder::new(plan, seed).add(Box::new(Given(items))).build(folder.path())?;
    assert_eq!(manifest::read(&folder.path().join(MANIFEST)).unwrap(), built.samples);
    Ok((built.samples, built.datasheet))
}

fn dropped(sheet: &Datasheet) -> BTreeMap<String, usize> {
    sheet.dropped().filter(|(_, reason, _)| *reason != "of no use").map(|(_, reason, n)| (reason.to_owned(), n)).collect()
}

/// Enough samples for the plan and some of every other kind; with images, or without, which is faster.
fn plenty(images: bool) -> Vec<Item> {
    let mut items = Vec::new();
    for (c, category) in MM_TOXIC_QA_CATEGORIES.iter().chain(&["violence_and_physical_harm"]).enumerate() {
        for n in 0..50_u32 {
            let picture = images.then(|| u32::try_from(c).unwrap() * 100 + n);
            items.push(item(&format!("t/{category}/{n}"), category, &format!("question {n} about {category}"), picture));
        }
    }
    items.extend((0..30).map(|n| answer(&format!("c/{n}"), &format!("asked {n}"), Some(5000 + n), "said", n % 3 == 0)));
    items.extend((0..10).map(|n| question(&format!("u/{n}"), &format!("what is {n}"), Some(6000 + n))));
    items
}

#[test]
fn the_plan_is_filled() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let built = Builder::new(BuildPlan::mm_toxic_qa_v1(), 3).add(Box::new(Given(plenty(true)))).build(&out).unwrap();
    let mut counts: HashMap<(&str, Split), usize> = HashMap::new();
    for sample in &built.samples {
        *counts.entry((&sample.category, sample.split)).or_insert(0) += 1;
    }
    for category in MM_TOXIC_QA_CATEGORIES {
        assert_eq!((counts[&(category, Split::Test)], counts[&(category, Split::Dev)]), (26, 13));
    }
    assert_eq!((counts[&("c", Split::Calibration)], counts[&("ocr", Split::Utility)]), (30, 10));
    assert_eq!(built.samples.len(), 19 * (26 + 13) + 30 + 10);
    let expected = [("category not in the plan".to_owned(), 50), ("more than the plan takes".to_owned(), 19 * 11)];
    assert_eq!(dropped(&built.datasheet), BTreeMap::from(expected));

    let source = ManifestSource::open(out.join(MANIFEST), EvaluationSplit::Test).unwrap();
    assert_eq!((source.evaluation().unwrap().standard.len(), source.evaluation().unwrap().vqa.len()), (494, 10));
    assert_eq!(source.calibration(0).unwrap().len(), 30);
    assert!(source.samples().iter().all(|sample| sample.image().unwrap().is_some()));

    let sheet = std::fs::read_to_string(out.join(DATASHEET)).unwrap();
    assert_eq!(sheet, built.datasheet.markdown());
    for part in [
        "plan `mm-toxic-qa-v1`, seed 3",
        "A reconstruction of MM-TOXIC-QA, not the set of the paper",
        "| given | test | animal_abuse | standard | 26 |",
        "| given | category not in the plan | 50 |",
        "| given | of no use | 2 |",
        "Labelled answers: 10 toxic, 20 non-toxic.",
        &manifest::sha256(&built.samples).unwrap(),
        "- given:",
    ] {
        assert!(sheet.contains(part), "{part} is not in\n{sheet}");
    }
    let again = Builder::new(BuildPlan::mm_toxic_qa_v1(), 3).add(Box::new(Given(plenty(true)))).build(&out);
    assert!(matches!(again, Err(Error::DatasetFile { .. })), "a benchmark is not overwritten");
}

#[test]
fn the_seed_decides_and_the_order_does_not() {
    let ids = |seed, items| -> Vec<String> {
        build(BuildPlan::mm_toxic_qa_v1(), seed, items).unwrap().0.into_iter().map(|s| format!("{:?} {}", s.split, s.id)).collect()
    };
    let first = ids(1, plenty(false));
    let mut reversed = plenty(false);
    reversed.reverse();
    assert_eq!(ids(1, reversed.clone()), first);
    assert_ne!(ids(2, plenty(false)), first);

    // The data set of an item does not matter either.
    let folder = tempfile::tempdir().unwrap();
    let half = reversed.split_off(reversed.len() / 2);
    let builder = Builder::new(BuildPlan::mm_toxic_qa_v1(), 1).add(Box::new(Given(half))).add(Box::new(Given(reversed)));
    let built = builder.build(folder.path()).unwrap();
    assert_eq!(built.samples, {
        let (samples, _) = build(BuildPlan::mm_toxic_qa_v1(), 1, plenty(false)).unwrap();
        // The other samples were built in another folder.
        let moved = |sample: Sample| match sample.image {
            Some(ImageRef::File { path, .. }) => {
                let image = Some(ImageRef::File { folder: folder.path().to_owned(), path });
                Sample { image, ..sample }
            }
            _ => sample,
        };
        samples.into_iter().map(moved).collect::<Vec<_>>()
    });
}

#[test]
fn a_source_that_grows_changes_little() {
    let plan = || BuildPlan { test_per_category: Some(20), ..BuildPlan::everything() };
    let items: Vec<Item> = (0..100).map(|n| item(&n.to_string(), "c", &format!("question {n}"), None)).collect();
    let chosen = |items: &[Item]| -> BTreeSet<String> { build(plan(), 1, items.to_vec()).unwrap().0.into_iter().map(|s| s.id).collect() };
    let (fewer, all) = (chosen(&items[..95]), chosen(&items));
    assert!(fewer.difference(&all).count() <= 5);
}

#[test]
fn related_samples_stay_together() {
    // t shares its image with a, a its prompt (in other case) with b, b its image with u: all have to be in one split.
    let items = vec![
        item("t", "c", "what?", Some(1)),
        answer("a", "The SAME thing.", Some(1), "x", true),
        answer("b", "same thing", Some(2), "y", false),
        question("u", "how many?", Some(2)),
        answer("c", "another thing", Some(3), "z", true),
        answer("d", "third thing", None, "z", false),
    ];
    let (samples, sheet) = build(BuildPlan::everything(), 1, items).unwrap();
    let found: Vec<_> = samples.iter().map(|s| (s.id.as_str(), s.split)).collect();
    assert_eq!(found, [("c", Split::Calibration), ("d", Split::Calibration), ("t", Split::Test)]);
    assert_eq!(dropped(&sheet), BTreeMap::from([("shares an image or prompt with another split".to_owned(), 3)]));
    assert!(sheet.markdown().contains("largest group of related samples has 4"), "{}", sheet.markdown());
}

#[test]
fn duplicates_and_disputed_answers_are_left_out() {
    let mut renamed = item("t2", "other", "What?", Some(1));
    renamed.sample.source = "elsewhere".into();
    let items = vec![
        item("t1", "c", "what?", Some(1)),
        renamed,
        item("t3", "c", "what?", Some(2)),
        answer("a", "asked", None, "said", true),
        answer("b", "asked!", None, "said", false),
        answer("c", "asked", None, "said more", false),
        answer("d", "asked", None, "said much more", true),
    ];
    let (samples, sheet) = build(BuildPlan::everything(), 1, items).unwrap();
    let ids: Vec<_> = samples.iter().map(|s| s.id.as_str()).collect();
    assert!(ids == ["c", "d", "t1", "t3"] || ids == ["c", "d", "t2", "t3"], "{ids:?}");
    let expected = [("duplicate".to_owned(), 1), ("the same answer with both labels".to_owned(), 2)];
    assert_eq!(dropped(&sheet), BTreeMap::from(expected));
}

#[test]
fn attacks_of_a_data_set_are_tested_with() {
    let mut attack = item("j", "a category of its own", "in a story, what?", None);
    (attack.sample.condition, attack.sample.attack) = (Condition::Adversarial, Some("story".into()));
    let plan = BuildPlan { categories: Some(vec!["c".into()]), test_per_category: Some(1), ..BuildPlan::everything() };
    let (samples, _) = build(plan, 1, vec![attack, item("t", "c", "what?", None)]).unwrap();
    assert_eq!(samples.iter().map(|s| (s.id.as_str(), s.split)).collect::<Vec<_>>(), [("j", Split::Test), ("t", Split::Test)]);
}

#[test]
fn too_few_is_an_error() {
    let error = |plan: BuildPlan, items| build(plan, 1, items).unwrap_err();
    let one = || vec![item("t", "c", "what?", None)];
    let e = error(BuildPlan { test_per_category: Some(2), ..BuildPlan::everything() }, one());
    assert!(matches!(&e, Error::TooFew { split: "test", of, wanted: 2, found: 1 } if of == "category `c`"), "{e}");
    let e = error(BuildPlan { test_per_category: Some(1), dev_per_category: 1, ..BuildPlan::everything() }, one());
    assert!(matches!(e, Error::TooFew { split: "dev", found: 0, .. }), "{e}");
    let e = error(BuildPlan { calibration_per_label: Some(1), ..BuildPlan::everything() }, one());
    assert!(matches!(&e, Error::TooFew { split: "calibration", of, .. } if of == "label 1"), "{e}");
    let e = error(BuildPlan::mm_toxic_qa_v1(), one());
    assert!(matches!(e, Error::TooFew { split: "test", wanted: 26, found: 0, .. }), "{e}");
    let folder = tempfile::tempdir().unwrap();
    let twice = Builder::new(BuildPlan::everything(), 1).add(Box::new(Given(one()))).add(Box::new(Given(one())));
    let e = twice.build(folder.path()).unwrap_err();
    assert!(matches!(&e, Error::ItemTwice { id, .. } if id == "t"), "{e}");
}

#[test]
fn images_are_copied_or_linked_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("picture.png");
    std::fs::write(&picture, png(1)).unwrap();
    let with = |path: &Path| {
        let mut item = item("t", "c", "what?", None);
        item.picture = Some(Picture::File(path.to_owned()));
        Given(vec![item])
    };
    for link in [false, true] {
        let out = folder.path().join(format!("out-{link}"));
        let builder = Builder::new(BuildPlan::everything(), 1).add(Box::new(with(&picture)));
        let built = if link { builder.linking() } else { builder }.build(&out).unwrap();
        let Some(ImageRef::File { path, .. }) = &built.samples[0].image else { panic!("a file") };
        assert!(path.starts_with("images/") && path.ends_with(".png"), "{path}");
        assert_eq!(std::fs::read(out.join(path)).unwrap(), png(1));
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
            assert_eq!(inode(&out.join(path)) == inode(&picture), link);
        }
    }
    let build = |given: Given| Builder::new(BuildPlan::everything(), 1).add(Box::new(given)).build(&folder.path().join("wrong"));
    assert!(matches!(build(with(&folder.path().join("missing.png"))), Err(Error::Io { .. })));
    std::fs::write(&picture, b"no image").unwrap();
    assert!(matches!(build(with(&picture)), Err(Error::Image { id, .. }) if id.starts_with("t (")));
    assert!(!folder.path().join("wrong").join(MANIFEST).exists());
}

#[test]
fn an_odd_entry_is_left_out_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.png");
    std::fs::write(&broken, &png(1)[..40]).unwrap();
    let with =
        |id: &str, path: &Path| Item { picture: Some(Picture::File(path.to_owned())), ..item(id, "c", &format!("what {id}?"), None) };
    let items = vec![item("a", "c", "what?", Some(1)), with("b", &broken), with("d", &folder.path().join("missing.png"))];
    // The plan is filled from what is left: the broken picture is found only when its sample is chosen.
    for test_per_category in [None, Some(1)] {
        let (samples, sheet) = build(BuildPlan { test_per_category, ..BuildPlan::everything() }, 1, items.clone()).unwrap();
        assert_eq!(samples.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["a"]);
        if test_per_category.is_none() {
            assert_eq!(dropped(&sheet), BTreeMap::from([("not as published".to_owned(), 2)]));
            assert!(sheet.markdown().contains("missing.png") && sheet.markdown().contains("image of `b ("), "{}", sheet.markdown());
        }
    }
    // On request they are errors, whether they are found on the first reading or among the chosen.
    for (odd, named) in [(items[1].clone(), "image of `b ("), (items[2].clone(), "missing.png")] {
        let out = folder.path().join(named.trim_start_matches("image of `"));
        let builder = Builder::new(BuildPlan::everything(), 1).on_bad_sample(OnBadSample::Refuse);
        let error = builder.add(Box::new(Given(vec![items[0].clone(), odd]))).build(&out).unwrap_err();
        assert!(error.to_string().contains(named) && !out.join(MANIFEST).exists(), "{error}");
    }
}

#[test]
fn nothing_left_is_an_error() {
    let error = build(BuildPlan { categories: Some(Vec::new()), ..BuildPlan::everything() }, 1, vec![item("t", "c", "what?", None)]);
    assert!(matches!(&error, Err(Error::DatasetFile { reason, .. }) if reason.contains("nothing is left")), "{error:?}");
}

#[test]
fn published_splits_are_kept() {
    let of = |id: &str, part| Item { part: Some(part), ..item(id, "c", &format!("question {id}"), None) };
    let mut items: Vec<Item> = (0..8).map(|n| of(&format!("train{n}"), Part::Train)).collect();
    items.extend((0..4).map(|n| of(&format!("eval{n}"), Part::Evaluation)));
    for (n, part) in [Part::Train, Part::Evaluation, Part::Train, Part::Evaluation].into_iter().enumerate() {
        items.push(Item { part: Some(part), ..answer(&format!("answer{n}"), &format!("asked {n}"), None, "said", n < 2) });
    }
    let ids = |plan, split, ignore: bool| -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let builder = Builder::new(plan, 1).add(Box::new(Given(items.clone())));
        let built = if ignore { builder.ignoring_parts() } else { builder }.build(folder.path()).unwrap();
        built.samples.into_iter().filter(|s| s.split == split).map(|s| s.id).collect()
    };
    let small = |calibrate_on_evaluation| BuildPlan {
        test_per_category: Some(2),
        dev_per_category: 1,
        calibrate_on_evaluation,
        ..BuildPlan::everything()
    };
    assert!(ids(small(false), Split::Test, false).iter().all(|id| id.starts_with("eval")));
    assert!(ids(small(false), Split::Dev, false).iter().all(|id| id.starts_with("train")));
    assert_eq!(ids(small(false), Split::Calibration, false), ["answer0", "answer2"]);
    assert_eq!(ids(small(true), Split::Calibration, false).len(), 4);
    let everything = |split, ignore| ids(BuildPlan::everything(), split, ignore).len();
    assert_eq!([Split::Test, Split::Dev].map(|split| everything(split, false)), [4, 8]);
    assert_eq!([Split::Test, Split::Dev].map(|split| everything(split, true)), [12, 0]);
}

#[test]
fn a_prompt_that_tells_the_label_is_warned_of() {
    let given_away = |n: u32| {
        answer(
            &n.to_string(),
            if n.is_multiple_of(2) { "USER:" } else { "how do I placeholder?" },
            Some(n),
            &format!("said {n}"),
            n % 2 == 1,
        )
    };
    let (_, sheet) = build(BuildPlan::everything(), 1, (0..20).map(given_away).collect()).unwrap();
    assert_eq!(sheet.shortcuts()["prompt"], 1.0);
    assert!(sheet.markdown().contains("| prompt | 1.000 |") && sheet.markdown().contains("**Warning:"), "{}", sheet.markdown());
    // The same question to all, with both labels: nothing tells them apart.
    let fair = |n: u32| answer(&n.to_string(), "what is it?", Some(n / 2), &format!("said {:02}", (7 * n) % 20), n % 2 == 1);
    let (_, sheet) = build(BuildPlan::everything(), 1, (0..20).map(fair).collect()).unwrap();
    assert!(
        ["prompt", "image", "prompt length", "response length"].iter().all(|name| sheet.shortcuts()[*name] <= 0.5),
        "{:?}",
        sheet.shortcuts()
    );
    assert!(!sheet.markdown().contains("**Warning:"), "{}", sheet.markdown());
}

#[test]
fn duplicates_are_kept_on_request() {
    let items = vec![item("0", "c", "what?", None), item("1", "c", "why?", None), item("2", "c", "what?", None)];
    let folder = tempfile::tempdir().unwrap();
    let builder = Builder::new(BuildPlan::everything(), 1).add(Box::new(Given(items.clone()))).keeping_duplicates();
    assert_eq!(builder.build(folder.path()).unwrap().samples.len(), 3);
    assert_eq!(build(BuildPlan::everything(), 1, items).unwrap().0.len(), 2);
}

#[test]
fn an_id_that_a_set_has_twice_is_numbered() {
    let items = vec![item("0", "c", "what?", None), item("0", "c", "why?", None), item("0", "c", "who?", None)];
    let ids: Vec<_> = build(BuildPlan::everything(), 1, items).unwrap().0.into_iter().map(|s| s.id).collect();
    assert_eq!(ids, ["0", "0#2", "0#3"]);
}

#[test]
fn a_selection_is_the_test_split() {
    let items: Vec<Item> =
        (0..6).map(|n| item(&n.to_string(), if n < 4 { "c" } else { "d" }, &format!("question {n}?"), Some(n))).collect();
    // In other case, of another category, and not there.
    let listed = vec![item("x", "c", "QUESTION 1", None), item("y", "c", "question 4?", None), item("z", "d", "question 9?", None)];
    let folder = tempfile::tempdir().unwrap();
    let plan = BuildPlan { test_per_category: Some(26), dev_per_category: 1, ..BuildPlan::everything() };
    let builder = Builder::new(plan, 1).add(Box::new(Given(items))).selecting(Box::new(Given(listed)));
    let built = builder.build(folder.path()).unwrap();
    let of = |split| built.samples.iter().filter(|s| s.split == split).map(|s| s.id.as_str()).collect::<Vec<_>>();
    assert_eq!(of(Split::Test), ["1"]);
    assert!(built.samples[0].image.is_some());
    assert_eq!(of(Split::Dev).len(), 2);
    let left_out = dropped(&built.datasheet);
    assert_eq!((left_out["not in the data sets"], left_out["not in the selection"]), (2, 3));
    assert!(built.datasheet.markdown().contains("entry \"z\""), "{}", built.datasheet.markdown());
}

/// Items with few images and prompts, so that many are related.
fn crowded() -> impl Strategy<Value = Vec<Item>> {
    let one = (0..4_u8, 0..2_usize, 0..25_u32, prop::option::of(0..25_u32), any::<bool>());
    prop::collection::vec(one, 0..60).prop_map(|items| {
        let each = |(i, (kind, category, prompt, picture, label)): (usize, (u8, usize, u32, Option<u32>, bool))| {
            let (id, prompt) = (i.to_string(), format!("prompt {prompt}"));
            match kind {
                0 => answer(&id, &prompt, picture, if label { "x" } else { "y" }, label),
                1 => question(&id, &prompt, picture),
                _ => item(&id, ["c", "d"][category], &prompt, picture),
            }
        };
        items.into_iter().enumerate().map(each).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splits_share_nothing(items in crowded(), seed in 0..5_u64, order in any::<u64>()) {
        let plan = || BuildPlan { test_per_category: Some(2), dev_per_category: 1, ..BuildPlan::everything() };
        let total = items.len();
        let mut shuffled = items.clone();
        shuffled.sort_by_key(|item| order.wrapping_mul(item.sample.id.parse::<u64>().unwrap() + 1).rotate_left(17));
        let (result, other) = (build(plan(), seed, items), build(plan(), seed, shuffled));
        let Ok((samples, sheet)) = result else {
            // Too few for the test split, or nothing at all.
            let too_few = matches!(result, Err(Error::TooFew { .. } | Error::DatasetFile { .. }));
            prop_assert!(too_few && other.is_err());
            return Ok(());
        };
        prop_assert_eq!(sheet.sha256(), other.unwrap().1.sha256().to_owned());
        prop_assert_eq!(samples.len() + dropped(&sheet).values().sum::<usize>(), total);
        let mut owners: HashMap<String, Split> = HashMap::new();
        for sample in &samples {
            let image = match &sample.image {
                Some(ImageRef::File { path, .. }) => Some(path.clone()),
                _ => None,
            };
            for key in [Some(scoring::normalise(&sample.prompt)), image].into_iter().flatten() {
                prop_assert_eq!(*owners.entry(key).or_insert(sample.split), sample.split);
            }
        }
    }
}
