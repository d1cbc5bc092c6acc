//! Line breaks in drawn text.

/// Breaks text into lines of at most `width` characters, as Python's `textwrap.wrap` does: at white space, after hyphens
/// within words, and anywhere in a word that is longer than a line.
///
/// One rule of Python is left out: Python also breaks beside two hyphens in a row.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut chunks = chunks(text);
    chunks.reverse();
    let mut lines: Vec<String> = Vec::new();
    while !chunks.is_empty() {
        if !lines.is_empty() && chunks.last().is_some_and(|chunk| is_space(chunk)) {
            chunks.pop();
        }
        let mut line: Vec<Vec<char>> = Vec::new();
        let mut left = width;
        while let Some(chunk) = chunks.pop_if(|chunk| chunk.len() <= left) {
            left -= chunk.len();
            line.push(chunk);
        }
        if let Some(long) = chunks.last_mut().filter(|chunk| chunk.len() > width) {
            let rest = long.split_off(break_at(long, left));
            line.push(std::mem::replace(long, rest));
        }
        if line.last().is_some_and(|chunk| is_space(chunk)) {
            line.pop();
        }
        if !line.is_empty() {
            lines.push(line.into_iter().flatten().collect());
        }
    }
    lines
}

/// The position to break a long word at: after its last hyphen that still fits, else at the end of the line.
fn break_at(word: &[char], left: usize) -> usize {
    let fits = word.get(..left).unwrap_or_default();
    match fits.iter().rposition(|&c| c == '-') {
        Some(hyphen) if fits.iter().take(hyphen).any(|&c| c != '-') => hyphen + 1,
        _ => left,
    }
}

fn is_space(chunk: &[char]) -> bool {
    chunk.iter().all(|&c| c == ' ')
}

/// Tabs become spaces up to the next eighth column, other white space and control characters one space.
fn without_tabs(text: &str) -> Vec<char> {
    let (mut out, mut column) = (Vec::with_capacity(text.len()), 0);
    for c in text.chars() {
        let n = if c == '\t' { 8 - column % 8 } else { 1 };
        column = if matches!(c, '\n' | '\r') { 0 } else { column + n };
        out.extend(std::iter::repeat_n(if c.is_whitespace() || c.is_control() { ' ' } else { c }, n));
    }
    out
}

/// Words and the spaces between them; a hyphenated word is several.
fn chunks(text: &str) -> Vec<Vec<char>> {
    let text = without_tabs(text);
    let at = |i: Option<usize>| i.and_then(|i| text.get(i)).copied().unwrap_or(' ');
    let letter = |c: char| c == '_' || (c.is_alphanumeric() && !c.is_numeric());
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let mut new = true;
    for (i, &c) in text.iter().enumerate() {
        new |= chunks.last().and_then(|chunk| chunk.last()).is_none_or(|&last| (last == ' ') != (c == ' '));
        match chunks.last_mut() {
            Some(chunk) if !new => chunk.push(c),
            _ => chunks.push(vec![c]),
        }
        let [before, second, third] = [1, 2, 3].map(|n| at(i.checked_sub(n)));
        let [after, next, one_more] = [1, 2, 3].map(|n| at(i.checked_add(n)));
        let word = letter(before) && letter(second)
            || (before.is_alphanumeric() || "_!\"'&.,?".contains(before)) && second == '-' && letter(third);
        new = c == '-' && word && letter(after) && (letter(next) || next == '-' && letter(one_more));
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `textwrap.wrap(text, width=width)` of CPython 3.11.
    #[test]
    fn as_python_wraps() {
        let cases: Vec<(String, usize, Vec<String>)> = serde_json::from_str(include_str!("../../../tests/golden/wrap.json")).unwrap();
        assert!(cases.len() > 50);
        for (text, width, lines) in cases {
            assert_eq!(wrap(&text, width), lines, "{text:?} at {width}");
        }
    }
}
