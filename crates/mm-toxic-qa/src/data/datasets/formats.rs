//! The file formats of data sets, read without trusting size, encoding or form.

use std::cell::Cell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::fields::{Fields, Place};
use crate::{Error, Result, files};

/// The largest JSON document or spreadsheet of a data set; the largest published one has some 10 MB.
pub(crate) const MAX_DOCUMENT: u64 = 512 << 20;

/// The largest image file.
pub(crate) const MAX_PICTURE: u64 = 64 << 20;

/// The largest row of a table: an image as base64 and its question.
const MAX_ROW: usize = 96 << 20;

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), source }
}

/// Opens a regular file: a pipe or a device would block for ever.
pub(crate) fn open(path: &Path) -> Result<std::fs::File> {
    if !std::fs::metadata(path).map_err(io(path))?.is_file() {
        return Err(Error::DatasetFile { path: path.to_owned(), reason: "not a regular file".to_owned() });
    }
    std::fs::File::open(path).map_err(io(path))
}

/// The bytes of a file of at most `limit` bytes.
pub(crate) fn bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io(path))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(Error::DatasetFile { path: path.to_owned(), reason: format!("larger than {limit} bytes; is this the right file?") });
    }
    Ok(bytes)
}

/// A JSON document.
pub(crate) fn json(path: &Path) -> Result<Value> {
    let bytes = bytes(path, MAX_DOCUMENT)?;
    let text = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    serde_json::from_slice(text).map_err(|e| Error::DatasetFile { path: path.to_owned(), reason: format!("not a JSON document: {e}") })
}

/// The entries of a JSON document that is an object, sorted by key, numbers by value.
pub(crate) fn entries(path: &Path) -> Result<Vec<(String, Value)>> {
    let Value::Object(map) = json(path)? else {
        return Err(Error::DatasetFile { path: path.to_owned(), reason: "not a JSON object of entries".to_owned() });
    };
    let mut entries: Vec<_> = map.into_iter().collect();
    entries.sort_by_cached_key(|(key, _)| (key.parse::<u64>().unwrap_or(u64::MAX), key.clone()));
    Ok(entries)
}

/// Every object of a JSONL file.
pub(crate) fn for_each_object(path: &Path, each: &mut dyn FnMut(usize, Fields) -> Result<()>) -> Result<()> {
    files::for_each_line(std::io::BufReader::new(open(path)?), path, |line, text| {
        let map: Map<String, Value> = files::json(path, line, text)?;
        each(line, Fields::new(Place::line(path, line), map))
    })
}

/// The fields of one entry, or the error about the one that cannot be read.
pub(crate) type Each<'a> = &'a mut dyn FnMut(Result<Fields>) -> Result<()>;

/// Every row of a CSV or TSV file with a header, which must have the `columns`.
pub(crate) fn for_each_row(path: &Path, delimiter: u8, columns: &[&str], each: Each<'_>) -> Result<()> {
    let left = Rc::new(Cell::new(MAX_ROW));
    let reader = Bounded { inner: open(path)?, left: Rc::clone(&left) };
    let mut table = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(reader);
    let broken = |e: csv::Error| {
        let reason = match e.kind() {
            // The message of csv counts records from 0 without the header; the line number is clearer.
            csv::ErrorKind::UnequalLengths { pos: Some(pos), expected_len, len } => {
                format!("line {}: {len} fields, the header has {expected_len}", pos.line())
            }
            _ => e.to_string(),
        };
        Error::DatasetFile { path: path.to_owned(), reason }
    };
    let header: Vec<String> = table
        .byte_headers()
        .map_err(broken)?
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim().to_owned())
        .collect();
    check_columns(path, columns, &header)?;
    let mut record = csv::ByteRecord::new();
    loop {
        left.set(MAX_ROW);
        if !table.read_byte_record(&mut record).map_err(broken)? {
            return Ok(());
        }
        let place = Place::line(path, record.position().map_or(0, csv::Position::line));
        let cells = header.iter().zip(&record).map(|(name, value)| match std::str::from_utf8(value) {
            Ok(text) => Ok((name.clone(), Value::String(text.to_owned()))),
            Err(_) => Err(place.error(name, "is not UTF-8 text; save the file as UTF-8")),
        });
        let map = cells.collect::<Result<Map<_, _>>>();
        each(map.map(|map| Fields::new(place, map)))?;
    }
}

