//! GGUF files taken apart, so that tests can change and split them.

use std::path::{Path, PathBuf};

use sgm_core::gguf::Header;

/// The entries and tensors of a file.
#[derive(Clone)]
pub(crate) struct GgufBytes {
    /// Keys with the number of the type and the bytes of the value.
    pub(crate) metadata: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A number of a type, with the number of the type in front.
pub(crate) fn u16_value(value: u16) -> Vec<u8> {
    [&2u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

pub(crate) fn i32_value(value: i32) -> Vec<u8> {
    [&5u32.to_le_bytes()[..], &value.to_le_bytes()].concat()
}

pub(crate) fn text_value(value: &str) -> Vec<u8> {
    [&8u32.to_le_bytes()[..], &string(value)].concat()
}

impl GgufBytes {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let header = Header::read(bytes.as_slice(), bytes.len() as u64).unwrap();
        let at = |position: u64| usize::try_from(position).unwrap();
        let mut entries: Vec<_> = header.metadata.iter().map(|(key, entry)| (at(entry.start) - 4, key.clone())).collect();
        entries.sort();
        // An entry ends where the key of the next one, or the name of the first tensor, begins; the padding of a file
        // without tensors does no harm after a number.
        let table = header.tensors.first().map_or(bytes.len(), |t| at(t.dimensions_start) - 4 - t.name.len() - 8);
        let ends = entries.iter().skip(1).map(|(start, key)| start - key.len() - 8).chain([table]).collect::<Vec<_>>();
        let metadata = entries.iter().zip(ends).map(|((start, key), end)| (key.clone(), bytes[*start..end].to_vec())).collect();
        let tensors = header.tensors.iter().map(|t| Tensor {
            name: t.name.clone(),
            dimensions: t.shape().to_vec(),
            kind: t.tensor_type.number,
            bytes: bytes[at(t.start)..at(t.end)].to_vec(),
        });
        Self { metadata, tensors: tensors.collect() }
    }

    /// Sets a key to a value with the number of its type in front.
    pub(crate) fn with(mut self, key: &str, value: Vec<u8>) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    /// The same model under the name of another architecture.
    pub(crate) fn renamed(mut self, from: &str, to: &str) -> Self {
        for (key, _) in &mut self.metadata {
            *key = key.strip_prefix(&format!("{from}.")).map_or_else(|| key.clone(), |rest| format!("{to}.{rest}"));
        }
        self.with("general.architecture", text_value(to))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend([(self.tensors.len() as u64).to_le_bytes(), (self.metadata.len() as u64).to_le_bytes()].concat());
        for (key, value) in &self.metadata {
            file.extend([string(key), value.clone()].concat());
        }
        let (mut data, mut table) = (Vec::new(), Vec::new());
        for tensor in &self.tensors {
            table.extend([string(&tensor.name), u32::try_from(tensor.dimensions.len()).unwrap().to_le_bytes().to_vec()].concat());
            table.extend(tensor.dimensions.iter().flat_map(|n| n.to_le_bytes()));
            table.extend([tensor.kind.to_le_bytes().to_vec(), (data.len() as u64).to_le_bytes().to_vec()].concat());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.extend(table);
        file.resize(file.len().next_multiple_of(32), 0);
        [file, data].concat()
    }

    /// The parts of the model when it is split before some of its tensors, as `llama-gguf-split` writes them: all
    /// metadata in the first part. A split before tensor 0 leaves the first part without tensors.
    pub(crate) fn parts(&self, before: &[usize]) -> Vec<Self> {
        let bounds = [&[0], before, &[self.tensors.len()]].concat();
        let count = u16::try_from(bounds.len() - 1).unwrap();
        let part = |number: u16| {
            let at = usize::from(number);
            let tensors = self.tensors[bounds[at]..bounds[at + 1]].to_vec();
            let metadata = if number == 0 { self.metadata.clone() } else { Vec::new() };
            let part = Self { metadata, tensors }.with("split.no", u16_value(number)).with("split.count", u16_value(count));
            part.with("split.tensors.count", i32_value(i32::try_from(self.tensors.len()).unwrap()))
        };
        (0..count).map(part).collect()
    }
}

/// Writes the parts of a model into a directory; returns their paths.
pub(crate) fn write_parts(directory: &Path, prefix: &str, parts: &[GgufBytes]) -> Vec<PathBuf> {
    let name = |number: usize| directory.join(format!("{prefix}-{number:05}-of-{:05}.gguf", parts.len()));
    parts.iter().zip(1..).for_each(|(part, number)| std::fs::write(name(number), part.bytes()).unwrap());
    (1..=parts.len()).map(name).collect()
}

impl Tensor {
    /// A matrix of some rows over as many inputs, of zeros.
    pub(crate) fn narrowed(&self, rows: u64) -> Self {
        let inputs = self.dimensions[0];
        let bytes = vec![0; usize::try_from(4 * rows * inputs).unwrap()];
        Self { name: self.name.clone(), dimensions: vec![inputs, rows], kind: 0, bytes }
    }
}
