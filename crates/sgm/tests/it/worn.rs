//! The glasses that tests put on models, and how they compare what comes of it.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use sgm::core::{Intervention, Metadata, PatchNeuron, Projection, SiteIntervention};
use sgm::models::Mllm;

/// Suppresses every third neuron a little, every seventh wholly.
pub(crate) fn glasses<M: Mllm>(model: &M) -> Intervention {
    glasses_of(model, |neuron| if neuron.is_multiple_of(7) { 0.0 } else { [0.6, 1.0, 1.0][neuron % 3] })
}

/// Glasses with a scale for each neuron, counted from the number of its layer.
pub(crate) fn glasses_of<M: Mllm>(model: &M, scale: impl Fn(usize) -> f32) -> Intervention {
    let mut intervention = Intervention::new(Metadata::default());
    for info in &model.info().sites {
        let scale = (0..info.width).map(|neuron| scale(neuron + info.site.layer)).collect();
        intervention.insert(info.site, SiteIntervention::from_scale(scale)).unwrap();
    }
    intervention
}

/// Glasses that also add a neuron to each layer.
pub(crate) fn with_patches<M: Mllm>(model: &M, mut intervention: Intervention) -> Intervention {
    for info in model.info().sites.iter().filter(|info| info.site.projection == Projection::Down) {
        let wave = |step: usize| (0..info.width).map(|i| if (i + info.site.layer).is_multiple_of(step) { 0.2 } else { -0.05 }).collect();
        intervention.insert_patches(info.site.layer, vec![PatchNeuron { gate: wave(3), up: wave(4), down: wave(5) }]).unwrap();
    }
    intervention
}

pub(crate) fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// The largest difference, relative to the largest value of `b`.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let largest = |t: &Tensor| t.flatten_all().unwrap().abs().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    let worst = largest(&(a - b).unwrap());
    assert!(worst.is_finite());
    worst / largest(b)
}

/// The checkpoints with golden files, one of every family at least, by name.
pub(crate) fn checkpoints() -> Vec<(String, PathBuf)> {
    let goldens = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sgm-models/tests/golden");
    let mut directories: Vec<_> = fs::read_dir(goldens).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.retain(|d| d.join("golden.json").exists());
    directories.sort();
    assert!(directories.len() >= 36, "{directories:?}");
    directories.into_iter().map(|d| (d.file_name().unwrap().to_string_lossy().into_owned(), d)).collect()
}

/// Those of them that can be baked: not 8-bit floats.
pub(crate) fn bakeable_checkpoints() -> impl Iterator<Item = (String, PathBuf)> {
    checkpoints().into_iter().filter(|(name, _)| !name.starts_with("fp8_"))
}

/// Writes the embedded model as a directory.
pub(crate) fn write_organism(directory: &Path) {
    fs::create_dir(directory).unwrap();
    for (file, bytes) in sgm::organism::checkpoint_files() {
        fs::write(directory.join(file), bytes).unwrap();
    }
}
