//! The layout of a GGUF file (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): what is needed to find rows, read as
//! hostile input. It is never written anew: where tensors grow, numbers in it are replaced by others of the same size.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::path::Path;

use crate::block::BlockFormat;
use crate::edit::{Growth, Replacement};
use crate::site_tensors::Part;
use crate::{Error, GgufProblem, Result};

/// What the header of a GGUF file says.
#[derive(Debug)]
pub(crate) struct Header {
    /// `general.architecture`.
    pub(crate) architecture: Option<String>,
    pub(crate) tensors: Vec<Tensor>,
    /// Every `*.feed_forward_length`.
    widths: Vec<Width>,
    /// Where the data of tensors begin, and what their places are multiples of.
    data: u64,
    alignment: u64,
    length: u64,
}

/// A width of MLPs in the metadata.
#[derive(Debug)]
struct Width {
    key: String,
    is_list: bool,
    /// Empty where they are no whole numbers.
    numbers: Vec<Field>,
}

/// A whole number in the header.
#[derive(Debug)]
struct Field {
    /// Bytes from the beginning of the file.
    at: u64,
    kind: u32,
    value: u64,
}

/// A tensor of the file.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Innermost first, filled up with 1: a matrix is `[inputs, outputs, 1, 1]`.
    pub(crate) dimensions: [u64; RANK],
    pub(crate) format: BlockFormat,
    /// Bytes from the beginning of the file.
    pub(crate) start: u64,
    end: u64,
    /// Where the header has its dimensions, and their number; and where its place.
    dimensions_at: u64,
    rank: u32,
    offset_at: u64,
}

const RANK: usize = 4;
/// Bytes of a key of the metadata, by the format's description.
const LONGEST_KEY: u64 = 65_535;
/// ggml has 64 bytes; others have written more.
const LONGEST_NAME: u64 = 1_024;
const DEEPEST_LIST: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes of the shortest entries: a key of no bytes with a value of one; a tensor of no name and no dimensions.
const SHORTEST_VALUE: u64 = 8 + 4 + 1;
/// Longer lists of widths are not for the layers of a model.
const MOST_LAYERS: u64 = 65_536;
const SHORTEST_TENSOR: u64 = 8 + 4 + 4 + 8;

/// Reads the header of a file of `length` bytes.
pub(crate) fn read(path: &Path, source: impl BufRead, length: u64) -> Result<Header> {
    header(&mut Reader { source, at: 0, length }).map_err(|stop| match stop {
        Stop::Io(source) => Error::Io { path: path.to_owned(), action: "read", source },
        Stop::Problem(problem) => Error::Gguf { path: path.to_owned(), problem },
    })
}

/// Why reading stops.
enum Stop {
    Io(io::Error),
    Problem(GgufProblem),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Problem(GgufProblem::Truncated) } else { Self::Io(error) }
    }
}

impl From<GgufProblem> for Stop {
    fn from(problem: GgufProblem) -> Self {
        Self::Problem(problem)
    }
}

type Read<T> = std::result::Result<T, Stop>;

fn header<R: BufRead>(reader: &mut Reader<R>) -> Read<Header> {
    if reader.array::<4>()? != *b"GGUF" {
        return Err(GgufProblem::Magic.into());
    }
    match reader.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => return Err(GgufProblem::BigEndian.into()),
        version => return Err(GgufProblem::Version { version }.into()),
    }
    let tensors = reader.u64()?;
    let values = reader.u64()?;
    reader.room_for("metadata entries", values, SHORTEST_VALUE)?;
    reader.room_for("tensors", tensors, SHORTEST_TENSOR)?;
    let mut known = Known::default();
    for _ in 0..values {
        known.read_entry(reader)?;
    }
    if let Some(count) = known.parts.filter(|count| *count > 1) {
        return Err(GgufProblem::Split { count }.into());
    }
    let alignment = known.alignment.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment < 8 {
        return Err(GgufProblem::Alignment { value: alignment }.into());
    }
    let mut entries = Vec::new();
    for _ in 0..tensors {
        entries.push(tensor(reader, alignment)?);
    }
    // The data begin at the first aligned byte after the directory.
    let data = reader.at.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    place(&mut entries, data, reader.length)?;
    Ok(Header { architecture: known.architecture, tensors: entries, widths: known.widths, data, alignment, length: reader.length })
}

