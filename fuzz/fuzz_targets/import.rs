//! Torch files of other software's interventions: read or refused, and what is read is a valid intervention.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_suppress::{Imported, import};

fuzz_target!(|bytes: &[u8]| {
    sgm_fuzz::with_file("model.layers.0.mlp.up_proj.statedict", bytes, |directory, _| {
        let Ok(tree) = import(directory) else { return };
        let path = directory.join("copy.sgm.safetensors");
        match tree.contents {
            Imported::Intervention(intervention) => intervention.save(path).unwrap(),
            Imported::Expertise(expertise) => expertise.save(path).unwrap(),
        }
    });
});
