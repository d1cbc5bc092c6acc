//! Vectors in small torch files, read as untrusted input.
//!
//! A torch file is a zip archive with a pickle that names tensors and an entry with each tensor's storage. The pickle is interpreted, not
//! executed, and only tensors are recognised. Values lie in one list and refer to each other by index, so that neither nesting nor
//! repetition costs more than the file's length.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::{bf16, f16};

use crate::Error;

type Result<T> = std::result::Result<T, String>;

/// The vectors of these names in a dictionary saved by `torch.save`; missing names are left out.
///
/// Vectors of f32, f64, f16 or bf16 are converted to f32; a tensor may have further dimensions of size 1, and be a view of a larger
/// storage. The file is interpreted, never executed.
///
/// # Errors
///
/// [`Error::Import`] when the file cannot be read, is not a torch file of a dictionary, or one of these names is not a vector.
pub fn torch_vectors(path: &Path, names: &[&str]) -> std::result::Result<BTreeMap<String, Vec<f32>>, Error> {
    let refused = |reason: String| Error::Import { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|e| refused(format!("it cannot be read: {e}")))?;
    vectors(&bytes, names).map_err(refused)
}

fn vectors(bytes: &[u8], names: &[&str]) -> Result<BTreeMap<String, Vec<f32>>> {
    let archive = Archive::open(bytes)?;
    if archive.entry("byteorder").is_some_and(|order| order != b"little") {
        return Err("its numbers are big-endian; save it again on a little-endian machine".to_owned());
    }
    let pickle = archive.entry("data.pkl").ok_or("it has no data.pkl; was it written by torch.save?")?;
    let mut machine = Machine::default();
    let root = machine.run(pickle)?;
    let Some(Value::Dict(entries)) = machine.values.get(root) else { return Err("it holds no dictionary of tensors".to_owned()) };
    let mut found = BTreeMap::new();
    for (key, value) in entries {
        let Some(Value::Text(name)) = machine.values.get(*key) else { continue };
        if names.contains(name) {
            let vector = machine.vector(*value, &archive).map_err(|reason| format!("`{name}`: {reason}"))?;
            found.insert((*name).to_owned(), vector);
        }
    }
    Ok(found)
}

/// A zip archive whose entries are not compressed, as torch writes them.
struct Archive<'a> {
    /// The entries by their names within the archive's directory.
    entries: HashMap<&'a str, &'a [u8]>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| "it is no torch file of version 1.6 or later, or is damaged; save it again".to_owned())
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        // The end record has 22 bytes and a comment of up to 65,535 bytes.
        let earliest = bytes.len().saturating_sub(22 + 0xFFFF);
        let end =
            (earliest..=bytes.len().checked_sub(22)?).rev().find(|at| bytes.get(*at..).is_some_and(|b| b.starts_with(b"PK\x05\x06")))?;
        let (count, mut at) = (u16_at(bytes, end + 10)?, u32_at(bytes, end + 16)?);
        let mut entries = HashMap::new();
        for _ in 0..count {
            let header = bytes.get(at..)?;
            if !header.starts_with(b"PK\x01\x02") || u16_at(header, 10)? != 0 {
                return None;
            }
            let (size, stored) = (u32_at(header, 20)?, u32_at(header, 24)?);
            let (name, extra, comment) = (u16_at(header, 28)?, u16_at(header, 30)?, u16_at(header, 32)?);
            let path = std::str::from_utf8(header.get(46..46 + name)?).ok()?;
            let local = bytes.get(u32_at(header, 42)?..)?;
            if size != stored || !local.starts_with(b"PK\x03\x04") {
                return None;
            }
            let start = 30 + u16_at(local, 26)? + u16_at(local, 28)?;
            let below = path.split_once('/').map_or(path, |(_, below)| below);
            entries.insert(below, local.get(start..start.checked_add(size)?)?);
            at = at.checked_add(46 + name + extra + comment)?;
        }
        Some(Self { entries })
    }

    fn entry(&self, name: &str) -> Option<&'a [u8]> {
        self.entries.get(name).copied()
    }
}

/// A value of a pickle; it refers to other values by index.
enum Value<'a> {
    /// A float, `None`, or another value that does not occur in a tensor.
    Other,
    Int(i64),
    Text(&'a str),
    /// A module and a name in it.
    Global(&'a str, &'a str),
    /// A tuple or a list.
    Sequence(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// A reference to data outside the pickle.
    Persistent(usize),
    Call {
        callable: usize,
        arguments: usize,
    },
}

#[derive(Default)]
struct Machine<'a> {
    values: Vec<Value<'a>>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: HashMap<usize, usize>,
}

