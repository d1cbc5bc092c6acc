//! What a running model copies to the host is listed here, so that nothing is copied by mistake: on a GPU every copy waits for the device.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What takes values to the host, or puts a tensor there.
const COPIES: [&str; 8] =
    [".to_vec0", ".to_vec1", ".to_vec2", ".to_vec3", ".to_scalar", "storage_and_layout", "Device::Cpu", "with_values("];

/// The files of the crates with running models that do, with the number of times and the reason.
const LISTED: &[(&str, usize, &str)] = &[
    ("sgm-capture/src/examples.rs", 1, "token ids, which are on the host"),
    ("sgm-capture/src/gradient_tap.rs", 2, "gradients, which are computed on the CPU only"),
    ("sgm-capture/src/mlp_tokens.rs", 1, "a fit of added neurons reads one layer at a time, and is no part of running a model"),
    ("sgm-capture/src/prefix.rs", 1, "token ids of the first samples, which are on the host"),
    ("sgm-capture/src/reduce_tensors.rs", 1, "the pooled rows of a batch, one copy for each site"),
    ("sgm-capture/src/tap.rs", 1, "the kernel of the CPU, and responses that are not finite, to count them"),
    ("sgm-models/src/checkpoint/fp8.rs", 2, "read while a checkpoint is loaded"),
    ("sgm-models/src/checkpoint/gguf/config.rs", 2, "read while a checkpoint is loaded"),
    ("sgm-models/src/checkpoint/gguf/weights.rs", 1, "read while a checkpoint is loaded"),
    ("sgm-models/src/checkpoint/mapped_weights.rs", 1, "read while a checkpoint is loaded"),
    ("sgm-models/src/checkpoint/model_files.rs", 1, "the default device"),
    ("sgm-models/src/decoder/image_context.rs", 1, "the mask of images, an input on the host, becomes scores once for a prompt"),
    ("sgm-models/src/decoder/mixture.rs", 1, "the host chooses the experts of each token: tokens times experts numbers for each mixture"),
    ("sgm-models/src/families/auto.rs", 2, "given positions and the token ids of a shared prefix, inputs on the host"),
    ("sgm-models/src/families/image_tokens.rs", 1, "token ids and sizes, which are on the host anyway, lay out the batch"),
    ("sgm-models/src/families/instructblip.rs", 3, "token ids and sizes, which are on the host anyway, lay out the batch"),
    ("sgm-models/src/families/llava_onevision.rs", 2, "token ids and sizes, which are on the host anyway, lay out the batch"),
    ("sgm-models/src/families/mllama.rs", 3, "token ids and sizes, which are on the host anyway, lay out the batch"),
    ("sgm-models/src/families/qwen_vl.rs", 1, "token ids and sizes, which are on the host anyway, lay out the batch"),
    ("sgm-models/src/families/tiled_features.rs", 1, "token ids and sizes, which are on the host anyway, lay out the batch"),
    (
        "sgm-models/src/generation/generate.rs",
        5,
        "the logits of the last tokens if tokens are drawn, else the chosen tokens; token ids of the prompt",
    ),
    ("sgm-models/src/generation/divergence.rs", 1, "the logits of two models on given responses, measured once for a fit"),
    ("sgm-models/src/generation/likelihood.rs", 4, "the likelihood of each token of given responses; logits on the CPU, and for gradients"),
    ("sgm-models/src/layers/activation.rs", 4, "the kernel of the CPU"),
    ("sgm-models/src/layers/derivative.rs", 1, "gradients, which are computed on the CPU only"),
    ("sgm-models/src/layers/fused_attention.rs", 1, "the mask, for the kernel of the CPU"),
    ("sgm-models/src/layers/linear.rs", 1, "whether a head equals the embeddings, asked while a checkpoint is loaded"),
    ("sgm-models/src/layers/products/mod.rs", 2, "the kernels of the CPU"),
    ("sgm-models/src/layers/products/quantised.rs", 2, "the kernel of the CPU"),
    (
        "sgm-models/src/layers/values.rs",
        2,
        "the access of CPU kernels and of custom taps to numbers; other files call it, and are listed where they do",
    ),
    ("sgm-models/src/model/shared_prefix.rs", 1, "token ids of the prompts, which are on the host"),
    ("sgm-models/src/processor/batch.rs", 4, "token ids, made on the host before the model runs"),
    ("sgm-models/src/processor/images/pixels.rs", 1, "pixels, made on the host before the model runs; prefill moves them"),
    ("sgm-models/src/vision/idefics3.rs", 2, "which patches show an image: a mask on the host, or without one a number for each tile"),
    ("sgm-models/src/vision/mllama.rs", 2, "the arrangement and the presence of tiles, inputs on the host"),
    ("sgm-models/src/vision/pixtral.rs", 1, "image sizes, an input on the host"),
    ("sgm-models/src/vision/qformer.rs", 1, "the mask of the instruction, an input on the host"),
    ("sgm-models/src/vision/qwen_grid.rs", 1, "image grids, an input on the host"),
    ("sgm-suppress/src/runtime/conditional_glasses.rs", 2, "the kernel of the CPU; elsewhere the sums of the log-odds, once for a pass"),
    ("sgm-suppress/src/runtime/patches.rs", 1, "the kernel of the CPU"),
];

/// The sources below a directory.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// The number of copies in a source, without its comments and its tests, which come last.
fn copies(source: &str) -> usize {
    let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| COPIES.iter().map(|copy| line.matches(copy).count()).sum::<usize>()).sum()
}

#[test]
fn only_listed_files_copy_to_the_host() {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeMap::new();
    for name in ["sgm-models", "sgm-capture", "sgm-suppress"] {
        let mut files = Vec::new();
        sources(&crates.join(name).join("src"), &mut files);
        for file in files {
            let count = copies(&fs::read_to_string(&file).unwrap());
            if count > 0 {
                found.insert(file.strip_prefix(&crates).unwrap().to_str().unwrap().replace('\\', "/"), count);
            }
        }
    }
    let listed: BTreeMap<String, usize> = LISTED.iter().map(|(file, count, _)| ((*file).to_owned(), *count)).collect();
    let differ: Vec<_> = found.keys().chain(listed.keys()).filter(|file| found.get(*file) != listed.get(*file)).collect();
    for file in &differ {
        println!("{file}: {:?}, listed {:?}", found.get(*file), listed.get(*file));
    }
    assert!(differ.is_empty(), "keep the values on the device, or list the file with a reason: {differ:?}");
    assert!(LISTED.iter().all(|(_, _, reason)| !reason.is_empty()));
}

#[test]
fn copies_are_counted_outside_of_comments_and_tests() {
    let source = "// to_vec1\nlet a = t.to_vec1::<f32>()?;\nlet b = with_values(&t.to_device(&Device::Cpu)?, f);\n#[cfg(test)]\nmod tests {\nt.to_scalar()";
    assert_eq!(copies(source), 3);
}
