//! The fields of an entry, and the place of the entry in its file.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The place that an item was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The position in the file: `line 3`, `row 3`, `entry "12"`.
    pub entry: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.entry)
    }
}

impl Place {
    pub(crate) fn line(path: &Path, line: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), entry: format!("line {line}") }
    }

    #[cfg(any(feature = "parquet", feature = "xlsx"))]
    pub(crate) fn row(path: &Path, row: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), entry: format!("row {row}") }
    }

    pub(crate) fn entry(path: &Path, key: impl fmt::Debug) -> Self {
        Self { path: path.to_owned(), entry: format!("entry {key:?}") }
    }

    /// The error about `field` at this place.
    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::DatasetEntry { path: self.path.clone(), entry: self.entry.clone(), field: field.to_owned(), problem: problem.into() }
    }

    pub(crate) fn missing(&self, field: &str, expected: &str) -> Error {
        self.error(field, format!("is missing; expected {expected}"))
    }

    pub(crate) fn invalid(&self, field: &str, found: impl fmt::Display, expected: &str) -> Error {
        let found = found.to_string();
        let mut short: String = found.chars().take(60).collect();
        if short.len() < found.len() {
            short.push('…');
        }
        self.error(field, format!("is {short}; expected {expected}"))
    }

    /// The file that `field` names, which must lie in `folder`.
    pub(crate) fn inside(&self, field: &str, folder: &Path, name: &str) -> Result<PathBuf> {
        const EXPECTED: &str = "the path of a file in the data set's folder, with `/` and without `..`";
        let mut components = Path::new(name).components().filter(|c| !matches!(c, Component::CurDir)).peekable();
        let named = components.peek().is_some();
        if !named || !components.all(|c| matches!(c, Component::Normal(_))) || name.contains(['\\', '\0']) {
            return Err(self.invalid(field, format!("{name:?}"), EXPECTED));
        }
        Ok(folder.join(name))
    }
}

/// The fields of one entry; null and empty count as absent.
pub(crate) struct Fields {
    pub(crate) place: Place,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn new(place: Place, map: Map<String, Value>) -> Self {
        Self { place, map }
    }

    /// The fields of a JSON object that is itself the value of `field`, or a whole entry.
    pub(crate) fn object(place: Place, field: &str, value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self { place, map }),
            other => Err(place.invalid(field, other, "a JSON object")),
        }
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    pub(crate) fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    /// Text that is not blank.
    pub(crate) fn text(&self, field: &str) -> Result<String> {
        self.optional_text(field)?.ok_or_else(|| self.place.missing(field, "some text"))
    }

    /// Text; blank text counts as absent.
    pub(crate) fn optional_text(&self, field: &str) -> Result<Option<String>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
            Some(other) => Err(self.place.invalid(field, other, "text")),
        }
    }

    /// Text or a number, as text: ids are either.
    pub(crate) fn name(&self, field: &str) -> Result<String> {
        match self.get(field) {
            Some(Value::Number(number)) => Ok(number.to_string()),
            _ => self.text(field),
        }
    }

    /// A truth value, also as the words `True` and `False` that Python writes.
    pub(crate) fn truth(&self, field: &str) -> Result<bool> {
        let word = match self.get(field) {
            None => return Err(self.place.missing(field, "true or false")),
            Some(Value::Bool(truth)) => return Ok(*truth),
            Some(Value::String(word)) => word.to_ascii_lowercase(),
            Some(other) => other.to_string(),
        };
        match word.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.place.invalid(field, word, "true or false")),
        }
    }
}
