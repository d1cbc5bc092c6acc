//! Scores of responses in safetensors files larger than memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Mmap, MmapOptions};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::{Error, Response, Result, ScoreOptions, Scores, Shards, score};

/// Labelled responses in safetensors files, f32, bf16 or f16: the shards of an activation store or one plain file.
///
/// Opening reads headers and labels only. A tensor is memory-mapped only while it is scored, so that resident memory is bounded by one
/// site's responses and [`ScoreOptions::memory`]. The files must not change while they are open.
#[derive(Debug)]
pub struct ResponseFiles {
    files: Vec<Tensors>,
    labels: Vec<bool>,
}

/// One file's tensors.
#[derive(Debug)]
struct Tensors {
    path: PathBuf,
    file: File,
    /// Dtype, shape and byte range in the file, by name.
    tensors: BTreeMap<String, (Dtype, Vec<usize>, std::ops::Range<usize>)>,
}

/// The labels of a shard.
#[derive(Deserialize)]
struct Sidecar {
    labels: Vec<u8>,
}

impl ResponseFiles {
    /// Opens a directory of `shard-00000.safetensors`, `shard-00001.safetensors`, ..., each with a JSON file of its `labels` (0 or 1).
    ///
    /// # Errors
    ///
    /// [`Error::File`] when there is no shard, or a shard is damaged or has other tensors than the first.
    pub fn open_store(directory: impl AsRef<Path>) -> Result<Self> {
        let mut store = Self { files: Vec::new(), labels: Vec::new() };
        for index in 0.. {
            let path = directory.as_ref().join(format!("shard-{index:05}.safetensors"));
            if !path.exists() {
                break;
            }
            let sidecar = path.with_extension("json");
            let bytes = std::fs::read(&sidecar).map_err(|e| failed(&sidecar, e))?;
            let Sidecar { labels } = serde_json::from_slice(&bytes).map_err(|e| failed(&sidecar, e))?;
            let shard = Tensors::open(path)?;
            for (name, (dtype, shape, _)) in &shard.tensors {
                let (first, like_first) = match store.files.first().map(|first| first.tensors.get(name)) {
                    None => (None, true),
                    Some(first) => (first, first.is_some_and(|(d, s, _)| d == dtype && s.get(1) == shape.get(1))),
                };
                if shape.len() != 2 || shape.first() != Some(&labels.len()) || !like_first {
                    let first = first.map(|(d, s, _)| format!(", in the first shard {d:?} {s:?}")).unwrap_or_default();
                    let reason = format!("{name} is {dtype:?} {shape:?} with {} labels{first}", labels.len());
                    return Err(Error::File { path: shard.path, reason });
                }
            }
            if store.files.first().is_some_and(|first| first.tensors.len() != shard.tensors.len()) {
                return Err(Error::File { path: shard.path, reason: "it has other tensors than the first shard".to_owned() });
            }
            store.files.push(shard);
            store.labels.extend(bits(&labels, &sidecar)?);
        }
        if store.files.is_empty() {
            let reason = "there is no shard-00000.safetensors; was the capture finished?".to_owned();
            return Err(Error::File { path: directory.as_ref().to_owned(), reason });
        }
        Ok(store)
    }

