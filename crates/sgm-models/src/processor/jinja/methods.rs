//! The methods of Python's `str`, `list` and `dict` that templates may call, beyond those of `minijinja-contrib`.
//!
//! As in transformers' sandbox, methods that change a list or a dictionary do not exist.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::filters::pay;

/// Calls a method of a value.
pub(crate) fn call(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let called = match (value.as_str(), value.kind()) {
        (Some(text), _) => {
            // Pieces of a text take more work than its bytes.
            pay(state, text.len().saturating_mul(if method.contains("split") { 8 } else { 1 }))?;
            string_method(state, text, method, arguments)?
        }
        (None, ValueKind::Seq) if method == "index" => Some(index_of(value, arguments)?),
        (None, ValueKind::Seq | ValueKind::Map) if method == "copy" => {
            let () = from_args(arguments)?;
            Some(value.clone())
        }
        _ => None,
    };
    match called {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

fn index_of(list: &Value, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(arguments)?;
    let at = list.try_iter()?.position(|item| item == *wanted);
    at.map(Value::from).ok_or_else(|| invalid("index: the value is not in the list"))
}

/// Calls a method of a text; `None` if the method is one of `minijinja-contrib` or does not exist.
fn string_method(state: &State, text: &str, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "split" | "rsplit" => {
            let (separator, limit) = split_arguments(arguments)?;
            Value::from(split(text, separator.as_deref(), limit, method == "rsplit")?)
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            not_empty(separator)?;
            let parts = match if method == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) } {
                Some((before, after)) => [before, separator, after],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
            let part = between(text, start, end);
            let at = part.and_then(|(offset, part)| {
                let byte = if method.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) }?;
                Some(offset + part.get(..byte)?.chars().count())
            });
            match at {
                Some(at) => Value::from(at),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(invalid(format!("{method}: the text has no `{wanted}`"))),
            }
        }
        "count" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
            Value::from(between(text, start, end).map_or(0, |(_, part)| part.matches(wanted).count()))
        }
        "startswith" | "endswith" => {
            let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(arguments)?;
            let wanted: Vec<Value> = if wanted.is_tuple() { wanted.try_iter()?.collect() } else { vec![wanted.clone()] };
            let mut found = false;
            for wanted in &wanted {
                let wanted = wanted.as_str().ok_or_else(|| invalid(format!("{method}: expected a text or a tuple of texts")))?;
                found |= between(text, start, end)
                    .is_some_and(|(_, part)| if method == "startswith" { part.starts_with(wanted) } else { part.ends_with(wanted) });
            }
            Value::from(found)
        }
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(arguments)?;
            let cut = |c: char| characters.map_or_else(|| is_space(c), |characters| characters.contains(c));
            let text = if method == "rstrip" { text } else { text.trim_start_matches(cut) };
            Value::from(if method == "lstrip" { text } else { text.trim_end_matches(cut) })
        }
        "format" if text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4) => {
            return Err(invalid("format: the width is too large"));
        }
        "ljust" | "rjust" | "center" | "zfill" => Value::from(pad(state, text, method, arguments)?),
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(arguments)?;
            Value::from(lines(text, keep.unwrap_or(false)))
        }
        "title" | "capitalize" | "swapcase" | "casefold" => {
            let () = from_args(arguments)?;
            Value::from(change_case(text, method))
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isdecimal" => Value::from(!text.is_empty() && text.chars().all(char::is_numeric)),
        "istitle" => Value::from(text.chars().any(char::is_alphabetic) && change_case(text, "title") == text),
        "isidentifier" => {
            let start = |c: char| c == '_' || c.is_alphabetic();
            Value::from(text.chars().next().is_some_and(start) && text.chars().all(|c| start(c) || c.is_numeric()))
        }
        _ => return Ok(None),
    }))
}

/// White space of Python's `str`, which includes four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn split_arguments(arguments: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (separator, limit, named): (Option<Value>, Option<i64>, Kwargs) = from_args(arguments)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => named.get("sep")?,
    };
    let limit = match limit {
        Some(limit) => Some(limit),
        None => named.get("maxsplit")?,
    };
    named.assert_all_used()?;
    let separator = match separator.filter(|separator| !separator.is_none()) {
        None => None,
        Some(separator) => {
            let separator = separator.as_str().ok_or_else(|| invalid("split: the separator must be a text"))?;
            not_empty(separator)?;
            Some(separator.to_owned())
        }
    };
    Ok((separator, limit.and_then(|limit| usize::try_from(limit).ok())))
}

