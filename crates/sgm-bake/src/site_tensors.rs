//! The tensors of a weight file whose rows are neurons of sites.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use sgm_core::gguf::{FileProblem, Header, ReadError, check_parts, part_paths};
use sgm_core::{Projection, Site, TensorNeurons, quantisation};

use crate::block::{BlockFormat, GGUF_SUPPORTED, SAFETENSORS_SUPPORTED};
use crate::replacement::{Growth, Replacement};
use crate::site_tensor::{Part, SiteTensor};
use crate::stacked_experts::{Mixtures, Stack};
use crate::{Error, Result, gguf_growth, safetensors_growth};

/// The tensors of one weight file whose rows are neurons of sites, with their places in the file.
///
/// Only the header is read, as untrusted input: for any bytes the result is a value of this type or an error, and memory is bounded by the
/// size of the header that is really in the file.
#[derive(Debug)]
pub struct SiteTensors {
    pub(crate) path: PathBuf,
    pub(crate) length: u64,
    pub(crate) tensors: Vec<SiteTensor>,
    /// The tensors that stack all experts of a layer and are not yet among `tensors`.
    pub(crate) stacks: Vec<Stack>,
    /// The shapes of routers and of stacked experts.
    pub(crate) mixtures: Mixtures,
    /// The names of all tensors of a safetensors file, in order, for comparison with an index.
    pub(crate) names: Vec<String>,
    /// The name of the first tensor of a mixture of experts.
    pub(crate) expert: Option<String>,
    pub(crate) layout: Layout,
    /// The types of this kind of file that can be scaled.
    pub(crate) supported: &'static str,
}

/// The header of a file, from which it is rewritten when tensors grow.
#[derive(Debug)]
pub(crate) enum Layout {
    /// The header's bytes.
    Safetensors(Vec<u8>),
    /// The header, and whether it has the metadata of the model: a part of a split one after the first has none.
    Gguf(Header, bool),
}

/// GGUF architectures with gate and up in one matrix `ffn_up`, gate first.
const GATE_IN_UP: [&str; 3] = ["phi3", "chatglm", "glm4"];

impl SiteTensors {
    /// Reads the header of a safetensors file of `length` bytes; `path` names it in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Safetensors`] when it is damaged, [`Error::Core`] when it has tensors of quantised layers, [`Error::Shape`] when a tensor of a site is not a weight or bias of a linear layer,
    /// [`Error::Io`].
    pub fn read_safetensors(path: &Path, mut source: impl BufRead, length: u64) -> Result<Self> {
        let damaged = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
        let io = |source| Error::Io { path: path.to_owned(), action: "read", source };
        let mut size = [0; 8];
        if length < 8 {
            return Err(damaged(format!("it has only {length} bytes")));
        }
        source.read_exact(&mut size).map_err(io)?;
        let size = u64::from_le_bytes(size);
        // The limit of the safetensors library.
        if size > 100_000_000 || size > length - 8 {
            return Err(damaged(format!("its header is said to have {size} bytes")));
        }
        let mut header = vec![0; usize::try_from(size).unwrap_or(0)];
        source.read_exact(&mut header).map_err(io)?;
        let layout = header;
        let header: Metadata = serde_json::from_slice(&layout).map_err(|e| damaged(e.to_string()))?;
        let data = 8 + size;
        if data.checked_add(header.data_len() as u64) != Some(length) {
            return Err(damaged(format!("it has {length} bytes where its header needs {}", data.saturating_add(header.data_len() as u64))));
        }
        // In the order of the file.
        let names = header.offset_keys();
        let (mut tensors, mut stacks, mut mixtures) = (Vec::new(), Vec::new(), Mixtures::default());
        for name in &names {
            let Some(info) = header.info(name) else { continue };
            quantisation::check_tensor(name, info.dtype, None)?;
            let shape: Vec<u64> = info.shape.iter().map(|n| *n as u64).collect();
            let start = data + info.data_offsets.0 as u64;
            mixtures.note(name, &shape);
            let neurons = match TensorNeurons::of(name) {
                Some(TensorNeurons::Rows(groups)) if groups.iter().any(|group| !group.is_empty()) => groups,
                Some(stacked @ TensorNeurons::Stacked { .. }) => {
                    stacks.push(Stack { name: name.clone(), neurons: stacked, format: BlockFormat::of_safetensors(info.dtype), start });
                    continue;
                }
                _ => continue,
            };
            let Some((_, part)) = Part::of(name) else { continue };
            let misshapen = |expected| Err(Error::Shape { path: path.to_owned(), tensor: name.clone(), shape: shape.clone(), expected });
            let (rows, inputs) = match (part, shape.as_slice()) {
                (Part::Weight, [rows, inputs]) => (*rows, *inputs),
                (Part::Weight, _) => return misshapen("[neurons, inputs]"),
                (Part::Bias, [rows]) => (*rows, 1),
                (Part::Bias, _) => return misshapen("[neurons]"),
            };
            if rows == 0 || inputs == 0 || !rows.is_multiple_of(neurons.len() as u64) {
                return misshapen("the same number of rows, at least one, for each of its sites");
            }
            let (width, format) = (rows / neurons.len() as u64, BlockFormat::of_safetensors(info.dtype));
            tensors.push(SiteTensor { name: name.clone(), groups: neurons, width, part, format, start, rows, inputs, columns: None });
        }
        let expert = names.iter().find(|name| name.contains(".experts.") || name.contains("shared_expert")).cloned();
        let layout = Layout::Safetensors(layout);
        let supported = SAFETENSORS_SUPPORTED;
        let mut read =
            Self { path: path.to_owned(), length, tensors, stacks, mixtures: mixtures.clone(), names, expert, layout, supported };
        read.place_stacks(&mixtures)?;
        Ok(read)
    }