/// The metadata that matter here.
#[derive(Default)]
struct Known {
    architecture: Option<String>,
    alignment: Option<u64>,
    parts: Option<u64>,
    widths: Vec<Width>,
}

impl Known {
    fn read_entry<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Read<()> {
        let key = reader.text("metadata entry", LONGEST_KEY)?;
        let kind = reader.u32()?;
        let twice = || Stop::Problem(GgufProblem::DuplicateKey { key: key.clone() });
        match key.as_str() {
            "general.architecture" => {
                if kind != TEXT {
                    return Err(GgufProblem::KeyType { key, expected: "a string" }.into());
                }
                let text = reader.text("architecture", LONGEST_NAME)?;
                self.architecture.replace(text).map_or(Ok(()), |_| Err(twice()))
            }
            "general.alignment" => {
                let value = reader.whole_number(&key, kind)?;
                self.alignment.replace(value).map_or(Ok(()), |_| Err(twice()))
            }
            "split.count" => {
                let value = reader.whole_number(&key, kind)?;
                self.parts.replace(value).map_or(Ok(()), |_| Err(twice()))
            }
            _ if key.ends_with(".feed_forward_length") => {
                let width = reader.width(key, kind)?;
                self.widths.push(width);
                Ok(())
            }
            _ => reader.skip_values(&key, kind, 1, DEEPEST_LIST),
        }
    }
}

/// An entry of the directory of tensors, its place still counted from the first tensor.
fn tensor<R: BufRead>(reader: &mut Reader<R>, alignment: u64) -> Read<Tensor> {
    let name = reader.text("tensor", LONGEST_NAME)?;
    let rank = reader.u32()?;
    let (dimensions_at, mut dimensions) = (reader.at, [1; RANK]);
    let Some(given) = usize::try_from(rank).ok().and_then(|rank| dimensions.get_mut(..rank)) else {
        return Err(GgufProblem::Dimensions { tensor: name, rank, dimensions: Vec::new() }.into());
    };
    for dimension in given {
        *dimension = reader.u64()?;
    }
    let number = reader.u32()?;
    let (offset_at, offset) = (reader.at, reader.u64()?);
    let Some(format) = BlockFormat::from_ggml(number) else {
        return Err(GgufProblem::TensorType { tensor: name, number }.into());
    };
    let [innermost, ..] = dimensions;
    if dimensions.contains(&0) || !innermost.is_multiple_of(format.values) {
        let dimensions = dimensions.into_iter().take(usize::try_from(rank).unwrap_or(RANK)).collect();
        return Err(GgufProblem::Dimensions { tensor: name, rank, dimensions }.into());
    }
    if !offset.is_multiple_of(alignment) {
        return Err(GgufProblem::Misaligned { tensor: name, offset, alignment }.into());
    }
    let values = dimensions.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
    let size = values.and_then(|n| (n / format.values).checked_mul(format.bytes));
    match size.and_then(|size| offset.checked_add(size)) {
        Some(end) => Ok(Tensor { name, dimensions, format, start: offset, end, dimensions_at, rank, offset_at }),
        None => Err(GgufProblem::Overflow { tensor: name }.into()),
    }
}

/// Turns offsets into places in the file, and checks that each tensor has a place of its own.
fn place(tensors: &mut [Tensor], data: u64, length: u64) -> Read<()> {
    for tensor in &mut *tensors {
        match (tensor.start.checked_add(data), tensor.end.checked_add(data)) {
            (Some(start), Some(end)) if end <= length => (tensor.start, tensor.end) = (start, end),
            (Some(_), Some(end)) => return Err(GgufProblem::OutOfRange { tensor: tensor.name.clone(), end, length }.into()),
            _ => return Err(GgufProblem::Overflow { tensor: tensor.name.clone() }.into()),
        }
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.start);
    for (first, second) in order.iter().zip(order.iter().skip(1)) {
        if first.end > second.start {
            return Err(GgufProblem::Overlap { first: first.name.clone(), second: second.name.clone() }.into());
        }
    }
    order.sort_by(|a, b| a.name.cmp(&b.name));
    match order.iter().zip(order.iter().skip(1)).find(|(a, b)| a.name == b.name) {
        Some((twice, _)) => Err(GgufProblem::DuplicateTensor { tensor: twice.name.clone() }.into()),
        None => Ok(()),
    }
}

const TEXT: u32 = 8;
const LIST: u32 = 9;

