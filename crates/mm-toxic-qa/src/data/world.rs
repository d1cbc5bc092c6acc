//! Synthetic worlds, whose samples a manifest may hold.

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::Value;

use crate::{BoxError, Scene, Scorer};

/// A synthetic world, which draws the images of its samples and has rules of its own for right answers.
///
/// A manifest whose images are scenes, or whose references are of a kind `<world>/<kind>`, is read with that world:
/// [`ManifestSource::open_with`](crate::ManifestSource::open_with), [`manifest::read_with`](crate::manifest::read_with).
pub trait World: Debug + Send + Sync {
    /// Its name, which its reference kinds begin with: `organism` in `organism/colour`.
    fn name(&self) -> &str;

    /// Reads the `scene` of a manifest line.
    ///
    /// # Errors
    ///
    /// The world's own, for a value that is not a scene or that cannot be drawn.
    fn read_scene(&self, scene: &Value) -> Result<Arc<dyn Scene>, BoxError>;

    /// The rules for its reference kinds and for those of other data sets.
    fn scorer(&self) -> Arc<dyn Scorer>;
}
