//! A label is 1 (toxic), 0 (non-toxic) or null in every file.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<S: Serializer>(label: &Option<bool>, s: S) -> Result<S::Ok, S::Error> {
    label.map(u8::from).serialize(s)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<bool>, D::Error> {
    match Option::<u64>::deserialize(d)? {
        None => Ok(None),
        Some(0) => Ok(Some(false)),
        Some(1) => Ok(Some(true)),
        Some(n) => Err(serde::de::Error::invalid_value(serde::de::Unexpected::Unsigned(n), &"1 (toxic), 0 (non-toxic) or null")),
    }
}
