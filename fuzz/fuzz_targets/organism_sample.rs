//! Samples of the organism's world: parsed or refused, and every scene that is parsed renders or is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_organism::{Sample, Scene, helpful};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(scene) = serde_json::from_slice::<Scene>(bytes) {
        let _ = scene.render();
    }
    if let Ok(sample) = serde_json::from_slice::<Sample>(bytes) {
        let _ = (sample.question(), helpful(&sample, "it is a ring."));
    }
});
