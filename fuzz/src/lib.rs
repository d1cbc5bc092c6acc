//! Code shared by the fuzz targets.

use std::path::Path;

use sgm_bake::{Amplify, Result, SiteTensors};
use sgm_core::{Intervention, Metadata, PatchNeuron, Projection, Site, SiteIntervention};

/// Writes bytes to a file of this name in a new directory, and calls a function with the paths of directory and file.
///
/// # Panics
///
/// When the file cannot be written.
pub fn with_file(name: &str, bytes: &[u8], f: impl FnOnce(&Path, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, bytes).unwrap();
    f(directory.path(), &file);
}

/// Bakes interventions into a file of weights: a refused file is left alone, scales keep the file's length, scales of 1 keep its bytes, and
/// an added neuron gives a wider file that can be read again.
///
/// # Panics
///
/// When one of these properties does not hold.
pub fn bake(read: impl Fn(&[u8]) -> Result<SiteTensors>, bytes: &[u8]) {
    let Ok(file) = read(bytes) else { return };
    let sites = file.sites();
    for scale in [0.5, 1.0] {
        let mut glasses = Intervention::new(Metadata::default());
        for (site, width) in &sites {
            glasses.insert(*site, SiteIntervention::from_scale(vec![scale; *width])).unwrap();
        }
        let mut baked = Vec::new();
        if file.bake(&glasses, Amplify::Refuse, bytes, &mut baked).is_ok() {
            assert_eq!(baked.len(), bytes.len());
            assert!(scale != 1.0 || baked == bytes);
        }
    }
    let Some((site, hidden)) = sites.iter().find(|(site, width)| site.projection == Projection::Down && **width <= bytes.len()) else {
        return;
    };
    let weights = vec![0.5; *hidden];
    let mut wider = Intervention::new(Metadata::default());
    wider.insert_patches(site.layer, vec![PatchNeuron { gate: weights.clone(), up: weights.clone(), down: weights }]).unwrap();
    let mut baked = Vec::new();
    if file.bake(&wider, Amplify::Refuse, bytes, &mut baked).is_ok() {
        let again = read(&baked).unwrap().sites();
        let up = Site::new(site.layer, Projection::Up);
        assert!(again[&up] > sites[&up]);
    }
}
