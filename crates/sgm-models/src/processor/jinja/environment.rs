//! The template engine with the settings of transformers, and limits for templates that come with a checkpoint.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, Value};

use super::{filters, methods, printing, rewrite};

/// The work of one rendering: instructions, and units of 64 bytes of text. Prompts of a megabyte need less than a fifth of it; a template
/// that loops without end fails within seconds and with at most 64 MB of text.
const FUEL: u64 = 1_000_000;

/// The depth of nested macro calls and loops.
const RECURSION: usize = 64;

/// Compiles a template. `name` stands in error messages: the file that the template is from.
pub(crate) fn environment(name: &str, source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    // The ending of the name does not matter, unlike in minijinja: `tokenizer_config.json` would escape text as JSON.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(print);
    filters::add(&mut environment);
    environment.add_function("raise_exception", |state: &State, message: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses: {}", printing::str(state, message)?)))
    });
    environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
        let error = |e: jiff::Error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}"));
        jiff::fmt::strtime::format(&format, &now().map_err(error)?).map_err(error)
    });
    environment.add_template_owned(name.to_owned(), rewrite::for_minijinja(source)?)?;
    Ok(environment)
}

/// Prints a value as Python's `str` does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&printing::str(state, value)?),
    }
    .map_err(Error::from)
}

/// The time for templates that write a date: that of `SOURCE_DATE_EPOCH`, in seconds since 1970, if the variable is
/// set, so that a run can be repeated; otherwise the local time.
fn now() -> Result<jiff::Zoned, jiff::Error> {
    match std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) => Ok(jiff::Timestamp::from_second(seconds)?.to_zoned(jiff::tz::TimeZone::UTC)),
        None => Ok(jiff::Zoned::now()),
    }
}
