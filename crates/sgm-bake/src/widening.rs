//! MLPs with more neurons than they had: patch neurons, and zeros wherever a layer has fewer of them than others.
//!
//! A neuron is a row of `gate_proj`, one of `up_proj` and a column of `down_proj`, so one that is zero does nothing. All layers become wider by the
//! same number, because a model's configuration has one width for them all.

use std::collections::BTreeMap;

use sgm_core::{Intervention, PatchNeuron, Projection, Site};

use crate::block::{BlockFormat, SAFETENSORS_SUPPORTED, Tally};
use crate::edit::Growth;
use crate::encode::{GGUF_ENCODABLE, can_encode, encode};
use crate::site_tensors::{Layout, Part, SiteTensor, SiteTensors};
use crate::{Error, Result};

/// How all MLPs of a checkpoint become wider.
#[derive(Debug)]
pub(crate) struct Widening<'a> {
    patches: &'a BTreeMap<usize, Vec<PatchNeuron>>,
    /// The width of each layer as it is.
    pub(crate) widths: BTreeMap<usize, u64>,
    /// The number of neurons that every layer gets.
    pub(crate) added: u64,
}

/// Weights that come into a tensor, a piece after every so many of its blocks.
#[derive(Debug)]
pub(crate) struct Insertion<'a> {
    pub(crate) every: u64,
    pieces: u64,
    bytes_per_piece: u64,
    format: BlockFormat,
    neurons: &'a [PatchNeuron],
    added: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A piece is the rows of all added neurons of one of these.
    Rows(Vec<Projection>),
    /// A piece is what becomes of one row of `down_proj`.
    Columns,
    /// Added neurons have no bias.
    Zeros,
}

/// One layer's projection: its neurons and the values that each reads.
type Shapes = BTreeMap<usize, BTreeMap<Projection, (u64, u64)>>;

impl<'a> Widening<'a> {
    /// What it takes to add an intervention's neurons to a checkpoint; none if it adds none.
    ///
    /// The intervention's own shapes have been checked against the checkpoint's. The number that is added keeps widths multiples of what they were multiples of, up to `alignment`, and of what the types of
    /// `down_proj` need.
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
                let reason = format!("gate, up and down of layer {layer} have shapes {gate}, {up} and {down}, which are no gated MLP");
                return Err(refuse(reason));
            }
            widths.insert(layer, width);
        }
        let blocks = tensors(files).filter(|(_, t)| holds(t, Projection::Down) && t.part == Part::Weight).map(|(_, t)| t.format.values);
        let multiple = blocks.fold(widths.values().fold(alignment, |a, b| gcd(a, *b)), |a, b| a / gcd(a, b) * b).max(1);
        let Some(added) = (most as u64).checked_next_multiple_of(multiple) else {
            return Err(refuse(format!("{most} neurons are too many")));
        };
        for (file, tensor) in tensors(files) {
            let zeros = tensor.part == Part::Bias || !tensor.sites.iter().any(|site| patches.contains_key(&site.layer));
            let (known, supported) = match file.layout {
                Layout::Safetensors(_) => (tensor.format.is_float(), SAFETENSORS_SUPPORTED),
                // All bits 0 are the number 0 in every type of these.
                Layout::Gguf(_) => (zeros || can_encode(&tensor.format), GGUF_ENCODABLE),
            };
            if !known {
                let (path, tensor, got) = (file.path.clone(), tensor.name.clone(), tensor.format.name.to_owned());
                return Err(Error::Encode { path, tensor, got, supported });
            }
        }
        Ok(Some(Self { patches, widths, added }))
    }

    /// What comes into a tensor: weights of sites, and biases of gate and up.
    pub(crate) fn insertion(&self, tensor: &SiteTensor) -> Option<Insertion<'a>> {
        let layer = tensor.sites.first()?.layer;
        let neurons = self.patches.get(&layer).map_or(&[][..], Vec::as_slice);
        let (format, added) = (tensor.format, self.added);
        let blocks_per_row = tensor.inputs / format.values;
        let by_site = (tensor.width * blocks_per_row, tensor.sites.len() as u64, added * blocks_per_row);
        let (what, (every, pieces, blocks)) = match (tensor.part, holds(tensor, Projection::Down)) {
            (Part::Weight, true) => (What::Columns, (blocks_per_row, tensor.rows, added / format.values)),
            (Part::Weight, false) => (What::Rows(tensor.sites.iter().map(|site| site.projection).collect()), by_site),
            (Part::Bias, false) => (What::Zeros, by_site),
            (Part::Bias, true) => return None,
        };
        Some(Insertion { every, pieces, bytes_per_piece: blocks * format.bytes, format, neurons, added, what })
    }

    /// The number of patch neurons of each layer that has some.
    pub(crate) fn neurons(&self) -> BTreeMap<usize, usize> {
        self.patches.iter().map(|(layer, neurons)| (*layer, neurons.len())).collect()
    }
}

