//! Errors of this crate.

use std::path::PathBuf;

/// Errors of scenes, samples and their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A scene names a background that does not exist.
    #[error("background {bg} does not exist; scenes have backgrounds 0 to {last}")]
    Background {
        /// The number given.
        bg: u8,
        /// The largest number that exists.
        last: usize,
    },

    /// An object lies outside the grid of cells.
    #[error("object {object} lies in cell {cell}; the cells are 0 to 3, row by row")]
    Cell {
        /// Index of the object in the scene.
        object: usize,
        /// The cell given.
        cell: u8,
    },

    /// A sign has no text.
    #[error("object {object} is a sign without `text`; give it some letters")]
    SignWithoutText {
        /// Index of the object in the scene.
        object: usize,
    },

    /// A sign has a character that cannot be drawn.
    #[error("object {object} is a sign with {glyph:?}; the font has {font}")]
    Glyph {
        /// Index of the object in the scene.
        object: usize,
        /// The character.
        glyph: char,
        /// The characters that can be drawn.
        font: &'static str,
    },

    /// A question is not of a kind whose answers can be checked against a key.
    #[error("`{kind}` is not a visual question; those are {known}")]
    UnknownKind {
        /// The kind given.
        kind: String,
        /// The kinds that exist.
        known: &'static str,
    },

    /// A file could not be read.
    #[error("{path}: cannot read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },

    /// A line of a file is not a sample of its kind.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The fault and the expected value.
        reason: String,
    },

    /// A directory holds none of the data files.
    #[error("{directory}: none of the data files is here; expected names such as test_std.jsonl or calib_benign.jsonl")]
    NoData {
        /// The directory.
        directory: PathBuf,
    },

    /// The data lack a set that was asked for.
    #[error("{file} is missing; add it or use another split or contrast")]
    Missing {
        /// The first missing file of the set.
        file: PathBuf,
    },

    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] sgm_core::Error),

    /// The embedded checkpoint cannot be converted.
    #[error("the embedded checkpoint cannot be converted: {reason}")]
    Checkpoint {
        /// What is wrong.
        reason: String,
    },
}
