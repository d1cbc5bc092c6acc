//! Scenes: images that are drawn from a description.

use std::any::Any;
use std::fmt::Debug;

use image::RgbImage;

use crate::BoxError;

/// An image of a synthetic world, drawn when it is needed.
///
/// Two scenes are equal when their JSON is. A [`World`](crate::World) reads scenes from manifests; `&dyn Scene` upcasts to `&dyn Any`, so
/// that a world can recognise its own.
pub trait Scene: Any + Debug + Send + Sync {
    /// Draws the image, 8 bits a channel.
    ///
    /// # Errors
    ///
    /// The world's own, for a scene that cannot be drawn.
    fn render(&self) -> Result<RgbImage, BoxError>;

    /// The scene as a JSON value on one line.
    ///
    /// Manifests hold this text as it is and hashes cover it: equal scenes have the same text, down to the order of its fields.
    fn to_json(&self) -> String;
}

impl PartialEq for dyn Scene {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}
