//! Data: samples and their origin.
//!
//! Manifests hold samples; sources give those to calibrate on and those to measure; readers of published data sets, the builder and the
//! attacks make samples; a synthetic world draws scenes.

pub mod attacks;
#[cfg(feature = "candle")]
mod bad_samples;
mod build_plan;
pub mod builder;
mod candidate;
pub mod datasets;
mod datasheet;
mod image_folder;
pub mod manifest;
mod neutral;
mod quota_group;
mod related;
mod sample;
mod scene;
mod shortcuts;
mod source;
mod split;
mod world;

#[cfg(feature = "candle")]
pub use bad_samples::without_bad_samples;
pub use build_plan::{BuildPlan, MM_TOXIC_QA_CATEGORIES};
pub use datasheet::{BuildOutput, Datasheet};
pub use image_folder::ImageFolder;
pub(crate) use image_folder::png;
pub use neutral::neutral_texts;
pub use sample::{Condition, ImageRef, Reference, Sample, Split, Task};
pub use scene::Scene;
pub use shortcuts::shortcuts;
pub use source::{Evaluation, ManifestSource, Source, resample_calibration};
pub use split::EvaluationSplit;
pub use world::World;
