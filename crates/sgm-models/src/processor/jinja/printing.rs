//! Values as Python prints them.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// The depth of nested lists and dictionaries that are printed.
pub(crate) const DEEPEST: usize = 64;

/// Python's `str` of a value.
pub(crate) fn str(state: &State, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let mut out = Paid::new(state);
            write(&mut out, value, 0)?;
            Ok(out.text)
        }
    }
}

/// A text that pays for its growth, for values that contain others many times: they are small, but what they print as is not.
pub(crate) struct Paid<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    pub(crate) text: String,
    paid: usize,
}

impl<'a, 'template, 'env> Paid<'a, 'template, 'env> {
    pub(crate) fn new(state: &'a State<'template, 'env>) -> Self {
        Self { state, text: String::new(), paid: 0 }
    }

    /// Pays for the text so far, one unit for 4 bytes, as minijinja does for serialised values.
    pub(crate) fn pay(&mut self) -> Result<(), Error> {
        let units = (self.text.len() - self.paid) / 4;
        if units > 0 {
            self.paid = self.text.len();
            self.state.consume_fuel(u64::try_from(units).unwrap_or(u64::MAX))?;
        }
        Ok(())
    }
}

fn write(out: &mut Paid<'_, '_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply to be printed"));
    }
    out.pay()?;
    match value.kind() {
        ValueKind::String => quote(&mut out.text, value.as_str().unwrap_or_default()),
        ValueKind::Map => {
            out.text.push('{');
            for (at, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.text.push_str(if at > 0 { ", " } else { "" });
                write(out, &key, depth + 1)?;
                out.text.push_str(": ");
                write(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.text.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ")") } else { ('[', "]") };
            out.text.push(open);
            for (at, item) in value.try_iter()?.checked().enumerate() {
                out.text.push_str(if at > 0 { ", " } else { "" });
                write(out, &item?, depth + 1)?;
            }
            out.text.push_str(if value.is_tuple() && value.len() == Some(1) { ",)" } else { close });
        }
        _ => match float(value) {
            Some(number) => out.text.push_str(&float_repr(number)),
            None => out.text.push_str(&value.to_string()),
        },
    }
    Ok(())
}

/// Python's `repr` of a text.
fn quote(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if printable(c) => out.push(c),
            c => out.push_str(&match u32::from(c) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// Whether Python prints the character itself: control characters, other spaces than ` `, and invisible marks are escaped.
fn printable(c: char) -> bool {
    const INVISIBLE: [char; 11] =
        ['\u{ad}', '\u{61c}', '\u{180e}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{2060}', '\u{feff}', '\u{e0001}'];
    let private = ('\u{e000}'..='\u{f8ff}').contains(&c) || c >= '\u{f0000}';
    c == ' ' || !(c.is_control() || c.is_whitespace() || private || INVISIBLE.contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c))
}

/// The number, if the value is a float in Python's sense.
pub(crate) fn float(value: &Value) -> Option<f64> {
    (value.kind() == ValueKind::Number && !value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Python's `repr` of a float: the shortest digits that read back as the same number, with an exponent below 1e-4 and from 1e16.
pub(crate) fn float_repr(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..=15 => {
            let plain = format!("{number}");
            if plain.contains('.') { plain } else { format!("{plain}.0") }
        }
        exponent => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let numbers = [(1.0, "1.0"), (1e15, "1000000000000000.0"), (1e16, "1e+16"), (1.5e-7, "1.5e-07"), (1e-4, "0.0001"), (1e22, "1e+22")];
        for (number, printed) in numbers {
            assert_eq!(float_repr(number), printed);
        }
        assert_eq!([float_repr(-0.0), float_repr(0.1 + 0.2), float_repr(f64::NAN)], ["-0.0", "0.30000000000000004", "nan"]);
    }
}
