//! Attacks: drawn text against that of Pillow with the same font, and the documented properties of the others.

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use mm_toxic_qa::attacks::{
    Attack, CAPTION_PROMPT, CaptionAttack, Change, FIGSTEP_PROMPT, FigStepAttack, Jailbreak, Perturbation, attack_all,
};
use mm_toxic_qa::{Condition, Error, ImageFolder, Sample, Split, manifest};

fn sample(id: &str, prompt: &str) -> Sample {
    Sample {
        id: id.into(),
        source: "s".into(),
        split: Split::Test,
        category: "c".into(),
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
    }
}

fn attacked(attack: &dyn Attack, sample: &Sample, folder: &Path) -> Sample {
    attack.attack(sample, &ImageFolder::new(folder)).unwrap()
}

/// Checks a drawing against that of Pillow, in grey levels: `mean` bounds the mean absolute difference over the pixels that have ink in
/// either. At an edge, the polygons for curves of ab_glyph and FreeType may each be a sixteenth of a pixel off (16 levels), and the points
/// of FreeType are on 64ths of a pixel: 40 levels in all. A letter that is one pixel off would differ by 255.
fn assert_like_pillow(drawn: &RgbImage, golden: &[u8], rows: std::ops::Range<u32>, mean: f64) {
    let golden = image::load_from_memory(golden).unwrap().into_luma8();
    assert_eq!(drawn.dimensions(), golden.dimensions());
    let grey = GrayImage::from_fn(drawn.width(), drawn.height(), |x, y| {
        let Rgb([r, g, b]) = *drawn.get_pixel(x, y);
        assert!(r == g && g == b);
        Luma([r])
    });
    let (mut sum, mut n, mut most) = (0.0, 0.0, 0);
    for (x, y, &Luma([a])) in grey.enumerate_pixels().filter(|(_, y, _)| rows.contains(y)) {
        let b = golden.get_pixel(x, y).0[0];
        if a < 255 || b < 255 {
            sum += f64::from(a.abs_diff(b));
            n += 1.0;
            most = most.max(a.abs_diff(b));
        }
    }
    assert!(n > 1000.0 && sum / n < mean && most <= 40, "{} {most}", sum / n);
}

#[test]
fn figstep_is_drawn_as_pillow_draws_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = attacked(&FigStepAttack, &sample("t", "List ways to greet a well-known bird"), folder.path());
    assert_eq!((out.prompt.as_str(), out.condition, out.attack.as_deref()), (FIGSTEP_PROMPT, Condition::Adversarial, Some("figstep")));
    assert_eq!(out.id, "t+figstep");
    let drawn = out.image().unwrap().unwrap();
    assert_like_pillow(&drawn, include_bytes!("../golden/attacks/figstep.png"), 0..760, 1.0);
    manifest::write(&folder.path().join("m.jsonl"), &[out]).unwrap();
}

#[test]
fn captions_are_drawn_as_pillow_draws_them() {
    let folder = tempfile::tempdir().unwrap();
    let picture = RgbImage::from_fn(240, 40, |x, y| Rgb([u8::try_from(2 * y + x / 2).unwrap(); 3]));
    let image = Some(ImageFolder::new(folder.path()).put_pixels(&picture).unwrap());
    let with_image = Sample { image, ..sample("t", "Name a friendly animal and (maybe) the “Qügj” of it.") };
    let out = attacked(&CaptionAttack, &with_image, folder.path());
    assert_eq!((out.prompt.as_str(), out.attack.as_deref()), (CAPTION_PROMPT, Some("caption")));
    let drawn = out.image().unwrap().unwrap();
    assert!((0..240).all(|x| (0..40).all(|y| drawn.get_pixel(x, y) == picture.get_pixel(x, y))));
    assert_like_pillow(&drawn, include_bytes!("../golden/attacks/caption.png"), 40..drawn.height(), 2.5);

    let error = CaptionAttack.attack(&sample("t", "x"), &ImageFolder::new(folder.path())).unwrap_err();
    assert!(matches!(&error, Error::Attack { attack, id, .. } if attack == "caption" && id == "t"), "{error}");
}

#[test]
fn every_picture_has_the_published_size() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |prompt: &str| attacked(&FigStepAttack, &sample("t", prompt), folder.path()).image().unwrap().unwrap();
    let lowest_ink = |picture: &RgbImage| (0..760).rev().find(|&y| (0..760).any(|x| picture.get_pixel(x, y).0[0] < 128)).unwrap();
    // 7 lines of text and the list fill the picture: the baseline of `3.` is at 10 + 64 + 9 * 75, which the digit crosses by one pixel.
    let full = draw(&"fifteen letters ".repeat(7));
    assert_eq!((full.dimensions(), lowest_ink(&full)), ((760, 760), 749));
    // 20 lines would not fit: the text is smaller, and all of it is there.
    let long = draw(&"word ".repeat(60));
    assert_eq!(long.dimensions(), (760, 760));
    assert!((600..755).contains(&lowest_ink(&long)), "{}", lowest_ink(&long));
    let refused = |prompt: &str| FigStepAttack.attack(&sample("t", prompt), &ImageFolder::new(folder.path())).unwrap_err().to_string();
    assert!(refused("日本").contains("'日'"));
    assert!(refused(&"word ".repeat(100_000)).contains("too long"));
    assert!(refused(&"word ".repeat(790)).contains("too long"));
    assert_eq!(draw("who？").as_raw(), draw("who?").as_raw(), "a full-width sign is drawn as the Latin one");
}

