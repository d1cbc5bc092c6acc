//! Validated access to JSON settings; errors name the file and the key.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// An object of a JSON file, with its file name and key path for error messages.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    file: Arc<str>,
    at: String,
    map: Map<String, Value>,
}

impl Section {
    pub(crate) fn parse(file: &str, json: &[u8]) -> Result<Self> {
        let error = |reason: String| Error::Config { file: file.to_owned(), key: "(file)".to_owned(), reason };
        match serde_json::from_slice(json).map_err(|e| error(format!("not valid JSON: {e}")))? {
            Value::Object(map) => Ok(Self { file: file.into(), at: String::new(), map }),
            _ => Err(error("expected a JSON object".to_owned())),
        }
    }

    /// Creates a section from an object of a file of another format.
    pub(crate) fn from_map(file: &str, map: Map<String, Value>) -> Self {
        Self { file: file.into(), at: String::new(), map }
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Config { file: self.file.to_string(), key: format!("{}{key}", self.at), reason: reason.into() }
    }

    /// The value of a key; `null` counts as absent, as in transformers.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// All keys with their values.
    pub(crate) fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// Whether the file has the key, even with the value `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The object under a key; an absent one is empty.
    pub(crate) fn section(&self, key: &str) -> Result<Self> {
        let map = match self.get(key) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => return Err(self.error(key, "expected an object")),
        };
        Ok(Self { file: self.file.clone(), at: format!("{}{key}.", self.at), map })
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.error(key, format!("expected a string, found {v}")))).transpose()
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| self.error(key, format!("expected true or false, found {v}")))).transpose()
    }

    pub(crate) fn f64(&self, key: &str) -> Result<Option<f64>> {
        let finite = |v: &Value| v.as_f64().filter(|f| f.is_finite());
        self.get(key).map(|v| finite(v).ok_or_else(|| self.error(key, format!("expected a number, found {v}")))).transpose()
    }

    pub(crate) fn i64(&self, key: &str) -> Result<Option<i64>> {
        self.get(key).map(|v| v.as_i64().ok_or_else(|| self.error(key, format!("expected a whole number, found {v}")))).transpose()
    }

    /// A count below 2^31. Larger sizes occur in no model and would overflow products.
    pub(crate) fn usize(&self, key: &str) -> Result<Option<usize>> {
        let size = |v: &Value| v.as_u64().filter(|n| *n < 1 << 31).and_then(|n| usize::try_from(n).ok());
        self.get(key).map(|v| size(v).ok_or_else(|| self.error(key, format!("expected a count, found {v}")))).transpose()
    }

    /// A count above 0.
    pub(crate) fn positive(&self, key: &str, default: usize) -> Result<usize> {
        match self.usize(key)?.unwrap_or(default) {
            0 => Err(self.error(key, "must not be 0")),
            n => Ok(n),
        }
    }

    pub(crate) fn u32(&self, key: &str) -> Result<Option<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.get(key).map(|v| id(v).ok_or_else(|| self.error(key, format!("expected a token id, found {v}")))).transpose()
    }

    /// A token id or a list of token ids, such as `eos_token_id`.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |v: &Value| {
            v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| self.error(key, format!("expected a token id, found {v}")))
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(v) => Ok(vec![id(v)?]),
        }
    }
}
