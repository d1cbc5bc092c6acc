//! Safetensors files of f32 vectors and matrices named `<site>/<what>`, read as untrusted input.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use crate::{Error, Metadata, Result, Site};

/// The vectors of one site by their name, such as `scale`.
pub(crate) type Vectors = BTreeMap<String, Vector>;

/// A vector of a file, or a matrix row by row.
#[derive(Debug)]
pub(crate) struct Vector {
    pub(crate) values: Vec<f32>,
    /// The length of the vector or of one row.
    pub(crate) width: usize,
}

/// A vector or matrix of a site to be written.
pub(crate) struct Named<'a> {
    pub(crate) name: &'static str,
    pub(crate) values: &'a [f32],
    /// The number of rows of a matrix; none for a vector.
    pub(crate) rows: Option<usize>,
}

impl<'a> Named<'a> {
    pub(crate) fn vector(name: &'static str, values: &'a [f32]) -> Self {
        Self { name, values, rows: None }
    }

    fn shape(&self) -> Vec<usize> {
        self.rows.map_or_else(|| vec![self.values.len()], |rows| vec![rows, self.values.len() / rows.max(1)])
    }
}

/// The name of matrices.
const MATRIX: &str = crate::patch_neuron::PATCH;

/// A tensor's entry in the header.
#[derive(Serialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The bytes of a file of `<site>/<what>` tensors and the metadata; `path` names it in errors.
///
/// Equal contents give equal bytes: the header is sorted, whereas the safetensors crate writes it in the order of a hash table.
pub(crate) fn bytes(path: &Path, format: &'static str, metadata: &Metadata, sites: &BTreeMap<Site, Vec<Named<'_>>>) -> Result<Vec<u8>> {
    let vectors = sites.iter().flat_map(|(site, vectors)| vectors.iter().map(move |named| (format!("{site}/{}", named.name), named)));
    let vectors: BTreeMap<String, &Named<'_>> = vectors.collect();
    let refused = |e: serde_json::Error| Error::NotSafetensors { path: path.to_owned(), reason: e.to_string() };
    let mut header = b"{\"__metadata__\":".to_vec();
    header.extend(serde_json::to_vec(&metadata.to_strings(format)).map_err(refused)?);
    let mut start = 0;
    for (name, named) in &vectors {
        let end = start + size_of_val(named.values);
        header.push(b',');
        header.extend(serde_json::to_vec(name).map_err(refused)?);
        header.push(b':');
        let entry = Entry { dtype: Dtype::F32, shape: named.shape(), data_offsets: [start, end] };
        header.extend(serde_json::to_vec(&entry).map_err(refused)?);
        start = end;
    }
    header.push(b'}');
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    vectors.values().flat_map(|named| named.values).for_each(|value| bytes.extend(value.to_le_bytes()));
    Ok(bytes)
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), action: "read", source })
}

/// Parses a file of kind `format` whose tensors are named `<site>/<one of what>`; `path` names it in errors.
pub(crate) fn parse(path: &Path, bytes: &[u8], format: &'static str, what: &[&str]) -> Result<(Metadata, BTreeMap<Site, Vectors>)> {
    let unreadable = |reason: safetensors::SafeTensorError| Error::NotSafetensors { path: path.to_owned(), reason: reason.to_string() };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
    let metadata = Metadata::from_strings(path, format, header.metadata().as_ref())?;
    let file = SafeTensors::deserialize(bytes).map_err(unreadable)?;
    let mut sites: BTreeMap<Site, Vectors> = BTreeMap::new();
    // Sorted, so that the first error of a file is always the same.
    let tensors: BTreeMap<String, TensorView<'_>> = file.tensors().into_iter().collect::<HashMap<_, _>>().into_iter().collect();
    for (name, tensor) in tensors {
        let wrong = |reason: String| Error::Tensor { path: path.to_owned(), tensor: name.clone(), reason };
        let (site, vector) = name.rsplit_once('/').ok_or_else(|| wrong("expected a name `<site>/<vector>`".to_owned()))?;
        let site: Site = site.parse().map_err(|e: Error| wrong(e.to_string()))?;
        if !what.contains(&vector) {
            return Err(wrong(format!("unknown vector `{vector}`; expected one of {}", what.join(", "))));
        }
        let (dimensions, expected) = if vector == MATRIX { (2, "f32 [added, hidden]") } else { (1, "f32 [neurons]") };
        if tensor.dtype() != Dtype::F32 || tensor.shape().len() != dimensions {
            return Err(wrong(format!("expected {expected}, found {:?} {:?}", tensor.dtype(), tensor.shape())));
        }
        let width = tensor.shape().last().copied().unwrap_or_default();
        let values = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap_or_default())).collect();
        sites.entry(site).or_default().insert(vector.to_owned(), Vector { values, width });
    }
    Ok((metadata, sites))
}
