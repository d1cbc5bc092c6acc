//! The tensors of files written by `torch.save`, read as untrusted input.
//!
//! A torch file is a zip archive with a pickle that names tensors and an entry with each tensor's storage. The pickle is interpreted, not
//! executed, and only tensors are recognised. Values lie in one list and refer to each other by index, so that neither nesting nor
//! repetition costs more than the file's length.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;

use crate::Error;

type Result<T> = std::result::Result<T, String>;

/// A tensor of a torch file: a view of its storage. All its numbers are in the file, and are not more than those of the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorchTensor {
    /// The type of its numbers, little-endian.
    pub dtype: Dtype,
    /// Its size along each dimension.
    pub shape: Vec<usize>,
    /// The distance of neighbours along each dimension, counted in numbers.
    pub strides: Vec<usize>,
    /// The bytes from its first number to its last, counted from the beginning of the file.
    pub bytes: Range<usize>,
}

impl TorchTensor {
    /// A tensor whose numbers fill a range of bytes in row-major order.
    pub fn contiguous(dtype: Dtype, shape: Vec<usize>, bytes: Range<usize>) -> Self {
        let mut strides = vec![1usize; shape.len()];
        for (at, size) in shape.iter().enumerate().skip(1) {
            strides.iter_mut().take(at).for_each(|stride| *stride = stride.saturating_mul(*size));
        }
        Self { dtype, shape, strides, bytes }
    }

    /// Whether its numbers follow each other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        self.shape.iter().zip(&self.strides).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == expected;
            expected = usize::saturating_mul(expected, *size);
            fits
        })
    }

    /// The bytes of its numbers in row-major order, from the bytes of the whole file.
    pub fn gather(&self, file: &[u8]) -> Vec<u8> {
        let width = self.dtype.bitsize() / 8;
        let count: usize = self.shape.iter().product();
        let mut gathered = Vec::with_capacity(count * width);
        let mut index = vec![0; self.shape.len()];
        for _ in 0..count {
            let at = self.bytes.start + width * index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>();
            gathered.extend_from_slice(file.get(at..at + width).unwrap_or_default());
            for (i, size) in index.iter_mut().zip(&self.shape).rev() {
                *i += 1;
                if *i < *size {
                    break;
                }
                *i = 0;
            }
        }
        gathered
    }
}

/// The entries of a dictionary in a torch file, by name: a tensor, or the reason that the entry is none that can be read. `path` names the
/// file in errors.
///
/// # Errors
///
/// [`Error::NotTorch`] when the bytes are no torch file (version 1.6 or later) of a dictionary.
pub fn read_torch_file(path: &Path, bytes: &[u8]) -> std::result::Result<BTreeMap<String, Result<TorchTensor>>, Error> {
    read(bytes).map_err(|reason| Error::NotTorch { path: path.to_owned(), reason })
}

fn read(bytes: &[u8]) -> Result<BTreeMap<String, Result<TorchTensor>>> {
    let archive = Archive::open(bytes)?;
    if archive.entry("byteorder").is_some_and(|order| bytes.get(order) != Some(b"little")) {
        return Err("its numbers are big-endian; save it again on a little-endian machine".to_owned());
    }
    let pickle = archive.entry("data.pkl").and_then(|range| bytes.get(range));
    let mut machine = Machine::default();
    let root = machine.run(pickle.ok_or("it has no data.pkl; was it written by torch.save?")?)?;
    let Some(Value::Dict(entries)) = machine.values.get(root) else { return Err("it holds no dictionary of tensors".to_owned()) };
    let mut found = BTreeMap::new();
    for (key, value) in entries {
        let Some(Value::Text(name)) = machine.values.get(*key) else { continue };
        found.insert((*name).to_owned(), machine.tensor(*value, &archive));
    }
    Ok(found)
}

/// A zip archive whose entries are not compressed, as torch writes them.
struct Archive<'a> {
    /// The ranges of the entries by their names within the archive's directory.
    entries: HashMap<&'a str, Range<usize>>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
}

