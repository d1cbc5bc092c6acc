//! Filters and tests that differ between minijinja and Jinja2.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::printing::{DEEPEST, float, str};
use super::{json, rewrite};

/// Adds the filters and tests.
pub(crate) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("int", int);
    environment.add_filter("float", |value: &Value, default: Option<f64>| parse_float(value).unwrap_or(default.unwrap_or(0.0)));
    environment.add_filter("indent", indent);
    for name in ["escape", "e", "forceescape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("string", |state: &State, value: &Value| str(state, value));
    environment.add_filter(rewrite::MODULO, modulo);
    environment.add_filter(rewrite::ASSIGNABLE, assignable);
    environment.add_test("sequence", |value: &Value| matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map));
    environment.add_test("iterable", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined)
    });
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// The operator `%` of Python: the remainder with the sign of the divisor, or the formatting of a text.
fn modulo(state: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    if left.as_str().is_some() {
        let arguments = if right.is_tuple() { right.try_iter()?.collect() } else { vec![right.clone()] };
        return state.apply_filter("format", &[vec![left.clone()], arguments].concat());
    }
    let unsupported = || {
        let reason = format!("tried to use % operator on unsupported types {} and {}", left.kind(), right.kind());
        Error::new(ErrorKind::InvalidOperation, reason)
    };
    if let (Ok(left), Ok(right)) = (i128::try_from(left.clone()), i128::try_from(right.clone())) {
        let remainder = left.checked_rem(right).ok_or_else(unsupported)?;
        return Ok(Value::from(if remainder != 0 && (remainder < 0) != (right < 0) { remainder + right } else { remainder }));
    }
    match (f64::try_from(left.clone()), f64::try_from(right.clone())) {
        (Ok(left), Ok(right)) if right != 0.0 => {
            let remainder = left % right;
            Ok(Value::from(if remainder != 0.0 && (remainder < 0.0) != (right < 0.0) { remainder + right } else { remainder }))
        }
        _ => Err(unsupported()),
    }
}

/// A value that is assigned to a variable. In a loop, assignments can nest values without end, which would overflow the stack, or double
/// them until they cannot be printed: such values are refused. `attribute`: the variable is an attribute of a namespace.
fn assignable(state: &State, value: &Value, attribute: bool) -> Result<Value, Error> {
    // What is read item by item, such as a reversed list, becomes a list.
    let value = match value.kind() {
        ValueKind::Iterable => Value::from(value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?),
        _ => value.clone(),
    };
    let mut left = MOST_VALUES;
    measure(&value, 0, attribute, &mut left)?;
    state.consume_fuel((MOST_VALUES - left) / 4)?;
    Ok(value)
}

/// The number of values, or units of 64 bytes of text, that a variable may hold, counted as often as they would be printed.
const MOST_VALUES: u64 = 250_000;

fn measure(value: &Value, depth: usize, inside: bool, left: &mut u64) -> Result<(), Error> {
    let refused = |reason| Err(Error::new(ErrorKind::InvalidOperation, reason));
    let text = value.as_str().map_or(0, |text| u64::try_from(text.len() / 64).unwrap_or(u64::MAX));
    *left = left.saturating_sub(1).saturating_sub(text);
    if *left == 0 {
        return refused("a variable holds too much");
    }
    if depth > DEEPEST {
        return refused("a variable is nested too deeply");
    }
    if inside && value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) {
        return refused("a namespace cannot be kept within another value");
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| measure(&item, depth + 1, true, left)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| measure(&value.get_item(&key)?, depth + 1, true, left)),
        _ => Ok(()),
    }
}

fn parse_float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None => f64::try_from(value.clone()).ok(),
    }
}

/// `int(value, default=0, base=10)`: the default stands for what is no number.
fn int(value: &Value, default: Option<i64>, base: Option<u32>) -> Result<Value, Error> {
    let default = Value::from(default.unwrap_or(0));
    if let Some(text) = value.as_str() {
        let base = base.filter(|base| (2..=36).contains(base)).unwrap_or(10);
        if let Ok(number) = i128::from_str_radix(text.trim(), base) {
            return Ok(Value::from(number));
        }
    } else if let (None, Ok(number)) = (float(value), i128::try_from(value.clone())) {
        return Ok(Value::from(number));
    }
    let whole = parse_float(value).filter(|number| number.is_finite() && number.abs() < 1e30);
    #[allow(clippy::cast_possible_truncation, reason = "finite and below 1e30, so it fits; the fraction is cut on purpose")]
    Ok(whole.map_or(default, |number| Value::from(number as i128)))
}

/// `indent(text, width=4, first=False, blank=False)`; the width may be the text to indent with.
fn indent(state: &State, text: &Value, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let mut positional = positional.0.into_iter();
    let mut argument = |name: &str| -> Result<Option<Value>, Error> {
        match positional.next() {
            Some(value) => Ok(Some(value)),
            None => named.get(name),
        }
    };
    let width = argument("width")?.unwrap_or_else(|| Value::from(4));
    let first = argument("first")?.is_some_and(|value| value.is_true());
    let blank = argument("blank")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let text = str(state, text)?;
    let lines = text.split('\n').count();
    let indentation = match (width.as_str(), width.as_i64()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(width)) => {
            let width = usize::try_from(width).unwrap_or(0);
            pay(state, width.saturating_mul(lines))?;
            " ".repeat(width)
        }
        (None, None) => return Err(Error::new(ErrorKind::InvalidOperation, "indent: the width must be a number or a text")),
    };
    pay(state, indentation.len().saturating_mul(lines))?;
    let mut indented = String::new();
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            indented.push('\n');
        }
        if (at > 0 && (blank || !line.is_empty())) || (at == 0 && first) {
            indented.push_str(&indentation);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

/// The characters that HTML gives a meaning, as entities.
fn escape(state: &State, text: &Value) -> Result<String, Error> {
    let text = str(state, text)?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            c => escaped.push(c),
        }
    }
    Ok(escaped)
}

/// Pays for text before it is made.
pub(crate) fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    let units = u64::try_from(bytes / 64).unwrap_or(u64::MAX);
    if units > 0 { state.consume_fuel(units) } else { Ok(()) }
}
