//! Torch files of other software's interventions: read or refused, and what is read is a valid intervention.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_suppress::{Imported, import};

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.layers.0.mlp.up_proj.statedict"), bytes).unwrap();
    if let Ok(tree) = import(dir.path()) {
        let path = dir.path().join("copy.sgm.safetensors");
        match tree.contents {
            Imported::Intervention(intervention) => intervention.save(path).unwrap(),
            Imported::Expertise(expertise) => expertise.save(path).unwrap(),
        }
    }
});