    /// Opens one file with `labels` u8 `[samples]` (0 or 1) beside tensors `[samples, neurons]`.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when it cannot be read or has no such labels.
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let mut file = Tensors::open(path.as_ref().to_owned())?;
        let wrong = |reason: &str| Error::File { path: path.as_ref().to_owned(), reason: reason.to_owned() };
        let labels = match file.tensors.remove("labels") {
            Some((Dtype::U8 | Dtype::BOOL, shape, range)) if shape.len() == 1 => file.map(&range)?,
            Some(_) => return Err(wrong("`labels` is not U8 [samples]")),
            None => return Err(wrong("it has no tensor `labels` U8 [samples]")),
        };
        let labels = bits(&labels, path.as_ref())?;
        Ok(Self { files: vec![file], labels })
    }

    /// The names of the tensors of responses.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().take(1).flat_map(|file| file.tensors.keys().map(String::as_str))
    }

    /// Whether each sample is toxic.
    pub fn labels(&self) -> &[bool] {
        &self.labels
    }

    /// Scores all neurons of one tensor.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when the tensor is missing or has another dtype, and the errors of [`score`] with the tensor's name.
    pub fn score(&self, name: &str, options: &ScoreOptions) -> Result<Scores> {
        let mut maps = Vec::with_capacity(self.files.len());
        let (mut dtype, mut neurons) = (Dtype::F32, 0);
        for file in &self.files {
            let wrong = |reason: String| Error::File { path: file.path.clone(), reason };
            let known = || file.tensors.keys().take(5).cloned().collect::<Vec<_>>().join(", ");
            let (d, shape, range) =
                file.tensors.get(name).ok_or_else(|| wrong(format!("it has no tensor `{name}`; it has {}", known())))?;
            let [_, width] = shape.as_slice() else { return Err(wrong(format!("`{name}` is {shape:?}, expected [samples, neurons]"))) };
            (dtype, neurons) = (*d, *width);
            maps.push(file.map(range)?);
        }
        match dtype {
            Dtype::F32 => self.score_as::<f32>(&maps, neurons, options),
            Dtype::BF16 => self.score_as::<bf16>(&maps, neurons, options),
            Dtype::F16 => self.score_as::<f16>(&maps, neurons, options),
            other => Err(Error::Shape { name: name.to_owned(), reason: format!("responses are {other:?}, expected F32, BF16 or F16") }),
        }
        .map_err(|e| e.at(name))
    }

    fn score_as<T: Response>(&self, maps: &[Mapped], neurons: usize, options: &ScoreOptions) -> Result<Scores> {
        score(&Shards::<T>::new(maps.iter().map(|map| &**map), neurons)?, &self.labels, options)
    }
}

/// Mapped bytes; an empty tensor has none.
#[derive(Debug)]
struct Mapped(Option<Mmap>);

impl std::ops::Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Tensors {
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|e| failed(&path, e))?;
        let length = file.metadata().map_err(|e| failed(&path, e))?.len();
        let length = usize::try_from(length).map_err(|e| failed(&path, e))?;
        let whole = map(&file, 0, length).map_err(|e| failed(&path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&whole).map_err(|e| failed(&path, e))?;
        let data = header + size_of::<u64>();
        let range = |(from, to): (usize, usize)| data + from..data + to;
        let tensors = metadata.tensors().into_iter().map(|(name, i)| (name, (i.dtype, i.shape.clone(), range(i.data_offsets)))).collect();
        Ok(Self { path, file, tensors })
    }

    fn map(&self, range: &std::ops::Range<usize>) -> Result<Mapped> {
        map(&self.file, range.start, range.len()).map_err(|e| failed(&self.path, e))
    }
}

#[allow(unsafe_code, reason = "memory-mapping keeps responses larger than memory readable")]
fn map(file: &File, offset: usize, length: usize) -> std::io::Result<Mapped> {
    if length == 0 {
        return Ok(Mapped(None));
    }
    // SAFETY: the map is read-only; `ResponseFiles` documents that its files must not change while it lives.
    unsafe { MmapOptions::new().offset(offset as u64).len(length).map(file) }.map(|map| Mapped(Some(map)))
}

fn failed(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::File { path: path.to_owned(), reason: error.to_string() }
}

/// Labels as truth values.
fn bits(labels: &[u8], path: &Path) -> Result<Vec<bool>> {
    match labels.iter().position(|l| *l > 1) {
        None => Ok(labels.iter().map(|l| *l == 1).collect()),
        Some(sample) => Err(failed(path, format!("the label of sample {sample} is neither 0 nor 1"))),
    }
}