/// Bytes of a metadata value by the number of its type; none where that depends on the value.
fn size_of_kind(kind: u32) -> Option<u64> {
    match kind {
        // u8, i8, bool
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        // u32, i32, f32
        4..=6 => Some(4),
        // u64, i64, f64
        10..=12 => Some(8),
        _ => None,
    }
}

/// The largest value of a type of whole numbers, by its number.
fn largest_of_kind(kind: u32) -> Option<u64> {
    match kind {
        0 => Some(u8::MAX.into()),
        2 => Some(u16::MAX.into()),
        4 => Some(u32::MAX.into()),
        5 => Some(i32::MAX.unsigned_abs().into()),
        10 => Some(u64::MAX),
        _ => None,
    }
}

impl Header {
    /// The changes by which some tensors grow, in the order of the file: their dimensions and the places of all, and what lies between
    /// them.
    pub(crate) fn enlarge(&self, growths: &BTreeMap<&str, Growth>) -> std::result::Result<Vec<Replacement>, GgufProblem> {
        let number = |start, value: u64| Replacement { start, length: 8, bytes: value.to_le_bytes().to_vec(), zeros: 0 };
        let mut changes = Vec::new();
        let mut order: Vec<&Tensor> = self.tensors.iter().collect();
        order.sort_by_key(|tensor| tensor.start);
        // The end of the tensor before, in the file as it is and as it will be.
        let (mut old, mut new) = (self.data, self.data);
        for tensor in order {
            let overflow = || GgufProblem::Overflow { tensor: tensor.name.clone() };
            let start = new.checked_next_multiple_of(self.alignment).ok_or_else(overflow)?;
            changes.extend(padding(old, tensor.start, start - new));
            if start != tensor.start {
                changes.push(number(tensor.offset_at, start - self.data));
            }
            let growth = growths.get(tensor.name.as_str()).copied().unwrap_or_default();
            // Innermost first.
            let more =
                if matches!(Part::of(&tensor.name), Some((_, Part::Bias))) { [growth.rows, 0] } else { [growth.columns, growth.rows] };
            for ((index, dimension), more) in (0..).zip(tensor.dimensions).zip(more).filter(|(_, more)| *more > 0) {
                if index >= tensor.rank {
                    let dimensions = tensor.dimensions.into_iter().take(usize::try_from(tensor.rank).unwrap_or(RANK)).collect();
                    return Err(GgufProblem::Dimensions { tensor: tensor.name.clone(), rank: tensor.rank, dimensions });
                }
                changes.push(number(tensor.dimensions_at + 8 * u64::from(index), dimension.checked_add(more).ok_or_else(overflow)?));
            }
            (old, new) = (
                tensor.end,
                (tensor.end - tensor.start).checked_add(growth.bytes).and_then(|n| start.checked_add(n)).ok_or_else(overflow)?,
            );
        }
        let end = old.checked_next_multiple_of(self.alignment).map_or(self.length, |end| end.min(self.length));
        changes.extend(padding(old, end, new.checked_next_multiple_of(self.alignment).map_or(0, |end| end - new)));
        Ok(changes)
    }

    /// The changes of the metadata by which layers of these widths get wider.
    pub(crate) fn widen(&self, widths: &BTreeMap<usize, u64>, added: u64) -> std::result::Result<Vec<Replacement>, GgufProblem> {
        let missing = |key: &str| GgufProblem::MissingKey { key: key.to_owned() };
        let architecture = self.architecture.as_ref().ok_or_else(|| missing("general.architecture"))?;
        let key = format!("{architecture}.feed_forward_length");
        let mut found = self.widths.iter().filter(|width| width.key == key);
        let width = found.next().ok_or_else(|| missing(&key))?;
        if found.next().is_some() {
            return Err(GgufProblem::DuplicateKey { key });
        }
        let mut changes: BTreeMap<u64, Replacement> = BTreeMap::new();
        for (layer, expected) in widths {
            let Some(field) = width.numbers.get(if width.is_list { *layer } else { 0 }) else {
                let expected = if width.is_list { "a list of a whole number for each layer" } else { "a whole number" };
                return Err(GgufProblem::KeyType { key, expected });
            };
            if field.value != *expected {
                return Err(GgufProblem::Width { key, value: field.value, expected: *expected });
            }
            let wider = expected.checked_add(added).filter(|wider| largest_of_kind(field.kind).is_some_and(|largest| *wider <= largest));
            let (Some(wider), Some(size)) = (wider, size_of_kind(field.kind)) else {
                return Err(GgufProblem::KeyType { key, expected: "of a type that holds the new width" });
            };
            let bytes = wider.to_le_bytes().into_iter().take(usize::try_from(size).unwrap_or(8)).collect();
            changes.insert(field.at, Replacement { start: field.at, length: size, bytes, zeros: 0 });
        }
        Ok(changes.into_values().collect())
    }
}

