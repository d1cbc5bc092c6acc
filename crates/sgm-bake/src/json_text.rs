//! Positions in the text of a JSON document, by which a number is changed and all other text is kept.

use std::ops::Range;

use serde::de::{DeserializeOwned, IgnoredAny};

use crate::replacement::Replacement;

/// An object in the text of a document.
#[derive(Debug, Clone)]
pub(crate) struct Object<'a> {
    text: &'a str,
    /// The position after the opening brace.
    inside: usize,
    members: Vec<(String, Range<usize>)>,
}

impl<'a> Object<'a> {
    /// The object that a document consists of; none for other values and malformed documents.
    pub(crate) fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        Self::at(text, text.len() - text.trim_start().len())
    }

    /// The object under a key.
    pub(crate) fn object(&self, key: &str) -> Option<Self> {
        Self::at(self.text, self.value(key)?.start)
    }

    /// The unsigned number under a key; an error with the text of the value if it is another value.
    pub(crate) fn number(&self, key: &str) -> Option<Result<u64, &'a str>> {
        let text = self.text.get(self.value(key)?.clone())?;
        Some(text.parse().map_err(|_| text))
    }

    /// The change that sets a number under a new or existing key.
    pub(crate) fn set(&self, key: &str, number: u64) -> Replacement {
        match self.value(key) {
            Some(place) => {
                Replacement { start: place.start as u64, length: place.len() as u64, bytes: number.to_string().into_bytes(), zeros: 0 }
            }
            None => {
                let comma = if self.members.is_empty() { "" } else { "," };
                let bytes = format!(r#""{key}": {number}{comma}"#).into_bytes();
                Replacement { start: self.inside as u64, bytes, ..Replacement::default() }
            }
        }
    }

    /// The position of a key's value; of equal keys the last one counts.
    fn value(&self, key: &str) -> Option<&Range<usize>> {
        self.members.iter().rev().find(|(name, _)| name == key).map(|(_, place)| place)
    }

    /// The object that starts at a position of a valid document.
    fn at(text: &'a str, start: usize) -> Option<Self> {
        let inside = start + 1;
        let mut rest = text.get(start..)?.strip_prefix('{')?.trim_start();
        let mut members = Vec::new();
        while !rest.starts_with('}') {
            let (name, length) = leading::<String>(rest)?;
            rest = rest.get(length..)?.trim_start().strip_prefix(':')?.trim_start();
            let place = text.len() - rest.len();
            let (_, length) = leading::<IgnoredAny>(rest)?;
            members.push((name, place..place + length));
            rest = rest.get(length..)?.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        Some(Self { text, inside, members })
    }
}

/// The value at the start of a text, and its length.
fn leading<T: DeserializeOwned>(text: &str) -> Option<(T, usize)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    let value = values.next()?.ok()?;
    Some((value, values.byte_offset()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, r: &Replacement) -> String {
        let (start, end) = (usize::try_from(r.start).unwrap(), usize::try_from(r.start + r.length).unwrap());
        format!("{}{}{}", &text[..start], String::from_utf8(r.bytes.clone()).unwrap(), &text[end..])
    }

    #[test]
    fn only_the_number_changes() {
        let text = "\n{ \"a\\u0062\" : [1, {\"n\": 2}],\t\"n\":48, \"inner\": {\"x\":\"}\", \"n\" : 1e3 } }\n";
        let object = Object::of(text).unwrap();
        assert_eq!(object.number("n"), Some(Ok(48)));
        assert_eq!(changed(text, &object.set("n", 5)), text.replace("48", "5"));
        let inner = object.object("inner").unwrap();
        assert_eq!(inner.number("n"), Some(Err("1e3")));
        assert_eq!(changed(text, &inner.set("n", 7)), text.replace("1e3", "7"));
        assert_eq!(changed(text, &inner.set("new", 7)), text.replace("{\"x\"", "{\"new\": 7,\"x\""));
        assert_eq!(object.number("ab"), Some(Err("[1, {\"n\": 2}]")));
        assert_eq!(changed("{}", &Object::of("{}").unwrap().set("n", 1)), "{\"n\": 1}");
        // The last of equal keys counts, as in Python.
        let twice = r#"{"n":1,"n":2}"#;
        assert_eq!(changed(twice, &Object::of(twice).unwrap().set("n", 3)), r#"{"n":1,"n":3}"#);
    }

    #[test]
    fn what_is_no_object_is_none() {
        for text in ["", "[]", "1", "{", "{\"a\":}", "{\"a\" 1}", "{\"a\":1,}", "{} {}"] {
            assert!(Object::of(text).is_none(), "{text}");
        }
        let object = Object::of(r#"{"a":[{}],"b":null}"#).unwrap();
        assert!(object.object("a").is_none() && object.object("b").is_none() && object.object("c").is_none());
    }
}
