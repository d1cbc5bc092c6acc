//! Safetensors files to bake: refused, or baked into a file of the same length, and with scales of 1 into the same file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sgm_bake::{Amplify, SiteTensors};
use sgm_core::{Intervention, Metadata, SiteIntervention};

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = SiteTensors::read_safetensors(Path::new("fuzz"), bytes, bytes.len() as u64) else { return };
    for scale in [0.5, 1.0] {
        let mut glasses = Intervention::new(Metadata::default());
        for (site, width) in file.sites() {
            glasses.insert(site, SiteIntervention::from_scale(vec![scale; width])).unwrap();
        }
        let mut baked = Vec::new();
        if file.bake(&glasses, Amplify::Refuse, bytes, &mut baked).is_ok() {
            assert_eq!(baked.len(), bytes.len());
            assert!(scale != 1.0 || baked == bytes);
        }
    }
});