/// Every row of the first sheet of a spreadsheet with a header, which must have the `columns`, in whatever case; other columns are in lower
/// case. Rows are numbered as in the spreadsheet; empty ones are skipped.
#[cfg(feature = "xlsx")]
pub(crate) fn for_each_sheet_row(path: &Path, columns: &[&str], each: Each<'_>) -> Result<()> {
    use calamine::{Data, Reader, Xlsx};

    let broken = |reason: String| Error::DatasetFile { path: path.to_owned(), reason };
    let bytes = std::io::Cursor::new(bytes(path, MAX_DOCUMENT)?);
    let mut book = Xlsx::new(bytes).map_err(|e| broken(format!("cannot be read as xlsx: {e}")))?;
    let sheet = book.worksheet_range_at(0).ok_or_else(|| broken("it has no sheet".to_owned()))?;
    let sheet = sheet.map_err(|e| broken(format!("its first sheet cannot be read: {e}")))?;
    let above = sheet.start().map_or(0, |(row, _)| u64::from(row));
    let mut rows = (above + 1..).zip(sheet.rows());
    let (_, header) = rows.next().ok_or_else(|| broken("its first sheet is empty".to_owned()))?;
    let name = |cell: &Data| {
        let name = cell.to_string().trim().to_owned();
        columns.iter().find(|column| column.eq_ignore_ascii_case(&name)).map_or_else(|| name.to_lowercase(), |column| (*column).to_owned())
    };
    let header: Vec<String> = header.iter().map(name).collect();
    check_columns(path, columns, &header)?;
    for (number, row) in rows {
        if row.iter().all(|cell| matches!(cell, Data::Empty)) {
            continue;
        }
        // A cell as text: whole numbers without a fraction, however the file stores them.
        let cells = header.iter().cloned().zip(row.iter().map(|cell| Value::String(cell.to_string())));
        each(Ok(Fields::new(Place::row(path, number), cells.collect())))?;
    }
    Ok(())
}

#[cfg(not(feature = "xlsx"))]
fn for_each_sheet_row(path: &Path, _: &[&str], _: Each<'_>) -> Result<()> {
    Err(Error::DatasetFile { path: path.to_owned(), reason: "is a spreadsheet; build with the feature `xlsx` to read it".to_owned() })
}

/// The kinds of files that hold one entry after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A table with a header, columns apart by commas.
    Csv,
    /// The same, columns apart by tabs.
    Tsv,
    /// The first sheet of a spreadsheet.
    #[cfg_attr(not(feature = "xlsx"), allow(dead_code, reason = "found by its file name"))]
    Sheet,
    /// A JSON array of objects.
    Json,
    /// A JSON object a line.
    JsonLines,
}

impl Kind {
    /// The kind that the extension of a file name says.
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_lowercase();
        Some(match extension.as_str() {
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "xlsx" => Self::Sheet,
            "json" => Self::Json,
            "jsonl" => Self::JsonLines,
            _ => return None,
        })
    }
}

/// Every entry of a file whose extension says its kind, else of the `usual` kind. A table must have the `columns`.
pub(crate) fn for_each_entry(path: &Path, usual: Kind, columns: &[&str], each: Each<'_>) -> Result<()> {
    match Kind::of(path).unwrap_or(usual) {
        Kind::Csv => for_each_row(path, b',', columns, each),
        Kind::Tsv => for_each_row(path, b'\t', columns, each),
        Kind::Sheet => for_each_sheet_row(path, columns, each),
        Kind::JsonLines => for_each_object(path, &mut |_, fields| each(Ok(fields))),
        Kind::Json => {
            list(path)?.into_iter().enumerate().try_for_each(|(i, value)| each(Fields::object(Place::entry(path, i), ALL, value)))
        }
    }
}

/// The name of an entry itself in errors about it.
pub(crate) const ALL: &str = "(all of it)";

/// The entries of a JSON document that is an array.
pub(crate) fn list(path: &Path) -> Result<Vec<Value>> {
    match json(path)? {
        Value::Array(list) => Ok(list),
        _ => Err(Error::DatasetFile { path: path.to_owned(), reason: "not a JSON array of entries".to_owned() }),
    }
}

/// Checks that a table has the columns that a reader needs.
pub(crate) fn check_columns(path: &Path, columns: &[&str], header: &[String]) -> Result<()> {
    match columns.iter().find(|&&column| !header.iter().any(|name| name == column)) {
        None => Ok(()),
        Some(column) => {
            let found: String = header.join(", ").chars().take(200).collect();
            Err(Error::DatasetFile { path: path.to_owned(), reason: format!("column `{column}` is missing; found {found}") })
        }
    }
}

/// A reader that fails after the number of bytes that is `left`.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(n).ok_or_else(|| std::io::Error::other(format!("a row of more than {MAX_ROW} bytes")))?;
        self.left.set(left);
        Ok(n)
    }
}

/// The files of a folder with an extension, sorted by path; with `deep`, also those of its folders.
pub(crate) fn with_extension(folder: &Path, extension: &str, deep: bool) -> Result<Vec<PathBuf>> {
    /// The deepest subfolder: published layouts are less deep, and a link to a parent folder would have no end.
    const MAX_DEPTH: usize = 6;
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(io(&folder))? {
            let path = entry.map_err(io(&folder))?.path();
            if path.is_dir() {
                if deep && depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    if found.is_empty() {
        return Err(Error::DatasetFile {
            path: folder.to_owned(),
            reason: format!("no *.{extension} file; is this the data set's folder?"),
        });
    }
    found.sort();
    Ok(found)
}

/// The name of a file without folder and extension.
pub(crate) fn stem(path: &Path) -> Result<String> {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .map(str::to_owned)
        .ok_or_else(|| Error::DatasetFile { path: path.to_owned(), reason: "its name is not UTF-8 text; rename it".to_owned() })
}
