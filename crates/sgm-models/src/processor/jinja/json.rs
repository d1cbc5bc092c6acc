//! The filter `tojson` of transformers: Python's `json.dumps` without escapes for HTML.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::printing::{DEEPEST, Paid, float, float_repr};

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(crate) fn tojson(state: &State, value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let mut positional = positional.0.into_iter();
    let mut argument = |name: &str| -> Result<Option<Value>, Error> {
        let given: Option<Value> = match positional.next() {
            Some(value) => Some(value),
            None => named.get(name)?,
        };
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ensure_ascii = argument("ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = argument("indent")?.map(|indent| match (indent.as_str(), indent.as_i64()) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(width)) => {
            let width = usize::try_from(width).unwrap_or(0);
            state.consume_fuel(width.try_into().unwrap_or(u64::MAX))?;
            Ok(" ".repeat(width))
        }
        (None, None) => Err(invalid("tojson: indent must be a number or a text")),
    });
    let indent = indent.transpose()?;
    let separators = match argument("separators")? {
        None => None,
        Some(pair) => {
            let pair: Vec<String> = pair.try_iter()?.map(|separator| separator.to_string()).collect();
            Some(<[String; 2]>::try_from(pair).map_err(|_| invalid("tojson: separators must be two texts"))?)
        }
    };
    let [between_items, after_key] = separators.unwrap_or_else(|| [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()]);
    let sort_keys = argument("sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let mut writer = Writer { out: Paid::new(state), ensure_ascii, indent, between_items, after_key, sort_keys };
    writer.value(value, 0)?;
    Ok(writer.out.text)
}

struct Writer<'a, 'template, 'env> {
    out: Paid<'a, 'template, 'env>,
    ensure_ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sort_keys: bool,
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        self.out.pay()?;
        match value.kind() {
            ValueKind::None => self.out.text.push_str("null"),
            ValueKind::Bool => self.out.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.text.push('[');
                let mut empty = true;
                for item in value.try_iter()?.checked() {
                    self.begin_item(empty, depth);
                    empty = false;
                    self.value(&item?, depth + 1)?;
                }
                self.end(empty, depth, ']');
            }
            kind => return Err(invalid(format!("tojson: {kind} is not JSON serializable"))),
        }
        Ok(())
    }

    fn map(&mut self, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys = map.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
        if self.sort_keys {
            keys.sort();
        }
        self.out.text.push('{');
        let mut empty = true;
        for key in keys {
            self.begin_item(empty, depth);
            empty = false;
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                    self.out.text.push('"');
                    self.value(&key, depth + 1)?;
                    self.out.text.push('"');
                }
                kind => return Err(invalid(format!("tojson: {kind} cannot be a key"))),
            }
            self.out.text.push_str(&self.after_key);
            self.value(&map.get_item(&key)?, depth + 1)?;
        }
        self.end(empty, depth, '}');
        Ok(())
    }

    fn begin_item(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.text.push_str(&self.between_items);
        }
        self.new_line(depth + 1);
    }

    fn end(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.new_line(depth);
        }
        self.out.text.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.text.push('\n');
            for _ in 0..depth {
                self.out.text.push_str(indent);
            }
        }
    }

    fn number(&mut self, value: &Value) {
        let text = match float(value) {
            None => value.to_string(),
            Some(number) if number.is_nan() => "NaN".to_owned(),
            Some(number) if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            Some(number) => float_repr(number),
        };
        self.out.text.push_str(&text);
    }

    fn string(&mut self, text: &str) {
        self.out.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.text.push_str("\\\""),
                '\\' => self.out.text.push_str("\\\\"),
                '\n' => self.out.text.push_str("\\n"),
                '\r' => self.out.text.push_str("\\r"),
                '\t' => self.out.text.push_str("\\t"),
                '\u{8}' => self.out.text.push_str("\\b"),
                '\u{c}' => self.out.text.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && !c.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        self.out.text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.text.push(c),
            }
        }
        self.out.text.push('"');
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}
