//! Templates rewritten for minijinja: constructs of transformers' Jinja that minijinja lacks, expressed by those it has.
//!
//! * `{% generation %}` … `{% endgeneration %}`, marks for training, become a block of their own scope, `{% with %}`, as they are in
//!   transformers.
//! * `left % right` becomes a filter, because minijinja's operator does not format texts.
//! * What is assigned to a variable passes a filter that refuses values which are nested too deeply.
//! * Escapes in texts are those of Python.
//! * Line ends become `\n`, as Jinja2 reads them.
//!
//! Texts, comments and raw blocks stay as they are.

use std::ops::Range;

use minijinja::{Error, ErrorKind};

/// The filter that stands for the operator `%`.
pub(crate) const MODULO: &str = "python_modulo";

/// The filter of values that are assigned.
pub(crate) const ASSIGNABLE: &str = "assignable";

/// Limits within which minijinja's parser and compiler, which are recursive, do not overflow the stack. Tags of published templates have up
/// to 200 tokens.
const MOST_BYTES: usize = 1 << 20;
const MOST_TOKENS: usize = 1000;
const MOST_ALTERNATIVES: usize = 300;

/// Rewrites a template. What is not closed stays as it is, for the engine to refuse.
pub(crate) fn for_minijinja(source: &str) -> Result<String, Error> {
    let too_large = |what: &str| Err(Error::new(ErrorKind::SyntaxError, format!("the template is too large: {what}")));
    if source.len() > MOST_BYTES {
        return too_large(&format!("{} bytes", source.len()));
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut alternatives = 0;
    while let Some(at) = opening(rest) {
        let (text, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
        out.push_str(text);
        let (length, rewritten) = match from.get(..2) {
            Some("{#") => (from.find("#}").map_or(from.len(), |end| end + 2), None),
            _ => match (raw_block(from), generation_mark(from)) {
                (Some(length), _) => (length, None),
                (None, Some((length, mark))) => (length, Some(mark)),
                (None, None) => {
                    let (tokens, length) = tokens(from);
                    if tokens.len() > MOST_TOKENS {
                        return too_large(&format!("a tag has {} parts", tokens.len()));
                    }
                    alternatives += usize::from(tokens.first().is_some_and(|token| token.word == "elif"));
                    (length, with_filters(from, length, &tokens))
                }
            },
        };
        if alternatives > MOST_ALTERNATIVES {
            return too_large(&format!("more than {MOST_ALTERNATIVES} `elif`"));
        }
        let (tag, after) = from.split_at_checked(length).unwrap_or((from, ""));
        out.push_str(rewritten.as_deref().unwrap_or(tag));
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The position of the next `{{`, `{%` or `{#`.
fn opening(text: &str) -> Option<usize> {
    text.match_indices('{').map(|(at, _)| at).find(|at| text.get(at + 1..).is_some_and(|after| after.starts_with(['{', '%', '#'])))
}

/// The length of a raw block at the start of a text, with its tags.
fn raw_block(text: &str) -> Option<usize> {
    let mut end = basic_tag(text, "raw")?;
    loop {
        let rest = text.get(end..)?;
        let at = rest.find("{%")?;
        match basic_tag(rest.get(at..)?, "endraw") {
            Some(length) => return Some(end + at + length),
            None => end += at + 2,
        }
    }
}

/// The length of the tag `{% name %}` at the start of a text.
fn basic_tag(text: &str, name: &str) -> Option<usize> {
    let inside = text.strip_prefix("{%")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start().strip_prefix(name)?.trim_start();
    let after = inside.strip_prefix(['-', '+']).unwrap_or(inside).strip_prefix("%}")?;
    Some(text.len() - after.len())
}

/// The length of a mark for training at the start of a text, and the tag that stands for it.
fn generation_mark(text: &str) -> Option<(usize, String)> {
    let marks = [("generation", "with"), ("endgeneration", "endwith")];
    marks.into_iter().find_map(|(name, block)| {
        let length = basic_tag(text, name)?;
        Some((length, text.get(..length)?.replacen(name, block, 1)))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Name,
    Number,
    Text,
    Open,
    Close,
    Operator,
}

#[derive(Debug, Clone)]
struct Token<'a> {
    kind: Kind,
    word: &'a str,
    at: Range<usize>,
}

/// The tokens of the tag at the start of a text, and the length of the tag.
fn tokens(text: &str) -> (Vec<Token<'_>>, usize) {
    let close = if text.starts_with("{%") { "%}" } else { "}}" };
    let trim = text.get(2..).is_some_and(|inside| inside.starts_with(['-', '+']));
    let (mut tokens, mut at, mut depth) = (Vec::new(), 2 + usize::from(trim), 0usize);
    while let Some((rest, c)) = text.get(at..).and_then(|rest| Some((rest, rest.chars().next()?))) {
        if depth == 0 && rest.strip_prefix(['-', '+']).unwrap_or(rest).starts_with(close) {
            return (tokens, at + 2 + usize::from(c != '%' && c != '}'));
        }
        let run = |inside: fn(char) -> bool| rest.find(|c| !inside(c)).unwrap_or(rest.len());
        let (kind, length) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '\'' => (Kind::Text, text_length(rest, c)),
            '(' | '[' | '{' => {
                depth += 1;
                (Kind::Open, 1)
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                (Kind::Close, 1)
            }
            c if c.is_ascii_digit() => (Kind::Number, run(|c| c.is_alphanumeric() || c == '_')),
            c if c.is_alphabetic() || c == '_' => (Kind::Name, run(|c| c.is_alphanumeric() || c == '_')),
            _ if ["**", "//", "==", "!=", "<=", ">="].iter().any(|operator| rest.starts_with(operator)) => (Kind::Operator, 2),
            c => (Kind::Operator, c.len_utf8()),
        };
        tokens.push(Token { kind, word: rest.get(..length).unwrap_or(rest), at: at..at + length });
        at += length;
    }
    (tokens, text.len())
}

/// The length of a quoted text with its quotes.
fn text_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The operand that is being read, within one pair of brackets.
#[derive(Default, Clone, Copy)]
struct Operand {
    /// The kind of its first token.
    first: Option<Kind>,
    /// Whether an operator before it binds as tightly as `%` or more: `a * b % c` is `(a * b) % c`.
    bound: bool,
}

/// Words that end an operand.
const WORDS: [&str; 14] = ["and", "or", "not", "in", "is", "if", "else", "elif", "for", "set", "filter", "call", "with", "recursive"];

/// The tag with `left % right` as `left|python_modulo(right)`, and with assigned values filtered; `None` if it has neither. Remainders of
/// numbers that are written out, and of products, stay as they are.
fn with_filters(text: &str, length: usize, tokens: &[Token<'_>]) -> Option<String> {
    let assignment = assignment(tokens);
    let escaped = |token: &Token<'_>| token.kind == Kind::Text && token.word.contains('\\');
    if assignment.is_none() && !tokens.iter().any(|token| token.word == "%" || escaped(token)) {
        return None;
    }
    let mut closing = vec![0usize; tokens.len()];
    let mut operands = vec![Operand::default()];
    let (mut out, mut copied) = (String::new(), 0);
    for (index, token) in tokens.iter().enumerate() {
        let operand = operands.last().copied().unwrap_or_default();
        let next = match (token.kind, token.word) {
            (Kind::Open, _) => {
                if let Some(outer) = operands.last_mut() {
                    outer.first.get_or_insert(Kind::Open);
                }
                operands.push(Operand::default());
                None
            }
            (Kind::Close, _) => {
                if operands.len() > 1 {
                    operands.pop();
                }
                None
            }
            (Kind::Operator, "." | "|") => None,
            (Kind::Operator, "=") if assignment == Some(index) => {
                out.push_str(text.get(copied..token.at.end).unwrap_or_default());
                out.push('(');
                copied = token.at.end;
                Some(Operand::default())
            }
            (Kind::Operator, "%") if !operand.bound && operand.first.is_some_and(|first| first != Kind::Number) => {
                let end = operand_end(tokens, index + 1);
                match end.and_then(|end| closing.get_mut(end)) {
                    Some(count) => {
                        *count += 1;
                        out.push_str(text.get(copied..token.at.start).unwrap_or_default());
                        out.push_str(&format!("|{MODULO}("));
                        copied = token.at.end;
                        None
                    }
                    None => Some(Operand::default()),
                }
            }
            (Kind::Operator, "*" | "/" | "//" | "%" | "**") => Some(Operand { first: None, bound: true }),
            (Kind::Operator, "-" | "+") => Some(Operand { first: None, bound: operand.first.is_none() }),
            (Kind::Operator, _) => Some(Operand::default()),
            (Kind::Name, name) if WORDS.contains(&name) && !after_dot(tokens, index) => Some(Operand::default()),
            (kind, _) => Some(Operand { first: operand.first.or(Some(kind)), ..operand }),
        };
        if escaped(token) {
            out.push_str(text.get(copied..token.at.start).unwrap_or_default());
            out.push_str(&with_plain_escapes(token.word));
            copied = token.at.end;
        }
        if let (Some(next), Some(last)) = (next, operands.last_mut()) {
            *last = next;
        }
        let count = closing.get(index).copied().unwrap_or(0);
        if count > 0 {
            out.push_str(text.get(copied..token.at.end).unwrap_or_default());
            out.push_str(&")".repeat(count));
            copied = token.at.end;
        }
    }
    if let (Some(at), Some(last)) = (assignment, tokens.last()) {
        out.push_str(text.get(copied..last.at.end).unwrap_or_default());
        let attribute = tokens.iter().take(at).any(|token| token.word == ".");
        out.push_str(&format!(")|{ASSIGNABLE}({attribute})"));
        copied = last.at.end;
    }
    out.push_str(text.get(copied..length).unwrap_or_default());
    Some(out)
}

/// A quoted text with Python's escapes resolved, but for those of backslash and quotes.
fn with_plain_escapes(quoted: &str) -> String {
    let mut out = String::with_capacity(quoted.len());
    let mut rest = quoted;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let code = |from: usize, digits: usize, radix| {
            let digits = escape.get(from..from + digits)?;
            Some((char::from_u32(u32::from_str_radix(digits, radix).ok()?)?, from + digits.len()))
        };
        // Written out, a line end would shift the line numbers of error messages.
        if let Some(after) = escape.strip_prefix(['n', 't', 'r']) {
            out.push('\\');
            out.push_str(escape.strip_suffix(after).unwrap_or_default());
            rest = after;
            continue;
        }
        let octal = escape.chars().take(3).take_while(|c| c.is_digit(8)).count();
        let (c, length) = match escape.chars().next() {
            Some('a') => ('\u{7}', 1),
            Some('b') => ('\u{8}', 1),
            Some('f') => ('\u{c}', 1),
            Some('v') => ('\u{b}', 1),
            Some('x') => code(1, 2, 16).unwrap_or(('\\', 0)),
            Some('u') => code(1, 4, 16).unwrap_or(('\\', 0)),
            Some('U') => code(1, 8, 16).unwrap_or(('\\', 0)),
            Some('0'..='7') => code(0, octal, 8).unwrap_or(('\\', 0)),
            Some(c @ ('\\' | '\'' | '"')) => (c, 1),
            _ => ('\\', 0),
        };
        // A line that continues on the next one.
        let continued = escape.starts_with('\n');
        if matches!(c, '\\' | '\'' | '"') && !continued {
            out.push('\\');
        }
        if !continued {
            out.push(c);
        }
        rest = escape.get(if continued { 1 } else { length }..).unwrap_or_default();
    }
    out + rest
}

/// The index of the `=` of a tag `set`.
fn assignment(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0usize;
    if tokens.first()?.word != "set" {
        return None;
    }
    tokens.iter().position(|token| {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && token.word == "="
    })
}

fn after_dot(tokens: &[Token<'_>], index: usize) -> bool {
    index.checked_sub(1).and_then(|before| tokens.get(before)).is_some_and(|before| before.word == ".")
}

/// The index of the last token of the operand that starts at `index`: signs, a value with its attributes, calls, filters and powers.
fn operand_end(tokens: &[Token<'_>], mut index: usize) -> Option<usize> {
    while matches!(tokens.get(index)?.word, "-" | "+") {
        index += 1;
    }
    let mut end = match tokens.get(index)?.kind {
        Kind::Open => bracket_end(tokens, index)?,
        Kind::Name | Kind::Number | Kind::Text => index,
        Kind::Close | Kind::Operator => return None,
    };
    while let Some(next) = tokens.get(end + 1) {
        end = match (next.kind, next.word) {
            (Kind::Open, "(" | "[") => bracket_end(tokens, end + 1)?,
            (Kind::Operator, "." | "|") => end + 2,
            (Kind::Operator, "**") => operand_end(tokens, end + 2)?,
            _ => break,
        };
    }
    (end < tokens.len()).then_some(end)
}

/// The index of the bracket that closes the one at `index`.
fn bracket_end(tokens: &[Token<'_>], index: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(index) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_for_training_become_scopes_outside_of_texts_comments_and_raw_blocks() {
        let rewritten = for_minijinja("{%- generation -%}a{%endgeneration%}{# {% generation %} #}{{ '{% generation %}' }}").unwrap();
        assert_eq!(rewritten, "{%- with -%}a{%endwith%}{# {% generation %} #}{{ '{% generation %}' }}");
        let raw = "{%- raw %}{{ a % b }}{% generation %}{# {%+ endraw -%}";
        assert_eq!(for_minijinja(raw).unwrap(), raw);
    }

    #[test]
    fn the_operator_becomes_a_filter_of_its_left_operand() {
        for (source, expected) in [
            ("'%s' % a.b[0] + c", "'%s' |M( a.b[0]) + c"),
            ("f(x)[1] % (a, b) ~ 'c'", "f(x)[1] |M( (a, b)) ~ 'c'"),
            ("'a%sb' % 'c' % d | upper", "'a%sb' |M( 'c') |M( d | upper)"),
            ("x if i % 2 == 0 else '%d' % -n", "x if i |M( 2) == 0 else '%d' |M( -n)"),
            ("a(b % c) % d", "a(b |M( c)) |M( d)"),
            ("7 % 3", "7 % 3"),
            ("2 * i % 3", "2 * i % 3"),
            ("-i % 3", "-i % 3"),
            ("1 - i % 3", "1 - i |M( 3)"),
            ("{'a': {'b': i % 2}}", "{'a': {'b': i |M( 2)}}"),
        ] {
            let expected = expected.replace('M', MODULO);
            assert_eq!(for_minijinja(&format!("{{{{ {source} }}}}")).unwrap(), format!("{{{{ {expected} }}}}"));
            assert_eq!(for_minijinja(&format!("{{%- if {source} -%}}")).unwrap(), format!("{{%- if {expected} -%}}"));
        }
    }

    #[test]
    fn assigned_values_are_filtered() {
        for (source, expected) in [
            ("{%- set a = b == c -%}", "{%- set a =( b == c)|assignable(false) -%}"),
            ("{% set ns.a = '%s' % b %}", "{% set ns.a =( '%s' |python_modulo( b))|assignable(true) %}"),
            ("{% set a | replace(b='c') %}", "{% set a | replace(b='c') %}"),
            ("{% set a %}", "{% set a %}"),
            ("{% if a(set = b) %}", "{% if a(set = b) %}"),
        ] {
            assert_eq!(for_minijinja(source).unwrap(), expected);
        }
    }

    #[test]
    fn escapes_are_those_of_python() {
        let escapes = r#"{{ '\n\x41\u00e9\U0001F600\101\\n\'\"\/\d\xg' }}"#;
        assert_eq!(for_minijinja(escapes).unwrap(), "{{ '\\nAé😀A\\\\n\\'\\\"\\\\/\\\\d\\\\xg' }}");
    }

    #[test]
    fn what_would_overflow_the_stack_is_refused() {
        for source in [format!("{{{{ 1{} }}}}", " + 1".repeat(10_000)), format!("{{% if 0 %}}{}", "{% elif 0 %}".repeat(400))] {
            let refused = for_minijinja(&source).unwrap_err();
            assert!(refused.to_string().contains("too large"), "{refused}");
        }
    }

    #[test]
    fn what_is_not_closed_stays() {
        for source in ["{{ 'a", "{% if x", "{# a", "{", "{%", "{{", "{% raw %}{{", "{{ a % ", "{{ a % ) }}", "{{ a % b. }}", "{{ )a % b }}"]
        {
            let _ = for_minijinja(source);
        }
        assert_eq!(for_minijinja("a\r\nb\rc").unwrap(), "a\nb\nc");
    }
}