fn split(text: &str, separator: Option<&str>, limit: Option<usize>, from_end: bool) -> Result<Vec<Value>, Error> {
    let pieces = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
    let mut parts: Vec<&str> = match (separator, from_end) {
        (Some(separator), false) => text.splitn(pieces, separator).collect(),
        (Some(separator), true) => text.rsplitn(pieces, separator).collect(),
        (None, _) => split_at_spaces(text, pieces, from_end),
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The words of a text in the direction of the search; the last piece is the rest of the text.
fn split_at_spaces(text: &str, pieces: usize, from_end: bool) -> Vec<&str> {
    let trim = |text| if from_end { str::trim_end_matches(text, is_space) } else { str::trim_start_matches(text, is_space) };
    let mut rest: &str = trim(text);
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let found = if from_end {
            rest.char_indices().rev().find(|(_, c)| is_space(*c)).map(|(at, c)| (rest.get(at + c.len_utf8()..), rest.get(..at)))
        } else {
            rest.find(is_space).map(|at| (rest.get(..at), rest.get(at..)))
        };
        match found {
            Some((Some(word), Some(after))) if parts.len() + 1 < pieces => {
                parts.push(word);
                rest = trim(after);
            }
            _ => {
                let end = if from_end { rest.trim_start_matches(is_space) } else { rest.trim_end_matches(is_space) };
                // Python keeps the white space at the far end of a rest that is not split any further.
                parts.push(if parts.len() + 1 < pieces { end } else { rest });
                break;
            }
        }
    }
    parts
}

/// The part of a text between two positions in characters, as Python slices, with the position of its start; `None` if the start is behind
/// the end.
fn between(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let length = text.chars().count();
    let position = |at: i64| match usize::try_from(at) {
        Ok(at) => at,
        Err(_) => length.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let (start, end) = (start.map_or(0, position), end.map_or(length, position).min(length));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    if start > end { None } else { Some((start, text.get(byte(start)..byte(end))?)) }
}

fn pad(state: &State, text: &str, method: &str, arguments: &[Value]) -> Result<String, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(arguments)?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    let fill = fill.unwrap_or(if method == "zfill" { "0" } else { " " });
    if fill.chars().count() != 1 {
        return Err(invalid(format!("{method}: the fill must be one character")));
    }
    pay(state, missing.saturating_mul(fill.len()))?;
    Ok(match method {
        "ljust" => format!("{text}{}", fill.repeat(missing)),
        "rjust" => format!("{}{text}", fill.repeat(missing)),
        "zfill" => {
            let digits = text.trim_start_matches(['+', '-']);
            let sign = text.strip_suffix(digits).filter(|sign| sign.len() == 1).unwrap_or_default();
            format!("{sign}{}{}", fill.repeat(missing), text.strip_prefix(sign).unwrap_or(text))
        }
        _ => {
            // As in CPython, an odd remainder goes to the left if the width is odd.
            let left = missing / 2 + (missing % 2).min(usize::try_from(width.rem_euclid(2)).unwrap_or(0));
            format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))
        }
    })
}

fn lines(text: &str, keep_ends: bool) -> Vec<Value> {
    const ENDS: [char; 10] = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, end) = match rest.find(ENDS) {
            None => (rest, ""),
            Some(at) => {
                let (line, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
                let length = if from.starts_with("\r\n") { 2 } else { from.chars().next().map_or(0, char::len_utf8) };
                (line, from.get(..length).unwrap_or_default())
            }
        };
        let whole = rest.get(..line.len() + end.len()).unwrap_or(rest);
        lines.push(Value::from(if keep_ends { whole } else { line }));
        rest = rest.get(whole.len()..).unwrap_or_default();
    }
    lines
}

fn change_case(text: &str, method: &str) -> String {
    let mut changed = String::with_capacity(text.len());
    let mut inside = false;
    for (at, c) in text.chars().enumerate() {
        let upper = match method {
            "title" => !inside,
            "capitalize" => at == 0,
            "swapcase" => c.is_lowercase(),
            _ => false,
        };
        match c {
            'ß' if method == "casefold" => changed.push_str("ss"),
            c if upper => changed.extend(c.to_uppercase()),
            c => changed.extend(c.to_lowercase()),
        }
        inside = c.is_alphabetic();
    }
    changed
}

fn not_empty(separator: &str) -> Result<(), Error> {
    if separator.is_empty() { Err(invalid("empty separator")) } else { Ok(()) }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}
