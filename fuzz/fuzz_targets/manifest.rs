//! Manifests of samples, with and without a synthetic world: parsed or refused, and every image of a scene is drawn.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mm_toxic_qa::{ImageRef, manifest};
use sgm_organism::OrganismWorld;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("fuzz.jsonl");
    let _ = manifest::parse(bytes, path);
    if let Ok(samples) = manifest::parse_with(bytes, path, &OrganismWorld) {
        for sample in samples.iter().filter(|sample| matches!(sample.image, Some(ImageRef::Scene(_)))) {
            sample.image().expect("a scene that was read can be drawn");
        }
    }
});
