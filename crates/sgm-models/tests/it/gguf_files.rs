//! The files of GGUF models: models split over several files, directories of them, and vision towers that do not belong
//! to the model beside them.

use std::path::{Path, PathBuf};

use sgm_models::{AutoMllm, Checkpoint, Error, Mllm, Padding, Prompt};

use crate::gguf_bytes::{GgufBytes, i32_value, text_value, u16_value, write_parts};
use crate::warnings::warnings_of;

fn golden(name: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join(file)
}

fn logits(model: &AutoMllm) -> Vec<f32> {
    let inputs = model.processor().prompts(&[Prompt::user("What is this?", None)], Padding::Left).unwrap();
    let hidden = model.prefill(&inputs, &mut model.new_cache()).unwrap();
    model.logits(&hidden).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn load(path: &Path) -> AutoMllm {
    AutoMllm::load(&Checkpoint::open(path).unwrap()).unwrap()
}

fn takes_images(model: &AutoMllm) -> bool {
    model.processor().images().is_some()
}

#[test]
fn a_split_model_is_the_whole_model_whichever_part_is_named() {
    let whole = golden("gguf_llama", "model.gguf");
    let file = GgufBytes::read(&whole);
    let expected = load(&whole);
    // The second one has no tensors in its first part.
    for before in [vec![5, 12], vec![0, 9]] {
        let dir = tempfile::tempdir().unwrap();
        let parts = write_parts(dir.path(), "tiny", &file.parts(&before));
        for path in parts.iter().map(PathBuf::as_path).chain([dir.path()]) {
            let model = load(path);
            assert_eq!(logits(&model), logits(&expected), "{}", path.display());
            assert_eq!(model.info().sites, expected.info().sites);
        }
        assert_eq!(load(&parts[1]).info().name, "tiny");
        let print = load(&parts[0]).info().weights.clone();
        assert_eq!(load(&parts[2]).info().weights, print);
        // Every part counts for the fingerprint.
        let mut bytes = std::fs::read(&parts[2]).unwrap();
        let last = bytes.len() - 40;
        bytes[last] ^= 1;
        std::fs::write(&parts[2], bytes).unwrap();
        assert_ne!(load(&parts[0]).info().weights, print);
    }
}

#[test]
fn parts_that_do_not_make_a_model_are_named() {
    let parts = GgufBytes::read(&golden("gguf_llama", "model.gguf")).parts(&[5, 12]);
    type Change = fn(&mut Vec<GgufBytes>, &mut Vec<PathBuf>);
    let cases: [(Change, &str, &str); 7] = [
        (|_, paths| std::fs::remove_file(&paths[1]).unwrap(), "tiny-00002-of-00003.gguf", "part 2 of 3 of the model is missing"),
        (|_, paths| std::fs::remove_file(&paths[0]).unwrap(), "tiny-00001-of-00003.gguf", "part 1 of 3 of the model is missing"),
        (|parts, _| parts[1] = parts[1].clone().with("split.count", u16_value(4)), "tiny-00002-of-00003.gguf", "metadata part 2 of 4"),
        (|parts, _| parts[1] = parts[1].clone().with("split.no", u16_value(2)), "tiny-00002-of-00003.gguf", "metadata part 3 of 3"),
        (
            |parts, _| {
                let twice = parts[0].tensors[1].clone();
                parts[2].tensors.push(twice);
            },
            "tiny-00003-of-00003.gguf",
            "is there twice",
        ),
        (|parts, _| drop(parts[1].tensors.pop()), "tiny-00001-of-00003.gguf", "they have 21"),
        (
            |parts, _| parts[2] = parts[2].clone().with("split.no", text_value("two")),
            "tiny-00003-of-00003.gguf",
            "`split.no` is not a whole number",
        ),
    ];
    for (change, file, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut parts = parts.clone();
        let mut paths = write_parts(dir.path(), "tiny", &parts);
        change(&mut parts, &mut paths);
        let gone: Vec<bool> = paths.iter().map(|path| !path.exists()).collect();
        write_parts(dir.path(), "tiny", &parts);
        paths.iter().zip(gone).filter(|(_, gone)| *gone).for_each(|(path, _)| std::fs::remove_file(path).unwrap());
        let error = Checkpoint::open(&paths[2]).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Gguf { .. }) && message.contains(file) && message.contains(words), "{message}");
    }
    // A part under a name that does not tell the others.
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("odd.gguf");
    std::fs::write(&odd, parts[0].bytes()).unwrap();
    let message = Checkpoint::open(&odd).unwrap_err().to_string();
    assert!(message.contains("odd.gguf") && message.contains("it is one of 3 parts of a model"), "{message}");
    let count = GgufBytes::read(&golden("gguf_llama", "model.gguf")).with("split.count", i32_value(-1));
    std::fs::write(&odd, count.bytes()).unwrap();
    let message = Checkpoint::open(&odd).unwrap_err().to_string();
    assert!(message.contains("`split.count` is not a whole number"), "{message}");
}