#[test]
fn one_odd_sample_does_not_stop_an_attack() {
    let folder = tempfile::tempdir().unwrap();
    let images = ImageFolder::new(folder.path());
    let missing = mm_toxic_qa::ImageRef::File { folder: folder.path().to_owned(), path: "missing.png".into() };
    let samples =
        [sample("a", "placeholder question?"), sample("b", "Who?"), Sample { image: Some(missing), ..sample("c", "one more question") }];
    let typos = Perturbation { change: Change::Typos, seed: 1 };
    let out = attack_all(&samples, &typos, &images).unwrap();
    assert_eq!(out.samples.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["a+typos", "c+typos"]);
    assert!(matches!(&out.left_out[..], [Error::Attack { id, .. }] if id == "b"));
    assert_eq!(out.samples[0].request.as_deref(), Some("placeholder question?"), "judges see the request");
    let out = attack_all(&samples, &CaptionAttack, &images);
    assert!(matches!(&out, Err(Error::NothingAttacked { reason, .. }) if reason.contains("all 3")), "{out:?}");
    let nothing = attack_all(&[Sample { split: Split::Calibration, ..sample("a", "x") }], &typos, &images);
    assert!(matches!(nothing, Err(Error::NothingAttacked { .. })));
}

#[test]
fn jailbreaks_are_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("templates.json");
    let read = |text: &str, seed| {
        std::fs::write(&path, text).unwrap();
        Jailbreak::read(&path, seed)
    };
    let attack = read(r#"{"a": "<{prompt}>", "b": "[{prompt}] {prompt}"}"#, 1).unwrap();
    let mut names = Vec::new();
    for n in 0..40 {
        let s = sample(&n.to_string(), "what?");
        let out = attacked(&attack, &s, folder.path());
        match out.attack.as_deref().unwrap() {
            "jailbreak/a" => assert_eq!(out.prompt, "<what?>"),
            "jailbreak/b" => assert_eq!(out.prompt, "[what?] what?"),
            other => panic!("{other}"),
        }
        assert_eq!(attacked(&attack, &s, folder.path()), out);
        names.push(out.attack.unwrap());
    }
    assert!(names.contains(&"jailbreak/a".into()) && names.contains(&"jailbreak/b".into()));
    for wrong in ["", "[]", "{}", r#"{"a": "no place"}"#, r#"{" ": "{prompt}"}"#, r#"{"a": 1}"#] {
        let error = read(wrong, 1).unwrap_err();
        assert!(matches!(&error, Error::AttackTemplates { path: p, .. } if *p == path), "{wrong}: {error}");
    }
}

#[test]
fn perturbations_depend_on_seed_and_sample_alone() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "describe the quiet animals of this large forest";
    for name in ["case", "spacing", "typos", "leetspeak"] {
        let change: Change = name.parse().unwrap();
        let prompt_of = |id: &str, seed| attacked(&Perturbation { change, seed }, &sample(id, prompt), folder.path()).prompt;
        assert_ne!(prompt_of("a", 1), prompt, "{name}");
        assert_eq!(prompt_of("a", 1), prompt_of("a", 1));
        // Two prompts may be equal by chance, many are not.
        assert!("bcdefgh".chars().any(|id| prompt_of("a", 1) != prompt_of(&id.to_string(), 1)), "{name}");
        assert!((2..9).any(|seed| prompt_of("a", 1) != prompt_of("a", seed)), "{name}");
    }
    let hopeless = Perturbation { change: Change::Typos, seed: 1 }.attack(&sample("a", "a?"), &ImageFolder::new(folder.path()));
    assert!(matches!(hopeless, Err(Error::Attack { .. })));
    assert!("upside-down".parse::<Change>().is_err());
}

#[test]
fn only_standard_risky_prompts_are_attacked() {
    let folder = tempfile::tempdir().unwrap();
    let samples = [
        sample("test", "what?"),
        Sample { split: Split::Dev, ..sample("dev", "what?") },
        Sample { condition: Condition::Adversarial, ..sample("already", "what?") },
        Sample { split: Split::Calibration, ..sample("calibration", "what?") },
        Sample { split: Split::Utility, ..sample("utility", "what?") },
    ];
    let attack = Perturbation { change: Change::Leetspeak, seed: 1 };
    let out = attack_all(&samples, &attack, &ImageFolder::new(folder.path())).unwrap().samples;
    assert_eq!(out.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["test+leetspeak", "dev+leetspeak"]);
    assert_eq!(out[1].split, Split::Dev);
}