    /// Places the stacked experts whose orientation can be told from the shapes in `mixtures`, which may be those of several files.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a tensor does not have the shape of its mixture's experts.
    pub(crate) fn place_stacks(&mut self, mixtures: &Mixtures) -> Result<()> {
        for stack in std::mem::take(&mut self.stacks) {
            match stack.place(mixtures) {
                Ok(Some(tensor)) => self.tensors.push(tensor),
                Ok(None) => self.stacks.push(stack),
                Err(shape) => {
                    let expected = "[experts, neurons, inputs] or [experts, inputs, neurons] of its router";
                    return Err(Error::Shape { path: self.path.clone(), tensor: stack.name, shape, expected });
                }
            }
        }
        Ok(())
    }

    /// Reads the header of a GGUF file of `length` bytes; `path` names it in errors.
    ///
    /// Tensors of sites are `blk.{i}.ffn_{gate|up|down}.{weight|bias}`; `ffn_up` with gate and up together, gate first, for the
    /// architectures `phi3`, `chatglm` and `glm4`; and the experts' `ffn_{gate|up|down}_exps`, where the same neuron of each expert is one
    /// neuron of the site. Shared experts (`_shexp`) are not sites.
    ///
    /// # Errors
    ///
    /// [`Error::Gguf`] with the problem, [`Error::Shape`] when a tensor of a site is not a weight or bias of a linear layer,
    /// [`Error::Io`].
    pub fn read_gguf(path: &Path, source: impl BufRead, length: u64) -> Result<Self> {
        let header = read_header(path, source, length)?;
        header.check_whole().map_err(|problem| Error::Gguf { path: path.to_owned(), problem })?;
        let gate_in_up = gate_in_up(&[&header]);
        Self::of_gguf(path, header, true, gate_in_up)
    }

    /// Reads the headers of all parts of the GGUF model that a file is, or is any part of, in order.
    pub(crate) fn read_gguf_model(path: &Path) -> Result<Vec<Self>> {
        let open = |path: &Path| {
            let io = |source| Error::Io { path: path.to_owned(), action: "read", source };
            let file = File::open(path).map_err(io)?;
            let length = file.metadata().map_err(io)?.len();
            read_header(path, BufReader::new(file), length)
        };
        let misplaced = |FileProblem { path, problem }: FileProblem| Error::Gguf { path, problem };
        let given = open(path)?;
        let paths = part_paths(path, &given).map_err(misplaced)?;
        let mut given = Some(given);
        let mut headers = Vec::new();
        for part in &paths {
            headers.push(match given.take_if(|_| part == path) {
                Some(given) => given,
                None => open(part)?,
            });
        }
        check_parts(&paths.iter().map(PathBuf::as_path).zip(&headers).collect::<Vec<_>>()).map_err(misplaced)?;
        let gate_in_up = gate_in_up(&headers.iter().collect::<Vec<_>>());
        paths.iter().zip(headers).enumerate().map(|(i, (path, header))| Self::of_gguf(path, header, i == 0, gate_in_up)).collect()
    }

