//! From an intervention to the rows of files that it changes.

use std::collections::BTreeMap;

use sgm_core::{Intervention, Site, SiteIntervention};
use sgm_suppress::Amplify;

use crate::block::{BlockFormat, Change};
use crate::site_tensors::{Part, SiteTensor, SiteTensors};
use crate::{Error, Result};

/// Rows of a file that are to be scaled.
#[derive(Debug)]
pub(crate) struct Patch {
    pub(crate) tensor: String,
    /// The sites whose neurons change.
    pub(crate) sites: Vec<Site>,
    pub(crate) format: BlockFormat,
    /// Bytes from the beginning of the file.
    pub(crate) start: u64,
    pub(crate) rows: u64,
    pub(crate) blocks_per_row: u64,
    /// What happens to the rows, again and again until all have had their turn.
    pub(crate) changes: Vec<Change>,
}

impl Patch {
    /// The bytes of all rows.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows * self.blocks_per_row * self.format.bytes
    }

    /// The number of rows that change.
    pub(crate) fn changed_rows(&self) -> u64 {
        let changed = self.changes.iter().filter(|change| **change != Change::NONE).count() as u64;
        changed * (self.rows / (self.changes.len() as u64).max(1))
    }
}

/// Refuses interventions that may not, or cannot, go into any weights.
pub(crate) fn check(intervention: &Intervention, amplify: Amplify) -> Result<()> {
    if let (Amplify::Refuse, Some(a)) = (amplify, intervention.amplification()) {
        return Err(Error::Amplifies { site: a.site.to_string(), neuron: a.neuron, scale: a.scale });
    }
    if let Some(layer) = intervention.patches().keys().next() {
        return Err(Error::AddsNeurons { layer: *layer });
    }
    match &intervention.metadata.positions {
        Some(positions) if positions != "all" => Err(Error::Positions { positions: positions.clone() }),
        _ => Ok(()),
    }
}

/// The patches of each file of a checkpoint, in the order of the file.
pub(crate) fn patches(files: &[SiteTensors], intervention: &Intervention) -> Result<Vec<Vec<Patch>>> {
    let changed = |site: &Site| intervention.sites().get(site).is_some_and(changes_anything);
    for (file, tensor) in tensors(files) {
        let scalable = if tensor.part == Part::Bias { tensor.format.is_float() } else { tensor.format.can_scale() };
        if !scalable && tensor.sites.iter().any(changed) {
            let (path, tensor, got) = (file.path.clone(), tensor.name.clone(), tensor.format.name.to_owned());
            return Err(Error::TensorType { path, tensor, got, supported: file.supported });
        }
    }
    unambiguous(files, intervention)?;
    let widths: BTreeMap<Site, usize> = files.iter().flat_map(SiteTensors::sites).collect();
    intervention.check_against(&widths)?;
    for (site, _) in intervention.sites().iter().filter(|(_, s)| shifts(s)) {
        let has_bias = tensors(files).any(|(_, t)| t.part == Part::Bias && t.sites.contains(site));
        if !has_bias {
            return Err(Error::NoBias { site: site.to_string() });
        }
    }
    let of_file = |file: &SiteTensors| {
        let patches = file.tensors.iter().filter_map(|tensor| patch(file, tensor, intervention).transpose());
        let mut patches = patches.collect::<Result<Vec<_>>>()?;
        patches.sort_by_key(|patch| patch.start);
        Ok(patches)
    };
    files.iter().map(of_file).collect()
}

fn tensors(files: &[SiteTensors]) -> impl Iterator<Item = (&SiteTensors, &SiteTensor)> {
    files.iter().flat_map(|file| file.tensors.iter().map(move |tensor| (file, tensor)))
}

/// Checks that each site of the intervention is one module of the checkpoint.
///
/// The same module in two files is meant to be the same weights: some checkpoints have them in one file and in shards too.
fn unambiguous(files: &[SiteTensors], intervention: &Intervention) -> Result<()> {
    let mut modules: BTreeMap<Site, &str> = BTreeMap::new();
    for (_, tensor) in tensors(files) {
        let module = |name: &str| name.rsplit_once('.').map(|(module, _)| module.to_owned());
        for site in tensor.sites.iter().filter(|site| intervention.sites().contains_key(site)) {
            let first = *modules.entry(*site).or_insert(&tensor.name);
            if module(first) != module(&tensor.name) {
                return Err(Error::Ambiguous { site: site.to_string(), first: first.to_owned(), second: tensor.name.clone() });
            }
        }
    }
    Ok(())
}

/// What an intervention does to the rows of a tensor, if anything.
fn patch(file: &SiteTensors, tensor: &SiteTensor, intervention: &Intervention) -> Result<Option<Patch>> {
    let width = usize::try_from(tensor.width).unwrap_or(usize::MAX);
    let mut sites = Vec::new();
    for site in &tensor.sites {
        let Some(wanted) = intervention.sites().get(site) else { continue };
        if wanted.scale.len() != width {
            // The weight has the right width, so this is a bias.
            let expected = "one value for each neuron of the weight";
            return Err(Error::Shape { path: file.path.clone(), tensor: tensor.name.clone(), shape: vec![tensor.rows], expected });
        }
        if changes_anything(wanted) {
            sites.push(*site);
        }
    }
    // Nothing is allocated by a width that the file claims and no site has.
    if sites.is_empty() {
        return Ok(None);
    }
    let mut changes = Vec::new();
    for site in &tensor.sites {
        match intervention.sites().get(site) {
            None => changes.extend(std::iter::repeat_n(Change::NONE, width)),
            Some(wanted) => changes.extend(wanted.scale.iter().enumerate().map(|(neuron, scale)| {
                let shift = wanted.shift.as_ref().and_then(|shift| shift.get(neuron)).copied();
                let shift = shift.filter(|_| tensor.part == Part::Bias).unwrap_or(0.0);
                Change { scale: *scale, shift }
            })),
        }
    }
    if changes.iter().all(|change| *change == Change::NONE) {
        return Ok(None);
    }
    let (format, start, rows) = (tensor.format, tensor.start, tensor.rows);
    let blocks_per_row = tensor.inputs / format.values;
    Ok(Some(Patch { tensor: tensor.name.clone(), sites, format, start, rows, blocks_per_row, changes }))
}

fn changes_anything(site: &SiteIntervention) -> bool {
    site.scale.iter().any(|scale| *scale != 1.0) || shifts(site)
}

pub(crate) fn shifts(site: &SiteIntervention) -> bool {
    site.shift.iter().flatten().any(|shift| *shift != 0.0)
}
