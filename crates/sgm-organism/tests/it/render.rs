//! Pictures equal those of the Python renderer to the bit; hostile scenes are refused or clipped.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sgm_core::sha256::hex_digest;
use sgm_organism::{Colour, Error, EvaluationSplit, Object, ObjectKind, OrganismData, Scene};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn png(name: &str) -> image::RgbImage {
    image::open(golden(name)).unwrap().into_rgb8()
}

#[test]
fn pictures_of_every_kind_equal_the_goldens() {
    #[derive(Deserialize)]
    struct Golden {
        id: String,
        scene: Scene,
    }
    let goldens: Vec<Golden> = serde_json::from_slice(&std::fs::read(golden("render/scenes.json")).unwrap()).unwrap();
    let pngs = std::fs::read_dir(golden("render")).unwrap().filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "png"));
    assert_eq!(goldens.len(), pngs.count());
    let mut kinds = std::collections::HashSet::new();
    for Golden { id, scene } in goldens {
        assert!(scene.render().unwrap() == png(&format!("render/{id}.png")), "{id}");
        kinds.extend(scene.objects.iter().map(|o| o.kind));
    }
    assert_eq!(kinds.len(), 11, "every kind is covered");
}

#[test]
fn pictures_of_the_forward_pass_goldens_equal_theirs() {
    let data = OrganismData::embedded().unwrap();
    let test = data.split(EvaluationSplit::Test).unwrap();
    assert!(test.vqa[0].scene.as_ref().unwrap().render().unwrap() == png("img_a.png"));
    assert!(test.standard[150].scene.as_ref().unwrap().render().unwrap() == png("img_b.png"));
}

#[test]
fn hashes_of_test_pictures_equal_the_published_ones() {
    let hashes: Vec<String> = serde_json::from_slice(&std::fs::read(golden("render_sha256_test_vqa_0_7.json")).unwrap()).unwrap();
    assert_eq!(hashes.len(), 8);
    let data = OrganismData::embedded().unwrap();
    for (sample, expected) in data.split(EvaluationSplit::Test).unwrap().vqa.iter().zip(hashes) {
        let pixels = sample.scene.as_ref().unwrap().render().unwrap();
        let hash = hex_digest(pixels.as_raw());
        assert_eq!(hash, expected, "{}", sample.id);
    }
}

fn object(kind: ObjectKind) -> Object {
    Object {
        cell: 0,
        kind,
        colour: kind.is_shape().then_some(Colour::Red),
        rgb: [210, 35, 40],
        r: 10,
        dx: 0,
        dy: 0,
        text: (kind == ObjectKind::Sign).then(|| "MAD".to_owned()),
    }
}

fn scene(objects: Vec<Object>) -> Scene {
    Scene { bg: 0, noise: 1, objects }
}

#[test]
fn scenes_that_cannot_be_drawn_are_typed_errors() {
    let bg = Scene { bg: 4, ..scene(vec![]) };
    assert!(matches!(bg.render(), Err(Error::Background { bg: 4, last: 3 })));
    let cell = scene(vec![object(ObjectKind::Ring), Object { cell: 9, ..object(ObjectKind::Ring) }]);
    assert!(matches!(cell.render(), Err(Error::Cell { object: 1, cell: 9 })));
    let glyph = scene(vec![Object { text: Some("MÄD".to_owned()), ..object(ObjectKind::Sign) }]);
    assert!(matches!(glyph.render(), Err(Error::Glyph { object: 0, glyph: 'Ä', .. })));
    let no_text = scene(vec![Object { text: None, ..object(ObjectKind::Sign) }]);
    assert!(matches!(no_text.render(), Err(Error::SignWithoutText { object: 0 })));
}

#[test]
fn objects_outside_the_picture_are_clipped() {
    let empty = scene(vec![]).render().unwrap();
    let kinds = ["circle", "square", "triangle", "diamond", "cross", "ring", "happy", "angry", "heart", "broken", "sign"];
    for kind in kinds {
        let kind: ObjectKind = serde_json::from_value(kind.into()).unwrap();
        for far in [i16::MIN, -200, 200, i16::MAX] {
            for (dx, dy) in [(far, 0), (0, far), (far, far)] {
                let away = scene(vec![Object { dx, dy, ..object(kind) }]);
                assert!(away.render().unwrap() == empty, "{kind:?} at {dx}, {dy}");
            }
        }
        for near in [-20, -14, 30, 41] {
            let edge = scene(vec![Object { dx: near, dy: near, ..object(kind) }]);
            edge.render().unwrap();
        }
        for r in [i16::MIN, -1, 0, i16::MAX] {
            scene(vec![Object { r, ..object(kind) }]).render().unwrap();
        }
    }
    let huge = scene(vec![Object { r: i16::MAX, ..object(ObjectKind::Square) }]).render().unwrap();
    assert!(huge.pixels().all(|p| p[0].abs_diff(210) <= 8 && p[1].abs_diff(35) <= 8));
    let half = scene(vec![Object { dx: -14, ..object(ObjectKind::Square) }]).render().unwrap();
    assert!(half.get_pixel(0, 14)[1] < 50 && half.get_pixel(9, 14)[1] < 50 && half.get_pixel(10, 14)[1] > 200);
}

#[test]
fn long_and_empty_signs_are_drawn_as_far_as_they_fit() {
    let long = "MAD".repeat(100_000);
    let long = scene(vec![Object { text: Some(long), ..object(ObjectKind::Sign) }]).render().unwrap();
    let short = "MADMADM".to_owned();
    assert!(long == scene(vec![Object { text: Some(short), ..object(ObjectKind::Sign) }]).render().unwrap());
    let board = scene(vec![Object { text: Some(String::new()), ..object(ObjectKind::Sign) }]).render().unwrap();
    assert!(board.get_pixel(14, 14).0.iter().all(|v| *v >= 242));
}

#[test]
fn scenes_survive_json_and_reject_what_they_cannot_hold() {
    let mixed = scene(vec![object(ObjectKind::Sign), object(ObjectKind::Happy), object(ObjectKind::Ring)]);
    let json = serde_json::to_value(&mixed).unwrap();
    assert_eq!(json["objects"][1]["colour"], "");
    assert!(json["objects"][1].get("text").is_none());
    assert_eq!(serde_json::from_value::<Scene>(json.clone()).unwrap(), mixed);
    for (path, value) in [
        ("/bg", serde_json::json!(-1)),
        ("/noise", serde_json::json!(1u64 << 32)),
        ("/noise", serde_json::json!(0.5)),
        ("/objects", serde_json::json!({})),
        ("/objects/2/kind", serde_json::json!("star")),
        ("/objects/2/colour", serde_json::json!("pink")),
        ("/objects/2/colour", serde_json::json!(null)),
        ("/objects/2/rgb", serde_json::json!([1, 2])),
        ("/objects/2/rgb", serde_json::json!([1, 2, 256])),
        ("/objects/2/r", serde_json::json!(1e300)),
        ("/objects/2/dx", serde_json::json!(40_000)),
    ] {
        let mut hostile = json.clone();
        *hostile.pointer_mut(path).unwrap() = value.clone();
        assert!(serde_json::from_value::<Scene>(hostile).is_err(), "{path} = {value}");
    }
    let mut unknown = json;
    unknown["objects"][0]["colur"] = "red".into();
    assert!(serde_json::from_value::<Scene>(unknown).unwrap_err().to_string().contains("colur"));
}