#[test]
fn of_several_models_in_a_directory_one_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| std::fs::copy(golden("gguf_llava", from), dir.path().join(to)).unwrap();
    copy("model.gguf", "a-Q4.gguf");
    copy("mmproj.gguf", "mmproj-f16.gguf");
    let model = load(dir.path());
    assert!(takes_images(&model));
    copy("model.gguf", "a-Q8.gguf");
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Gguf { path, .. } if path == dir.path()), "{error:?}");
    assert!(error.to_string().contains("has several models; name one of a-Q4.gguf, a-Q8.gguf"), "{error}");
    assert!(takes_images(&load(&dir.path().join("a-Q8.gguf"))));
}

#[test]
fn a_stray_vision_tower_is_named_and_left_alone() {
    let llava = || GgufBytes::read(&golden("gguf_llava", "model.gguf"));
    let llama = || GgufBytes::read(&golden("gguf_llama", "model.gguf"));
    let tower = || GgufBytes::read(&golden("gguf_llava", "mmproj.gguf"));
    let narrow = || {
        let mut tower = tower();
        tower.tensors.retain(|t| t.name != "mm.2.weight");
        let other = tower.tensors.iter().find(|t| t.name == "mm.0.bias").unwrap().clone();
        tower.tensors.push(crate::gguf_bytes::Tensor { name: "mm.2.weight".to_owned(), ..other.narrowed(8) });
        tower
    };
    for (model, text, file, tower, words) in [
        ("text.gguf", llama(), "mmproj-x.gguf", tower(), "its name says `x`"),
        ("smollm2.gguf", llava(), "mmproj-SmolVLM-f16.gguf", tower(), "its name says `smolvlm`"),
        ("text.gguf", llama(), "mmproj.gguf", tower(), "neither a name nor a token <image>"),
        ("text.gguf", llava(), "mmproj.gguf", narrow(), "its features have width 8, and the embeddings"),
        (
            "text.gguf",
            llava(),
            "mmproj.gguf",
            tower().with("clip.projector_type", text_value("qwen2vl_merger")),
            "does not suit the architecture llama",
        ),
        (
            "text.gguf",
            llava(),
            "mmproj.gguf",
            tower().with("clip.projector_type", text_value("idefics4")),
            "GGUF projector `idefics4` is not supported",
        ),
        (
            "text.gguf",
            llava(),
            "mmproj.gguf",
            tower().with("clip.has_vision_encoder", vec![7, 0, 0, 0, 0]),
            "clip.has_vision_encoder is false",
        ),
        ("text.gguf", llava(), "mmproj.gguf", llava(), "it is no vision tower"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (path, beside) = (dir.path().join(model), dir.path().join(file));
        std::fs::write(&path, text.bytes()).unwrap();
        std::fs::write(&beside, tower.bytes()).unwrap();
        let (model, warnings) = warnings_of(|| load(&path));
        assert!(!takes_images(&model), "{words}");
        assert!(warnings.contains(words) && warnings.contains(file), "{words}: {warnings}");
        // A pair that the caller names is an error where it does not fit; names do not matter.
        let named = Checkpoint::open(&path).unwrap().with_mmproj(&beside).and_then(|c| AutoMllm::load(&c));
        match named {
            Ok(model) => assert!(takes_images(&model) && words.contains("name"), "{words}"),
            Err(Error::Unsupported { got, .. }) => assert!(words.contains(&got), "{words}: {got}"),
            Err(error) => assert!(error.to_string().contains(words) && error.to_string().contains(file), "{words}: {error}"),
        }
    }
    // A damaged one.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text.gguf"), llava().bytes()).unwrap();
    std::fs::write(dir.path().join("mmproj.gguf"), &tower().bytes()[..100]).unwrap();
    let (model, warnings) = warnings_of(|| load(&dir.path().join("text.gguf")));
    assert!(!takes_images(&model) && warnings.contains("mmproj.gguf"), "{warnings}");
}

#[test]
fn of_several_vision_towers_the_first_that_fits_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::copy(golden("gguf_llava", "model.gguf"), &path).unwrap();
    for file in ["mmproj-F16.gguf", "mmproj-F32.gguf", "a-mmproj.gguf"] {
        std::fs::copy(golden("gguf_llava", "mmproj.gguf"), dir.path().join(file)).unwrap();
    }
    let (model, warnings) = warnings_of(|| load(&path));
    assert!(takes_images(&model));
    assert!(
        warnings.contains("a-mmproj.gguf") && warnings.contains("mmproj-F32.gguf") && warnings.contains("a second vision tower"),
        "{warnings}"
    );
    assert!(!warnings.contains("F16"), "{warnings}");
}
