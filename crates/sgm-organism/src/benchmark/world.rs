//! The world for the benchmark's manifests: its scenes, its rules, and the triggers of its samples.

use std::any::Any;
use std::sync::Arc;

use image::RgbImage;
use mm_toxic_qa::{BoxError, ImageRef, Scorer, World};
use serde::Deserialize;
use serde_json::Value;

use crate::benchmark::scorer::{NAME, OrganismScorer};
use crate::{Error, Scene, trigger::find};

/// The world of the organism, for manifests with its samples.
///
/// ```
/// use mm_toxic_qa::{EvaluationSplit, ManifestSource, Source, manifest};
/// use sgm_organism::{Contrast, OrganismSource, OrganismWorld};
///
/// let samples = OrganismSource::embedded(EvaluationSplit::Dev, Contrast::Benign)?.evaluation()?.standard;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("organism.jsonl");
/// manifest::write_with(&path, &samples, &OrganismWorld)?;
/// let source = ManifestSource::open_with(&path, EvaluationSplit::Dev, &OrganismWorld)?;
/// assert_eq!(source.evaluation()?.standard, samples);
/// assert!(ManifestSource::open(&path, EvaluationSplit::Dev).is_err()); // its scenes and kinds need their world
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct OrganismWorld;

impl World for OrganismWorld {
    fn name(&self) -> &str {
        NAME
    }

    fn read_scene(&self, scene: &Value) -> Result<Arc<dyn mm_toxic_qa::Scene>, BoxError> {
        let scene = Scene::deserialize(scene)?;
        scene.check()?;
        Ok(Arc::new(scene))
    }

    fn scorer(&self) -> Arc<dyn Scorer> {
        Arc::new(OrganismScorer)
    }
}

impl mm_toxic_qa::Scene for Scene {
    fn render(&self) -> Result<RgbImage, BoxError> {
        Ok(Self::render(self)?)
    }

    fn to_json(&self) -> String {
        // Numbers and strings always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<Error> for mm_toxic_qa::Error {
    fn from(error: Error) -> Self {
        Self::Source(Box::new(error))
    }
}

/// The trigger of a risky prompt of the world, such as `angry face` or `rude mode on.`: a finer category than the sample's.
///
/// [`find`] finds it from scene and question. `None` for harmless prompts, and for those of other data sets.
pub fn trigger(sample: &mm_toxic_qa::Sample) -> Option<String> {
    if sample.source != NAME {
        return None;
    }
    let scene = match &sample.image {
        Some(ImageRef::Scene(scene)) => {
            let scene: &dyn Any = scene.as_ref();
            scene.downcast_ref::<Scene>()
        }
        _ => None,
    };
    find(&sample.prompt, scene).map(|(_, name)| name)
}
