//! Intervention and expertise files: parsed or refused, and what is parsed is written and read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sgm_core::{Expertise, Intervention};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(intervention) = Intervention::from_bytes("fuzz", bytes) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy");
        intervention.save(&path).unwrap();
        assert_eq!(Intervention::load(&path).unwrap(), intervention);
    }
    let _ = Expertise::from_bytes("fuzz", bytes);
});
