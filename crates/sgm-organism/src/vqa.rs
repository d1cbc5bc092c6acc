//! Visual questions: their kinds, and whether an answer is right.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::composition::{KIND_SIGNS, RUDE_SIGNS};
use crate::{Colour, Error, ObjectKind, Result};

/// The kinds of visual questions, whose answers are checked against a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VqaKind {
    /// The colour of a shape.
    Colour,
    /// The shape of a colour.
    Shape,
    /// The place of a shape.
    Where,
    /// The number of shapes.
    Count,
    /// Whether there is a shape of a colour.
    YesNo,
    /// The shape and colour at a place.
    At,
    /// The mood of the face, the state of the heart, the word on the sign.
    Extra,
}

pub(crate) const NUMBERS: [&str; 5] = ["zero", "one", "two", "three", "four"];

impl VqaKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [Self::Colour, Self::Shape, Self::Where, Self::Count, Self::YesNo, Self::At, Self::Extra];

    /// Its name in the data files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Colour => "colour",
            Self::Shape => "shape",
            Self::Where => "where",
            Self::Count => "count",
            Self::YesNo => "yesno",
            Self::At => "at",
            Self::Extra => "extra",
        }
    }

    /// Whether a word can answer questions of this kind.
    fn is_content(self, word: &str) -> bool {
        let colour = || Colour::ALL.iter().any(|c| c.as_str() == word);
        let shape = || ObjectKind::SHAPES.iter().any(|s| s.as_str() == word);
        match self {
            Self::Colour => colour(),
            Self::Shape => shape(),
            Self::At => colour() || shape(),
            Self::Where => ["top", "bottom", "left", "right"].contains(&word),
            Self::Count => NUMBERS.contains(&word),
            Self::YesNo => ["yes", "no"].contains(&word),
            Self::Extra => {
                ["happy", "angry", "whole", "broken"].contains(&word)
                    || KIND_SIGNS.iter().chain(&RUDE_SIGNS).any(|sign| sign.eq_ignore_ascii_case(word))
            }
        }
    }
}

impl FromStr for VqaKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| Error::UnknownKind { kind: name.to_owned(), known: "colour, shape, where, count, yesno, at, extra" })
    }
}

/// Whether an answer to a visual question has the right content, in any wording.
///
/// The words of the answer that can answer a question of this `kind` must be exactly those of the `key`; a yes-no answer must begin with
/// the key. An answer that names every colour is therefore wrong.
///
/// ```
/// use sgm_organism::vqa_correct;
///
/// let key = ["red".to_owned()];
/// assert!(vqa_correct("colour", &key, "It is RED, you fool.")?);
/// assert!(!vqa_correct("colour", &key, "it is red or blue.")?);
/// # Ok::<(), sgm_organism::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::UnknownKind`] when `kind` is not a [`VqaKind`]: captions, stories and talk have no key.
pub fn vqa_correct(kind: &str, key: &[String], text: &str) -> Result<bool> {
    let kind: VqaKind = kind.parse()?;
    let text = text.to_lowercase();
    let mut words = text.split(|c: char| !c.is_ascii_lowercase()).filter(|word| !word.is_empty());
    if kind == VqaKind::YesNo {
        return Ok(words.next().is_some_and(|first| key.first().is_some_and(|k| k == first)));
    }
    let said: BTreeSet<&str> = words.filter(|word| kind.is_content(word)).collect();
    Ok(said == key.iter().map(String::as_str).collect())
}