/// The unread rest of a pickle.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<usize> {
        self.take(1)?.first().map(|b| usize::from(*b))
    }

    fn u16(&mut self) -> Option<usize> {
        u16_at(self.take(2)?, 0)
    }

    fn u32(&mut self) -> Option<usize> {
        u32_at(self.take(4)?, 0)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn line(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|b| *b == b'\n')?;
        let line = self.text(end)?;
        self.take(1)?;
        Some(line)
    }
}

impl<'a> Machine<'a> {
    /// Interprets a pickle; returns the index of its value.
    fn run(&mut self, pickle: &'a [u8]) -> Result<usize> {
        let mut reader = Reader(pickle);
        loop {
            let damaged = || "its pickle ends early or is damaged".to_owned();
            match reader.byte().and_then(|code| u8::try_from(code).ok()).ok_or_else(damaged)? {
                b'.' => return self.stack.pop().ok_or_else(damaged),
                code => match self.step(code, &mut reader) {
                    Some(true) => {}
                    Some(false) => return Err(format!("its pickle has the operation {code:#04x}, which no dictionary of tensors needs")),
                    None => return Err(damaged()),
                },
            }
        }
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Takes the values above the last mark.
    fn above_mark(&mut self) -> Option<Vec<usize>> {
        let mark = self.marks.pop()?;
        (mark <= self.stack.len()).then(|| self.stack.split_off(mark))
    }

    fn pop(&mut self, count: usize) -> Option<Vec<usize>> {
        let start = self.stack.len().checked_sub(count)?;
        Some(self.stack.split_off(start))
    }

    /// Runs one operation; returns whether it is known, or none if the pickle is damaged.
    fn step(&mut self, code: u8, reader: &mut Reader<'a>) -> Option<bool> {
        match code {
            0x80 => drop(reader.byte()?),
            b'}' => self.push(Value::Dict(Vec::new())),
            b']' | b')' => self.push(Value::Sequence(Vec::new())),
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'G' => {
                reader.take(8)?;
                self.push(Value::Other);
            }
            b'X' => {
                let length = reader.u32()?;
                let text = reader.text(length)?;
                self.push(Value::Text(text));
            }
            b'c' => {
                let (module, name) = (reader.line()?, reader.line()?);
                self.push(Value::Global(module, name));
            }
            b'K' => {
                let value = reader.byte()?;
                self.push(Value::Int(i64::try_from(value).ok()?));
            }
            b'M' => {
                let value = reader.u16()?;
                self.push(Value::Int(i64::try_from(value).ok()?));
            }
            b'J' => {
                let value = i32::from_le_bytes(reader.take(4)?.try_into().ok()?);
                self.push(Value::Int(value.into()));
            }
            0x8a => {
                let length = reader.byte()?;
                let digits = reader.take(length)?;
                // Longer integers are no sizes; the sign is in the last byte.
                let mut wide = [if digits.last().is_some_and(|b| *b >= 0x80) { 0xFF } else { 0 }; 8];
                wide.get_mut(..length)?.copy_from_slice(digits);
                self.push(Value::Int(i64::from_le_bytes(wide)));
            }
            b't' => {
                let values = self.above_mark()?;
                self.push(Value::Sequence(values));
            }
            0x85..=0x87 => {
                let values = self.pop(usize::from(code - 0x84))?;
                self.push(Value::Sequence(values));
            }
            b'Q' => {
                let id = self.stack.pop()?;
                self.push(Value::Persistent(id));
            }
            b'R' => {
                let (arguments, callable) = (self.stack.pop()?, self.stack.pop()?);
                // An OrderedDict is created empty; its entries follow.
                match self.values.get(callable)? {
                    Value::Global("collections", "OrderedDict") => self.push(Value::Dict(Vec::new())),
                    _ => self.push(Value::Call { callable, arguments }),
                }
            }
            b's' => {
                let entry = self.pop(2)?;
                self.add_entries(&entry)?;
            }
            b'u' => {
                let entries = self.above_mark()?;
                self.add_entries(&entries)?;
            }
            b'a' => {
                let value = self.pop(1)?;
                self.add_values(&value)?;
            }
            b'e' => {
                let values = self.above_mark()?;
                self.add_values(&values)?;
            }
            // The attributes of an object; a state dictionary has only version numbers.
            b'b' => drop(self.pop(1)?),
            b'q' | b'r' => {
                let at = if code == b'q' { reader.byte()? } else { reader.u32()? };
                self.memo.insert(at, *self.stack.last()?);
            }
            b'h' | b'j' => {
                let at = if code == b'h' { reader.byte()? } else { reader.u32()? };
                self.stack.push(*self.memo.get(&at)?);
            }
            _ => return Some(false),
        }
        Some(true)
    }

    fn add_entries(&mut self, entries: &[usize]) -> Option<()> {
        let (pairs, rest) = entries.as_chunks::<2>();
        match self.values.get_mut(*self.stack.last()?)? {
            Value::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            _ => return None,
        }
        Some(())
    }

    fn add_values(&mut self, values: &[usize]) -> Option<()> {
        match self.values.get_mut(*self.stack.last()?)? {
            Value::Sequence(sequence) => sequence.extend(values),
            _ => return None,
        }
        Some(())
    }

    fn sequence(&self, at: usize) -> Option<&[usize]> {
        match self.values.get(at)? {
            Value::Sequence(values) => Some(values),
            _ => None,
        }
    }

    fn size(&self, at: usize) -> Option<usize> {
        match self.values.get(at)? {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn sizes(&self, at: usize) -> Option<Vec<usize>> {
        self.sequence(at)?.iter().map(|value| self.size(*value)).collect()
    }

    /// The numbers of a tensor with at most one dimension whose size is not 1.
    fn vector(&self, mut at: usize, archive: &Archive<'_>) -> Result<Vec<f32>> {
        let no_tensor = || "it is no tensor".to_owned();
        // A parameter is a call whose first argument is its tensor. Calls refer to earlier values only, so that the loop ends.
        let arguments = loop {
            let Some(Value::Call { callable, arguments }) = self.values.get(at) else { return Err(no_tensor()) };
            let arguments = self.sequence(*arguments).ok_or_else(no_tensor)?;
            match self.values.get(*callable) {
                Some(Value::Global("torch._utils", "_rebuild_tensor_v2")) => break arguments,
                Some(Value::Global("torch._utils", "_rebuild_parameter")) => match arguments.first() {
                    Some(first) if *first < at => at = *first,
                    _ => return Err(no_tensor()),
                },
                _ => return Err(no_tensor()),
            }
        };
        let [storage, offset, sizes, strides, ..] = arguments else { return Err(no_tensor()) };
        let (offset, sizes, strides) =
            (|| Some((self.size(*offset)?, self.sizes(*sizes)?, self.sizes(*strides)?)))().ok_or("its sizes cannot be read")?;
        let (dtype, key) = self.storage(*storage).ok_or("its storage cannot be read")?;
        let bytes = archive.entry(&format!("data/{key}")).ok_or_else(|| format!("its storage {key} is not in the file"))?;
        let mut wide = sizes.iter().zip(&strides).filter(|(size, _)| **size != 1);
        let (length, stride) = wide.next().map_or((1, 1), |(size, stride)| (*size, *stride));
        if wide.next().is_some() || sizes.len() != strides.len() {
            return Err(format!("its shape is {sizes:?}, expected one vector"));
        }
        let width = match dtype {
            "DoubleStorage" => 8,
            "FloatStorage" => 4,
            "HalfStorage" | "BFloat16Storage" => 2,
            other => return Err(format!("its numbers are a {other}, expected f32, f64, f16 or bf16")),
        };
        // A stride of 0 repeats a number; the length is bounded by the file nevertheless.
        if length > bytes.len() / width {
            return Err(format!("its {length} numbers are not all in the file"));
        }
        let number = |index: usize| {
            let start = index.checked_mul(stride)?.checked_add(offset)?.checked_mul(width)?;
            decode(dtype, bytes.get(start..start.checked_add(width)?)?)
        };
        (0..length).map(number).collect::<Option<Vec<f32>>>().ok_or_else(|| format!("its {length} numbers are not all in the file"))
    }

    /// The dtype and key of `("storage", FloatStorage, key, device, count)`.
    fn storage(&self, at: usize) -> Option<(&'a str, &'a str)> {
        let Value::Persistent(id) = self.values.get(at)? else { return None };
        let [_, class, key, ..] = self.sequence(*id)? else { return None };
        match (self.values.get(*class)?, self.values.get(*key)?) {
            (Value::Global("torch", dtype), Value::Text(key)) => Some((dtype, key)),
            _ => None,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "vectors of neurons are kept in f32")]
fn decode(dtype: &str, bytes: &[u8]) -> Option<f32> {
    Some(match dtype {
        "DoubleStorage" => f64::from_le_bytes(bytes.try_into().ok()?) as f32,
        "FloatStorage" => f32::from_le_bytes(bytes.try_into().ok()?),
        "HalfStorage" => f16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
        _ => bf16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
    })
}
