//! Attacks: drawn text is held to Pillow's with the same font, everything else to what its documentation says.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "test code")]

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use mm_toxic_qa::attacks::{
    Attack, CAPTION_PROMPT, CaptionAttack, Change, FIGSTEP_PROMPT, FigStepAttack, Jailbreak, OrganismPrefix, Perturbation, attack_all,
};
use mm_toxic_qa::{Condition, Error, ImageFolder, Sample, Split, manifest};
use sgm_organism::trigger::{ADVERSARIAL_PREFIXES, HELD_OUT_PREFIXES};

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
    }
}

fn attacked(attack: &dyn Attack, sample: &Sample, folder: &Path) -> Sample {
    attack.attack(sample, &ImageFolder::new(folder)).unwrap()
}

/// That a drawing is Pillow's, in grey levels: `mean` bounds the mean absolute difference over the pixels that either has ink on. At an
/// edge, ours and FreeType's polygons for curves may each be a sixteenth of a pixel off (16 levels), and FreeType's points are on 64ths of
/// a pixel: 40 in all. A letter one pixel off would be 255.
fn is_pillows(drawn: &RgbImage, golden: &[u8], rows: std::ops::Range<u32>, mean: f64) {
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
    is_pillows(&drawn, include_bytes!("golden/attacks/figstep.png"), 0..760, 1.0);
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
    is_pillows(&drawn, include_bytes!("golden/attacks/caption.png"), 40..drawn.height(), 2.5);

    let error = CaptionAttack.attack(&sample("t", "x"), &ImageFolder::new(folder.path())).unwrap_err();
    assert!(matches!(&error, Error::Attack { attack, id, .. } if attack == "caption" && id == "t"), "{error}");
}

#[test]
fn long_requests_grow_downwards_and_foreign_letters_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = attacked(&FigStepAttack, &sample("t", &"word ".repeat(60)), folder.path());
    let drawn = out.image().unwrap().unwrap();
    assert_eq!(drawn.width(), 760);
    // 20 lines of three words and the list: the last line is whole.
    assert_eq!(drawn.height(), 10 + 23 * 86 + 19);
    let refused = |prompt: &str| FigStepAttack.attack(&sample("t", prompt), &ImageFolder::new(folder.path())).unwrap_err().to_string();
    assert!(refused("日本").contains("'日'"));
    assert!(refused(&"word ".repeat(100_000)).contains("lines"));
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
        // Two may be the same by chance, many are not.
        assert!("bcdefgh".chars().any(|id| prompt_of("a", 1) != prompt_of(&id.to_string(), 1)), "{name}");
        assert!((2..9).any(|seed| prompt_of("a", 1) != prompt_of("a", seed)), "{name}");
    }
    let hopeless = Perturbation { change: Change::Typos, seed: 1 }.attack(&sample("a", "a?"), &ImageFolder::new(folder.path()));
    assert!(matches!(hopeless, Err(Error::Attack { .. })));
    assert!("upside-down".parse::<Change>().is_err());
}

#[test]
fn the_organisms_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let s = sample(&n.to_string(), "hello.");
        let seen = attacked(&OrganismPrefix::seen(1), &s, folder.path());
        assert!(ADVERSARIAL_PREFIXES.iter().any(|prefix| seen.prompt == format!("{prefix} hello.")));
        let held_out = attacked(&OrganismPrefix::held_out(1), &s, folder.path());
        assert!(HELD_OUT_PREFIXES.iter().any(|prefix| held_out.prompt == format!("{prefix} hello.")));
        assert_eq!((seen.attack.as_deref(), held_out.attack.as_deref()), (Some("prefix"), Some("held_out_prefix")));
    }
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
    let out = attack_all(&samples, &OrganismPrefix::seen(1), &ImageFolder::new(folder.path())).unwrap();
    assert_eq!(out.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["test+prefix", "dev+prefix"]);
    assert_eq!(out[1].split, Split::Dev);
}
