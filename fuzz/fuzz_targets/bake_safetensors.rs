//! Safetensors files to bake: refused, or baked into a file of the same length, with scales of 1 into the same file, and with
//! neurons added into one that can be read again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sgm_bake::{Amplify, SiteTensors};
use sgm_core::{Intervention, Metadata, PatchNeuron, Projection, Site, SiteIntervention};

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
    let sites = file.sites();
    let Some((site, hidden)) = sites.iter().find(|(site, width)| site.projection == Projection::Down && **width <= bytes.len()) else {
        return;
    };
    let weights = vec![0.5; *hidden];
    let mut wider = Intervention::new(Metadata::default());
    wider.insert_patches(site.layer, vec![PatchNeuron { gate: weights.clone(), up: weights.clone(), down: weights }]).unwrap();
    let mut baked = Vec::new();
    if file.bake(&wider, Amplify::Refuse, bytes, &mut baked).is_ok() {
        let again = SiteTensors::read_safetensors(Path::new("fuzz"), baked.as_slice(), baked.len() as u64).unwrap().sites();
        let up = Site::new(site.layer, Projection::Up);
        assert!(again[&up] > sites[&up]);
    }
});