/// Another number of bytes between two tensors, if it is another.
fn padding(from: u64, to: u64, zeros: u64) -> Option<Replacement> {
    let length = to.saturating_sub(from);
    (length != zeros).then(|| Replacement { start: from, length, bytes: Vec::new(), zeros })
}

/// Reads a header front to back. No count that the file claims is believed before its bytes are there.
struct Reader<R> {
    source: R,
    at: u64,
    length: u64,
}

impl<R: BufRead> Reader<R> {
    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    fn room_for(&self, what: &'static str, count: u64, each: u64) -> Read<()> {
        if count > self.left() / each { Err(GgufProblem::TooMany { what, count }.into()) } else { Ok(()) }
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A string that has to be known; `what` it names.
    fn text(&mut self, what: &'static str, longest: u64) -> Read<String> {
        let length = self.u64()?;
        if length > longest {
            return Err(GgufProblem::TooLong { what, length }.into());
        }
        if length > self.left() {
            return Err(GgufProblem::Truncated.into());
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.source.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| GgufProblem::NotUtf8 { what }.into())
    }

    fn whole_number(&mut self, key: &str, kind: u32) -> Read<u64> {
        match kind {
            0 => Ok(u8::from_le_bytes(self.array()?).into()),
            2 => Ok(u16::from_le_bytes(self.array()?).into()),
            4 => Ok(self.u32()?.into()),
            10 => self.u64(),
            // Signed, as some writers have it.
            5 => u64::try_from(i32::from_le_bytes(self.array()?))
                .map_err(|_| GgufProblem::KeyType { key: key.to_owned(), expected: "a number from 0 up" }.into()),
            _ => Err(GgufProblem::KeyType { key: key.to_owned(), expected: "a whole number" }.into()),
        }
    }

    /// The width of MLPs, or that of each layer.
    fn width(&mut self, key: String, kind: u32) -> Read<Width> {
        let mut width = Width { key, is_list: kind == LIST, numbers: Vec::new() };
        let (kind, count) = if width.is_list { (self.u32()?, self.u64()?) } else { (kind, 1) };
        if count <= MOST_LAYERS && largest_of_kind(kind).is_some() {
            for _ in 0..count {
                width.numbers.push(Field { at: self.at, kind, value: self.whole_number(&width.key, kind)? });
            }
        } else {
            self.skip_values(&width.key, kind, count, DEEPEST_LIST)?;
        }
        Ok(width)
    }

    /// Passes over values of one type.
    fn skip_values(&mut self, key: &str, kind: u32, count: u64, depth: u32) -> Read<()> {
        if let Some(size) = size_of_kind(kind) {
            self.room_for("values in a list", count, size)?;
            return self.skip(count * size);
        }
        match kind {
            TEXT => {
                self.room_for("strings in a list", count, 8)?;
                for _ in 0..count {
                    let length = self.u64()?;
                    self.skip(length)?;
                }
                Ok(())
            }
            LIST if depth == 0 => Err(GgufProblem::Nesting { key: key.to_owned() }.into()),
            LIST => {
                self.room_for("lists in a list", count, 12)?;
                for _ in 0..count {
                    let (inner, count) = (self.u32()?, self.u64()?);
                    self.skip_values(key, inner, count, depth - 1)?;
                }
                Ok(())
            }
            number => Err(GgufProblem::ValueType { key: key.to_owned(), number }.into()),
        }
    }

    fn skip(&mut self, mut count: u64) -> Read<()> {
        if count > self.left() {
            return Err(GgufProblem::Truncated.into());
        }
        while count > 0 {
            let here = self.source.fill_buf()?.len();
            if here == 0 {
                return Err(GgufProblem::Truncated.into());
            }
            let step = here.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.source.consume(step);
            self.at += step as u64;
            count -= step as u64;
        }
        Ok(())
    }
}