/// The value of a field that says that the extra field has it in 64 bits.
const IN_EXTRA: usize = u32::MAX as usize;

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        Self::read(bytes).ok_or_else(|| {
            "it is no torch file of version 1.6 or later, or is damaged; save it again with a current torch (`torch.save(torch.load(f), f)`)"
                .to_owned()
        })
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        // The end record has 22 bytes and a comment of up to 65,535 bytes.
        let earliest = bytes.len().saturating_sub(22 + 0xFFFF);
        let end =
            (earliest..=bytes.len().checked_sub(22)?).rev().find(|at| bytes.get(*at..).is_some_and(|b| b.starts_with(b"PK\x05\x06")))?;
        let (mut count, mut at) = (u16_at(bytes, end + 10)?, u32_at(bytes, end + 16)?);
        // Archives above 4 GiB have a larger end record, whose place is in a locator of 20 bytes before this one.
        let locator = end.checked_sub(20).filter(|at| bytes.get(*at..).is_some_and(|b| b.starts_with(b"PK\x06\x07")));
        if let Some(wide) = locator.filter(|_| count == usize::from(u16::MAX) || at == IN_EXTRA) {
            let record = bytes.get(u64_at(bytes, wide + 8)?..).filter(|record| record.starts_with(b"PK\x06\x06"))?;
            (count, at) = (u64_at(record, 32)?, u64_at(record, 48)?);
        }
        let mut entries = HashMap::new();
        for _ in 0..count {
            let header = bytes.get(at..)?;
            if !header.starts_with(b"PK\x01\x02") || u16_at(header, 10)? != 0 {
                return None;
            }
            let (mut size, mut stored, mut local) = (u32_at(header, 20)?, u32_at(header, 24)?, u32_at(header, 42)?);
            let (name, extra, comment) = (u16_at(header, 28)?, u16_at(header, 30)?, u16_at(header, 32)?);
            let path = std::str::from_utf8(header.get(46..46 + name)?).ok()?;
            let mut wide = sizes_in_64_bits(header.get(46 + name..46 + name + extra)?);
            // In this order, and only those that do not fit into 32 bits.
            for field in [&mut stored, &mut size, &mut local] {
                if *field == IN_EXTRA {
                    *field = u64_at(wide, 0)?;
                    wide = wide.get(8..)?;
                }
            }
            let own = bytes.get(local..)?;
            if size != stored || !own.starts_with(b"PK\x03\x04") {
                return None;
            }
            let start = local.checked_add(30 + u16_at(own, 26)? + u16_at(own, 28)?)?;
            let range = start..start.checked_add(size)?;
            bytes.get(range.clone())?;
            entries.insert(path.split_once('/').map_or(path, |(_, below)| below), range);
            at = at.checked_add(46 + name + extra + comment)?;
        }
        Some(Self { entries })
    }

    fn entry(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name).cloned()
    }
}

/// The part of an extra field that has sizes and places in 64 bits; empty without one.
fn sizes_in_64_bits(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(length)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some(part) = extra.get(4..4 + length) else { break };
        if id == 1 {
            return part;
        }
        extra = extra.get(4 + length..).unwrap_or_default();
    }
    &[]
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

    /// A tensor, or the reason that a value is none.
    fn tensor(&self, mut at: usize, archive: &Archive<'_>) -> Result<TorchTensor> {
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
                Some(Value::Global(_, name)) => return Err(format!("it is built by {name}, which is no plain tensor")),
                _ => return Err(no_tensor()),
            }
        };
        let [storage, offset, sizes, strides, ..] = arguments else { return Err(no_tensor()) };
        let (offset, shape, strides) =
            (|| Some((self.size(*offset)?, self.sizes(*sizes)?, self.sizes(*strides)?)))().ok_or("its sizes cannot be read")?;
        let (class, key) = self.storage(*storage).ok_or("its storage cannot be read")?;
        let storage = archive.entry(&format!("data/{key}")).ok_or_else(|| format!("its storage {key} is not in the file"))?;
        if shape.len() != strides.len() {
            return Err(format!("it has the shape {shape:?} and the strides {strides:?}"));
        }
        let dtype = dtype(class).ok_or_else(|| format!("its numbers are a {class}, which is not read"))?;
        let outside = || format!("its numbers, of shape {shape:?}, are not all in the file");
        // A stride of 0 repeats numbers; what is read is bounded by the storage nevertheless.
        let width = dtype.bitsize() / 8;
        let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size)).filter(|count| *count <= storage.len() / width);
        let last = |mut steps: std::iter::Zip<std::slice::Iter<'_, usize>, std::slice::Iter<'_, usize>>| {
            steps.try_fold(0usize, |last, (size, stride)| last.checked_add(size.saturating_sub(1).checked_mul(*stride)?))
        };
        let bytes = (|| {
            let start = storage.start.checked_add(offset.checked_mul(width)?)?;
            let numbers = if count? == 0 { 0 } else { last(shape.iter().zip(&strides))?.checked_add(1)? };
            let end = start.checked_add(numbers.checked_mul(width)?)?;
            (end <= storage.end).then_some(start..end)
        })();
        Ok(TorchTensor { dtype, bytes: bytes.ok_or_else(outside)?, shape, strides })
    }

    /// The class and key of `("storage", FloatStorage, key, device, count)`.
    fn storage(&self, at: usize) -> Option<(&'a str, &'a str)> {
        let Value::Persistent(id) = self.values.get(at)? else { return None };
        let [_, class, key, ..] = self.sequence(*id)? else { return None };
        match (self.values.get(*class)?, self.values.get(*key)?) {
            (Value::Global("torch", class), Value::Text(key)) => Some((class, key)),
            _ => None,
        }
    }
}

fn dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}
