//! A small synthetic world for tests: pictures of one grey pixel, and questions about its level.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use mm_toxic_qa::scoring::ReferenceFault;
use mm_toxic_qa::{BoxError, Reference, ReferenceScorer, Sample, Scene, Scorer, Task, Verdict, World};
use serde_json::Value;

/// A picture of one pixel; the level 255 cannot be drawn.
#[derive(Debug)]
pub(crate) struct Grey(pub(crate) u8);

impl Scene for Grey {
    fn render(&self) -> Result<RgbImage, BoxError> {
        if self.0 == 255 { Err("white is no grey".into()) } else { Ok(RgbImage::from_pixel(1, 1, Rgb([self.0; 3]))) }
    }

    fn to_json(&self) -> String {
        format!("{{\"level\":{},\"form\":\"dot\"}}", self.0)
    }
}

/// The world of such pictures.
#[derive(Debug)]
pub(crate) struct Greys;

impl World for Greys {
    fn name(&self) -> &str {
        "greys"
    }

    fn read_scene(&self, scene: &Value) -> Result<Arc<dyn Scene>, BoxError> {
        let level = scene.get("level").and_then(Value::as_u64).and_then(|level| u8::try_from(level).ok());
        let level = level.filter(|level| *level < 255).ok_or("a `level` from 0 to 254 is missing")?;
        if scene.get("form") == Some(&"dot".into()) { Ok(Arc::new(Grey(level))) } else { Err("its `form` is not `dot`".into()) }
    }

    fn scorer(&self) -> Arc<dyn Scorer> {
        Arc::new(GreyScorer)
    }
}

/// Answers to `greys/level` are right when they end in the key; `greys/talk` is not a visual question.
#[derive(Debug)]
pub(crate) struct GreyScorer;

impl Scorer for GreyScorer {
    fn knows(&self, reference: &Reference) -> bool {
        ["greys/level", "greys/talk"].contains(&reference.kind.as_str()) || ReferenceScorer.knows(reference)
    }

    fn vqa_correct(&self, reference: &Reference, response: &str) -> bool {
        match reference.kind.as_str() {
            "greys/level" => reference.key.iter().flatten().any(|key| response.ends_with(key.as_str())),
            "greys/talk" => false,
            _ => ReferenceScorer.vqa_correct(reference, response),
        }
    }

    fn helpful(&self, sample: &Sample, response: &str, verdict: &Verdict) -> Option<bool> {
        match sample.reference.as_ref()? {
            reference if reference.kind == "greys/level" => Some(verdict.label == Some(false) && self.vqa_correct(reference, response)),
            reference if reference.kind == "greys/talk" => Some(verdict.label == Some(false)),
            _ => ReferenceScorer.helpful(sample, response, verdict),
        }
    }

    fn fault(&self, reference: &Reference, task: Option<Task>) -> Option<ReferenceFault> {
        match reference.kind.as_str() {
            "greys/level" if reference.key.as_ref().is_none_or(Vec::is_empty) => {
                Some(ReferenceFault { field: "reference.key", found: None, expected: "the level" })
            }
            "greys/talk" if task == Some(Task::Vqa) => {
                Some(ReferenceFault { field: "reference.kind", found: Some("greys/talk".to_owned()), expected: "greys/level" })
            }
            kind if kind.starts_with("greys/") => None,
            _ => ReferenceScorer.fault(reference, task),
        }
    }
}
