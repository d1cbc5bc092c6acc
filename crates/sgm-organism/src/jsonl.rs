//! Files of one sample a line, read without trusting them.

use std::collections::HashSet;
use std::io::{BufRead, Read};
use std::path::Path;

use crate::sample::Role;
use crate::{Error, Result, Sample};

/// The largest number of bytes in a line: a sample has some 600; binary files and files without line breaks have more.
const MAX_LINE: u64 = 1 << 20;

pub(crate) fn read(mut reader: impl BufRead, path: &Path, role: Role) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    let mut ids = HashSet::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let wrong = |reason| Error::Line { path: path.to_owned(), line, reason };
        bytes.clear();
        reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if bytes.is_empty() {
            break;
        }
        if u64::try_from(bytes.len()).is_ok_and(|n| n == MAX_LINE) {
            return Err(wrong(format!("longer than {MAX_LINE} bytes; write one sample a line")));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let sample: Sample = serde_json::from_slice(&bytes).map_err(|error| wrong(explain(&error)))?;
        if let Some(fault) = sample.fault(role) {
            return Err(wrong(fault));
        }
        if !ids.insert(sample.id.clone()) {
            return Err(wrong(format!("`id` {:?} occurs twice", sample.id)));
        }
        samples.push(sample);
    }
    Ok(samples)
}

/// The parser's reason. Its line number counts from the start of this line, so only its column is kept.
fn explain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    format!("not a sample: {reason} (column {})", error.column())
}

pub(crate) fn to_bytes(samples: &[Sample], path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (i, sample) in samples.iter().enumerate() {
        serde_json::to_writer(&mut bytes, sample).map_err(|error| Error::Line {
            path: path.to_owned(),
            line: i + 1,
            reason: error.to_string(),
        })?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}
