//! The widening of a checkpoint's MLPs by patch neurons, and by zeros in layers that get fewer of them than others.
//!
//! A neuron is a row of `gate_proj`, a row of `up_proj` and a column of `down_proj`; a neuron of zeros has no effect. All layers become
//! wider by the same number of neurons, because a model's configuration has one width for all of them.

use std::collections::BTreeMap;

use sgm_core::{Intervention, PatchNeuron, Projection, Site};

use crate::block::SAFETENSORS_SUPPORTED;
use crate::encode::{GGUF_ENCODABLE, can_encode};
use crate::insertion::{Insertion, What};
use crate::site_tensor::{Part, SiteTensor};
use crate::site_tensors::{Layout, SiteTensors};
use crate::{Error, Result};

/// The widening of all MLPs of a checkpoint.
#[derive(Debug)]
pub(crate) struct Widening<'a> {
    patches: &'a BTreeMap<usize, Vec<PatchNeuron>>,
    /// The width of each layer in the original.
    pub(crate) widths: BTreeMap<usize, u64>,
    /// The number of neurons added to every layer.
    pub(crate) added: u64,
}

/// The number of neurons, and of inputs of each, by layer and projection.
type Shapes = BTreeMap<usize, BTreeMap<Projection, (u64, u64)>>;

impl<'a> Widening<'a> {
    /// The widening of a checkpoint by an intervention's patch neurons; none if it has none.
    ///
    /// The intervention must have been checked against the checkpoint's shapes. The number of added neurons keeps the divisibility of
    /// widths up to `alignment`, and fills whole blocks of the types of `down_proj`.
    pub(crate) fn new(files: &[SiteTensors], intervention: &'a Intervention, alignment: u64) -> Result<Option<Self>> {
        let patches = intervention.patches();
        let Some(most) = patches.values().map(Vec::len).max() else { return Ok(None) };
        let Some(path) = files.first().map(|file| &file.path) else { return Ok(None) };
        let refuse = |reason| Error::Widen { path: path.clone(), reason };
        let mut widths = BTreeMap::new();
        for (layer, shapes) in shapes(files)? {
            let shape = |projection| shapes.get(&projection).copied();
            let (width, hidden) = shape(Projection::Gate).unwrap_or_default();
            if [Projection::Up, Projection::Down].map(shape) != [Some((width, hidden)), Some((hidden, width))] {
                let shape = |projection| shape(projection).map_or("none".to_owned(), |(rows, inputs)| format!("[{rows}, {inputs}]"));
                let [gate, up, down] = Projection::ALL.map(shape);
                let reason =
                    format!("gate, up and down of layer {layer} have shapes {gate}, {up} and {down}, which are not those of a gated MLP");
                return Err(refuse(reason));
            }
            widths.insert(layer, width);
        }
        let blocks = tensors(files).filter(|(_, t)| t.holds(Projection::Down) && t.part == Part::Weight).map(|(_, t)| t.format.values);
        let multiple = blocks.fold(widths.values().fold(alignment, |a, b| gcd(a, *b)), |a, b| a / gcd(a, b) * b).max(1);
        let Some(added) = (most as u64).checked_next_multiple_of(multiple) else {
            return Err(refuse(format!("{most} neurons are too many")));
        };
        for (file, tensor) in tensors(files) {
            let zeros = tensor.part == Part::Bias || !tensor.sites().any(|site| patches.contains_key(&site.layer));
            let (known, supported) = match file.layout {
                Layout::Safetensors(_) => (tensor.format.is_float(), SAFETENSORS_SUPPORTED),
                // A block of zero bits decodes to zeros in every GGUF type.
                Layout::Gguf(..) => (zeros || can_encode(&tensor.format), GGUF_ENCODABLE),
            };
            if !known {
                let (path, tensor, got) = (file.path.clone(), tensor.name.clone(), tensor.format.name.to_owned());
                return Err(Error::Encode { path, tensor, got, supported });
            }
        }
        Ok(Some(Self { patches, widths, added }))
    }

    /// The weights inserted into a tensor: a weight of a site, or a bias of gate or up.
    pub(crate) fn insertion(&self, tensor: &SiteTensor) -> Option<Insertion<'a>> {
        let layer = tensor.sites().next()?.layer;
        let neurons = self.patches.get(&layer).map_or(&[][..], Vec::as_slice);
        let (format, added) = (tensor.format, self.added);
        let blocks_per_row = tensor.inputs / format.values;
        let by_site = (tensor.width * blocks_per_row, tensor.groups.len() as u64, added * blocks_per_row);
        let (what, (every, pieces, blocks)) = match (tensor.part, tensor.holds(Projection::Down)) {
            (Part::Weight, true) => (What::Columns, (blocks_per_row, tensor.rows, added / format.values)),
            (Part::Weight, false) => (What::Rows(tensor.sites().map(|site| site.projection).collect()), by_site),
            (Part::Bias, false) => (What::Zeros, by_site),
            (Part::Bias, true) => return None,
        };
        Some(Insertion { every, pieces, bytes_per_piece: blocks * format.bytes, format, neurons, added, what })
    }

    /// The number of patch neurons of each layer that has any.
    pub(crate) fn neurons(&self) -> BTreeMap<usize, usize> {
        self.patches.iter().map(|(layer, neurons)| (*layer, neurons.len())).collect()
    }
}

fn tensors(files: &[SiteTensors]) -> impl Iterator<Item = (&SiteTensors, &SiteTensor)> {
    files.iter().flat_map(|file| file.tensors.iter().map(move |tensor| (file, tensor)))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The shapes of all MLP weights. A site that occurs several times in a checkpoint must have one shape.
fn shapes(files: &[SiteTensors]) -> Result<Shapes> {
    let mut shapes = Shapes::new();
    for file in files {
        if let Some(tensor) = &file.expert {
            return Err(Error::Widen { path: file.path.clone(), reason: format!("{tensor} belongs to a mixture of experts") });
        }
    }
    for (file, tensor) in tensors(files).filter(|(_, tensor)| tensor.part == Part::Weight) {
        for Site { layer, projection, .. } in tensor.sites() {
            let shape = (tensor.width, tensor.inputs);
            let first = *shapes.entry(*layer).or_default().entry(*projection).or_insert(shape);
            if first != shape {
                let reason = format!("{} has another shape than another tensor of the same name", tensor.name);
                return Err(Error::Widen { path: file.path.clone(), reason });
            }
        }
    }
    for (file, tensor) in tensors(files).filter(|(_, tensor)| tensor.part == Part::Bias) {
        let fits =
            |site: &Site| shapes.get(&site.layer).and_then(|l| l.get(&site.projection)).is_some_and(|(width, _)| *width == tensor.width);
        if !tensor.sites().all(fits) {
            let expected = "one value for each neuron of the weight";
            return Err(Error::Shape { path: file.path.clone(), tensor: tensor.name.clone(), shape: vec![tensor.rows], expected });
        }
    }
    Ok(shapes)
}