impl Insertion<'_> {
    pub(crate) fn growth(&self) -> Growth {
        let bytes = self.pieces.saturating_mul(self.bytes_per_piece);
        match &self.what {
            What::Columns => Growth { bytes, rows: 0, columns: self.added },
            What::Rows(_) | What::Zeros => Growth { bytes, rows: self.added.saturating_mul(self.pieces), columns: 0 },
        }
    }

    /// The bytes of one piece. Errors of rounding go to the tally.
    pub(crate) fn piece(&self, number: u64, tally: &mut Tally) -> Vec<u8> {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        let mut bytes = vec![0; usize::try_from(self.bytes_per_piece).unwrap_or(0)];
        match &self.what {
            What::Columns => {
                let mut row = vec![0.0; usize::try_from(self.added).unwrap_or(0)];
                for (neuron, at) in self.neurons.iter().zip(self.places()) {
                    if let (Some(to), Some(value)) = (row.get_mut(at), neuron.down.get(number)) {
                        *to = *value;
                    }
                }
                // No neurons, or none that have something to say here, are zeros in any type.
                if row.iter().any(|value| *value != 0.0) {
                    self.store(&row, &mut bytes, tally);
                }
            }
            What::Rows(projections) => {
                let size = bytes.len() / usize::try_from(self.added).unwrap_or(usize::MAX).max(1);
                for (neuron, at) in self.neurons.iter().zip(self.places()) {
                    let weights = neuron.weights().into_iter().find(|(p, _)| Some(p) == projections.get(number));
                    if let (Some((_, values)), Some(to)) = (weights, bytes.get_mut(at * size..(at + 1) * size)) {
                        self.store(values, to, tally);
                    }
                }
            }
            What::Zeros => {}
        }
        bytes
    }

    /// Where the neurons stand among those that are added: as far from each other as they can, so that few share a block.
    fn places(&self) -> impl Iterator<Item = usize> {
        (0..).step_by((usize::try_from(self.added).unwrap_or(usize::MAX) / self.neurons.len().max(1)).max(1))
    }

    fn store(&self, values: &[f32], to: &mut [u8], tally: &mut Tally) {
        let Some((bytes, stored)) = encode(&self.format, values).filter(|(bytes, _)| bytes.len() == to.len()) else { return };
        to.copy_from_slice(&bytes);
        values.iter().zip(stored).for_each(|(exact, stored)| tally.count_added(*exact, stored));
    }
}

fn tensors(files: &[SiteTensors]) -> impl Iterator<Item = (&SiteTensors, &SiteTensor)> {
    files.iter().flat_map(|file| file.tensors.iter().map(move |tensor| (file, tensor)))
}

fn holds(tensor: &SiteTensor, projection: Projection) -> bool {
    tensor.sites.iter().any(|site| site.projection == projection)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The shapes of all weights of MLPs, of which there has to be one for each site, however often a checkpoint holds it.
fn shapes(files: &[SiteTensors]) -> Result<Shapes> {
    let mut shapes = Shapes::new();
    for file in files {
        if let Some(tensor) = &file.expert {
            return Err(Error::Widen { path: file.path.clone(), reason: format!("{tensor} belongs to a mixture of experts") });
        }
    }
    for (file, tensor) in tensors(files).filter(|(_, tensor)| tensor.part == Part::Weight) {
        for Site { layer, projection } in &tensor.sites {
            let shape = (tensor.width, tensor.inputs);
            let first = *shapes.entry(*layer).or_default().entry(*projection).or_insert(shape);
            if first != shape {
                let reason = format!("{} has not the shape that another tensor of the same name has", tensor.name);
                return Err(Error::Widen { path: file.path.clone(), reason });
            }
        }
    }
    for (file, tensor) in tensors(files).filter(|(_, tensor)| tensor.part == Part::Bias) {
        let fits =
            |site: &Site| shapes.get(&site.layer).and_then(|l| l.get(&site.projection)).is_some_and(|(width, _)| *width == tensor.width);
        if !tensor.sites.iter().all(fits) {
            let expected = "one value for each neuron of the weight";
            return Err(Error::Shape { path: file.path.clone(), tensor: tensor.name.clone(), shape: vec![tensor.rows], expected });
        }
    }
    Ok(shapes)
}