    fn of_gguf(path: &Path, header: Header, has_metadata: bool, gate_in_up: bool) -> Result<Self> {
        let mut tensors = Vec::new();
        for tensor in &header.tensors {
            let Some((site, part)) = Part::of(&tensor.name).and_then(|(module, part)| Some((gguf_site(module)?, part))) else { continue };
            let (rows, inputs, experts) = match (part, tensor.dimensions) {
                (Part::Weight, [inputs, width, experts, 1]) => (width.checked_mul(experts), inputs, experts),
                (Part::Bias, [width, experts, 1, 1]) => (width.checked_mul(experts), 1, experts),
                _ => (None, 0, 0),
            };
            let gate = Site::new(site.layer, Projection::Gate);
            let groups = if gate_in_up && site.projection == Projection::Up { vec![vec![gate], vec![site]] } else { vec![vec![site]] };
            let dense = !tensor.name.contains("_exps.");
            let width = rows.filter(|_| !dense || experts == 1).map(|rows| rows / experts / groups.len() as u64);
            let fits = |width: &u64| width.checked_mul(experts).and_then(|n| n.checked_mul(groups.len() as u64)) == rows;
            let (Some(rows), Some(width)) = (rows, width.filter(fits)) else {
                let shape = tensor.dimensions.into_iter().rev().collect();
                let expected = "[1, experts, neurons, inputs] or, for a bias, [1, 1, experts, neurons]";
                return Err(Error::Shape { path: path.to_owned(), tensor: tensor.name.clone(), shape, expected });
            };
            let (format, start) = (BlockFormat::of_gguf(tensor.tensor_type), tensor.start);
            tensors.push(SiteTensor { name: tensor.name.clone(), groups, width, part, format, start, rows, inputs, columns: None });
        }
        let expert = header.tensors.iter().find(|t| t.name.contains("_exps.") || t.name.contains("_shexp.")).map(|t| t.name.clone());
        let length = header.length;
        let layout = Layout::Gguf(header, has_metadata);
        let (stacks, mixtures, names) = (Vec::new(), Mixtures::default(), Vec::new());
        Ok(Self { path: path.to_owned(), length, tensors, stacks, mixtures, names, expert, layout, supported: GGUF_SUPPORTED })
    }

    /// The changes of the header, and of the bytes between tensors, by which some tensors grow: layers of these widths by `added` neurons.
    pub(crate) fn enlarge(&self, widths: &BTreeMap<usize, u64>, added: u64, growths: &BTreeMap<&str, Growth>) -> Result<Vec<Replacement>> {
        match &self.layout {
            Layout::Safetensors(header) => {
                let replaced = safetensors_growth::enlarge(header, &self.names, growths);
                let reason = || Error::Widen { path: self.path.clone(), reason: "its tensors would exceed any file".to_owned() };
                Ok(vec![replaced.ok_or_else(reason)?])
            }
            Layout::Gguf(header, has_metadata) => {
                let metadata = if *has_metadata { gguf_growth::widen(header, widths, added) } else { Ok(Vec::new()) };
                let changes = metadata.and_then(|metadata| Ok([metadata, gguf_growth::enlarge(header, growths)?].concat()));
                changes.map_err(|problem| Error::Gguf { path: self.path.clone(), problem })
            }
        }
    }

    /// The sites with a weight in this file, with their widths.
    pub fn sites(&self) -> BTreeMap<Site, usize> {
        let weights = self.tensors.iter().filter(|tensor| tensor.part == Part::Weight);
        weights.flat_map(|t| t.sites().map(|site| (*site, usize::try_from(t.width).unwrap_or(usize::MAX)))).collect()
    }
}

fn read_header(path: &Path, source: impl BufRead, length: u64) -> Result<Header> {
    Header::read(source, length).map_err(|error| match error {
        ReadError::Io(source) => Error::Io { path: path.to_owned(), action: "read", source },
        ReadError::Problem(problem) => Error::Gguf { path: path.to_owned(), problem },
    })
}

/// Whether `ffn_up` of a model, of whose parts these are the headers, has gate and up together.
fn gate_in_up(headers: &[&Header]) -> bool {
    let architecture = headers.iter().find_map(|header| header.architecture());
    let is_gate = |name: &str| name.starts_with("blk.") && name.ends_with(".ffn_gate.weight");
    architecture.is_some_and(|a| GATE_IN_UP.contains(&a)) && !headers.iter().flat_map(|h| &h.tensors).any(|t| is_gate(&t.name))
}

/// The site of a module of a GGUF file.
fn gguf_site(module: &str) -> Option<Site> {
    let dense = module.strip_suffix("_exps").unwrap_or(module);
    Site::from_checkpoint_name(dense).filter(|_| module.starts_with("blk."))
}
