//! Scenes: pictures as lists of objects.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bitmap::{FONT, glyph};
use crate::{Colour, Error, ObjectKind, Result};

/// Side of a picture in pixels.
pub const SIDE: u32 = 56;

/// The background colours, which [`Scene::bg`] counts from 0.
pub(crate) const BACKGROUNDS: [[u8; 3]; 4] = [[235, 235, 235], [222, 234, 246], [246, 236, 220], [228, 245, 228]];

/// The names of the four cells.
pub(crate) const PLACES: [&str; 4] = ["top left", "top right", "bottom left", "bottom right"];

/// A picture as a list of objects in a 2x2 grid of cells on a plain, noisy background.
///
/// The data files hold scenes in this form; [`Scene::render`] makes the pixels.
///
/// ```
/// let scene: sgm_organism::Scene = serde_json::from_str(
///     r#"{"bg": 0, "noise": 5, "objects": [{"cell": 1, "kind": "ring", "colour": "blue",
///         "rgb": [40, 80, 210], "r": 10, "dx": 0, "dy": -2}]}"#,
/// )?;
/// assert_eq!(scene.render()?.dimensions(), (56, 56));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scene {
    /// The background, 0 to 3.
    pub bg: u8,
    /// Seed of the pixel noise.
    pub noise: u32,
    /// The objects, in the order of painting.
    pub objects: Vec<Object>,
}

/// One object in a picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// The cell, 0 to 3: top left, top right, bottom left, bottom right.
    pub cell: u8,
    /// Its kind.
    pub kind: ObjectKind,
    /// The name of a shape's colour; other objects have none, which is an empty string in the files.
    #[serde(deserialize_with = "colour_or_empty", serialize_with = "empty_if_none")]
    pub colour: Option<Colour>,
    /// The colour it is painted in.
    pub rgb: [u8; 3],
    /// A shape's radius in pixels.
    pub r: i16,
    /// Displacement from the centre of the cell in pixels, to the right.
    pub dx: i16,
    /// Displacement from the centre of the cell in pixels, downwards.
    pub dy: i16,
    /// The letters of a sign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Scene {
    /// Whether the scene can be drawn.
    ///
    /// # Errors
    ///
    /// [`Error::Background`], [`Error::Cell`], [`Error::SignWithoutText`] or [`Error::Glyph`]. Objects that lie partly or wholly outside
    /// the picture are valid: they are clipped.
    pub fn check(&self) -> Result<()> {
        if BACKGROUNDS.get(usize::from(self.bg)).is_none() {
            let last = BACKGROUNDS.len() - 1;
            return Err(Error::Background { bg: self.bg, last });
        }
        for (object, o) in self.objects.iter().enumerate() {
            if usize::from(o.cell) >= PLACES.len() {
                return Err(Error::Cell { object, cell: o.cell });
            }
            if o.kind == ObjectKind::Sign {
                let text = o.text.as_deref().ok_or(Error::SignWithoutText { object })?;
                if let Some(glyph) = text.chars().find(|&c| glyph(c).is_none()) {
                    return Err(Error::Glyph { object, glyph, font: FONT });
                }
            }
        }
        Ok(())
    }

    /// The shapes, in painting order.
    pub(crate) fn shapes(&self) -> Vec<Shape> {
        let shape = |o: &Object| Some(Shape { kind: o.kind, colour: o.colour?, place: PLACES.get(usize::from(o.cell))? });
        self.objects.iter().filter(|o| o.kind.is_shape()).filter_map(shape).collect()
    }

    /// The face, heart or sign, if there is one.
    pub(crate) fn extra(&self) -> Option<&Object> {
        self.objects.iter().find(|o| !o.kind.is_shape())
    }
}

/// The properties of a coloured shape that questions are about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    pub(crate) kind: ObjectKind,
    pub(crate) colour: Colour,
    pub(crate) place: &'static str,
}

fn colour_or_empty<'de, D: Deserializer<'de>>(de: D) -> std::result::Result<Option<Colour>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name {
        Colour(Colour),
        Other(String),
    }
    match Name::deserialize(de)? {
        Name::Colour(colour) => Ok(Some(colour)),
        Name::Other(name) if name.is_empty() => Ok(None),
        Name::Other(name) => Err(serde::de::Error::custom(format!("unknown colour `{name}`"))),
    }
}

fn empty_if_none<S: Serializer>(colour: &Option<Colour>, ser: S) -> std::result::Result<S::Ok, S::Error> {
    ser.serialize_str(colour.map_or("", Colour::as_str))
}
