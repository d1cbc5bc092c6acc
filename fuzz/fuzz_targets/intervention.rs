//! Intervention and expertise files: parsed or refused, and parsed interventions are equal to their copies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_core::{Expertise, Intervention};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(intervention) = Intervention::from_bytes("fuzz", bytes) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copy");
        intervention.save(&path).unwrap();
        assert_eq!(Intervention::load(&path).unwrap(), intervention);
    }
    let _ = Expertise::from_bytes("fuzz", bytes);
});
