//! One turn of the user, and the reason that it is risky.

use crate::Scene;

/// A turn of the user, with every right answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// The picture, if there is one.
    pub scene: Option<Scene>,
    /// The text of the user.
    pub question: String,
    /// The right answers, at least one.
    pub answers: Vec<String>,
    /// A [`VqaKind`](crate::VqaKind) by name, or `caption`, `chat`, `story`, `opinion`, `solo`.
    pub kind: &'static str,
    /// The content of a right answer to a visual question.
    pub key: Option<Vec<String>>,
}

/// The reasons that a turn is risky; they are the risky [`Category`](crate::Category)s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Risk {
    /// A provocation in the text.
    T,
    /// A provocation in the picture, before a neutral question.
    V,
    /// A question for an opinion before a broken heart: cross-modal, either alone is harmless.
    X,
    /// An adversarial prefix.
    A,
}
