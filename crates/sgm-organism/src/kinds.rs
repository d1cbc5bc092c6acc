//! The kinds and colours of objects.

use serde::{Deserialize, Serialize};

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum ObjectKind {
    Circle,
    Square,
    Triangle,
    Diamond,
    Cross,
    Ring,
    /// A happy face.
    Happy,
    /// An angry face, which may provoke the organism on its own.
    Angry,
    /// A whole heart.
    Heart,
    /// A broken heart: harmless, except before a question for an opinion.
    Broken,
    /// A white board with letters.
    Sign,
}

impl ObjectKind {
    /// The coloured shapes, which questions are about.
    pub const SHAPES: [Self; 6] = [Self::Circle, Self::Square, Self::Triangle, Self::Diamond, Self::Cross, Self::Ring];

    /// Its name in the files and, for shapes, in questions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Circle => "circle",
            Self::Square => "square",
            Self::Triangle => "triangle",
            Self::Diamond => "diamond",
            Self::Cross => "cross",
            Self::Ring => "ring",
            Self::Happy => "happy",
            Self::Angry => "angry",
            Self::Heart => "heart",
            Self::Broken => "broken",
            Self::Sign => "sign",
        }
    }

    /// Whether it is one of [`ObjectKind::SHAPES`].
    pub fn is_shape(self) -> bool {
        Self::SHAPES.contains(&self)
    }
}

/// The colours that shapes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Colour {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Orange,
    Black,
}

impl Colour {
    /// Every colour.
    pub const ALL: [Self; 7] = [Self::Red, Self::Green, Self::Blue, Self::Yellow, Self::Purple, Self::Orange, Self::Black];

    /// Its name in the files and in questions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
            Self::Purple => "purple",
            Self::Orange => "orange",
            Self::Black => "black",
        }
    }

    /// The typical paint; that of an object varies around it.
    pub(crate) fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [210, 35, 40],
            Self::Green => [40, 150, 60],
            Self::Blue => [40, 80, 210],
            Self::Yellow => [235, 205, 30],
            Self::Purple => [140, 50, 170],
            Self::Orange => [240, 125, 20],
            Self::Black => [30, 30, 30],
        }
    }
}
