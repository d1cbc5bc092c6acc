//! The plan of folding an intervention into a checkpoint: the edits of each file.

use std::collections::BTreeMap;

use sgm_core::{Amplify, Intervention, Site, SiteIntervention, TokenSelection};

use crate::block::Change;
use crate::edit::{Edit, TensorEdit};
use crate::site_tensor::{Part, SiteTensor};
use crate::site_tensors::SiteTensors;
use crate::widening::Widening;
use crate::{Error, Result};

/// The options of baking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether scales above 1 or below 0 are allowed.
    pub amplify: Amplify,
    /// The divisibility of widths that MLPs keep when neurons are added, 64 by default: a width of 11,008 = 64 * 172 becomes another
    /// multiple of 64, a width of 100 a multiple of 4. Tensor parallelism and block types need it. At 1 the fewest zeros are added.
    pub alignment: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { amplify: Amplify::Refuse, alignment: 64 }
    }
}

/// The edits of a checkpoint.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// The edits of each file, by position.
    pub(crate) edits: Vec<Vec<Edit<'a>>>,
    pub(crate) widening: Option<Widening<'a>>,
}

/// Checks that an intervention is allowed and can be folded into weights at all.
pub(crate) fn check(intervention: &Intervention, amplify: Amplify) -> Result<()> {
    if let (Amplify::Refuse, Some(a)) = (amplify, intervention.amplification()) {
        return Err(Error::Amplifies { site: a.site.to_string(), neuron: a.neuron, scale: a.scale });
    }
    match intervention.tokens {
        tokens if tokens != TokenSelection::All => Err(Error::Tokens { tokens }),
        _ => Ok(()),
    }
}

/// The edits that fold an intervention into the files of a checkpoint; widths keep their divisibility up to `alignment`.
pub(crate) fn plan<'a>(files: &[SiteTensors], intervention: &'a Intervention, alignment: u64) -> Result<Plan<'a>> {
    let changed = |site: &Site| intervention.sites().get(site).is_some_and(changes_anything);
    for (file, tensor) in tensors(files) {
        let scalable = if tensor.part == Part::Bias { tensor.format.is_float() } else { tensor.format.can_scale() };
        if !scalable && tensor.sites().any(changed) {
            let (path, tensor, got) = (file.path.clone(), tensor.name.clone(), tensor.format.name.to_owned());
            return Err(Error::TensorType { path, tensor, got, supported: file.supported });
        }
    }
    unambiguous(files, intervention)?;
    let widths: BTreeMap<Site, usize> = files.iter().flat_map(SiteTensors::sites).collect();
    intervention.check_against(&widths)?;
    for (site, _) in intervention.sites().iter().filter(|(_, s)| shifts(s)) {
        let has_bias = tensors(files).any(|(_, t)| t.part == Part::Bias && t.sites().any(|held| held == site));
        if !has_bias {
            return Err(Error::NoBias { site: site.to_string() });
        }
    }
    let widening = Widening::new(files, intervention, alignment)?;
    let edits = files.iter().map(|file| edits(file, intervention, widening.as_ref())).collect::<Result<Vec<_>>>()?;
    Ok(Plan { edits, widening })
}

/// The edits of a file.
fn edits<'a>(file: &SiteTensors, intervention: &Intervention, widening: Option<&Widening<'a>>) -> Result<Vec<Edit<'a>>> {
    let tensors = file.tensors.iter().filter_map(|tensor| edit(file, tensor, intervention, widening).transpose());
    let mut edits = tensors.map(|tensor| Ok(Edit::Tensor(Box::new(tensor?)))).collect::<Result<Vec<_>>>()?;
    if let Some(widening) = widening {
        let grown = edits.iter().filter_map(Edit::tensor).filter_map(|t| Some((t.tensor.as_str(), t.insertion.as_ref()?.growth())));
        let header = file.enlarge(&widening.widths, widening.added, &grown.collect())?;
        edits.extend(header.into_iter().map(Edit::Replace));
    }
    edits.sort_by_key(Edit::place);
    Ok(edits)
}

fn tensors(files: &[SiteTensors]) -> impl Iterator<Item = (&SiteTensors, &SiteTensor)> {
    files.iter().flat_map(|file| file.tensors.iter().map(move |tensor| (file, tensor)))
}

/// Checks that each site of the intervention is one module of the checkpoint, or the experts of one mixture.
///
/// A module may occur in two files: some checkpoints have the same weights in one file and in shards.
fn unambiguous(files: &[SiteTensors], intervention: &Intervention) -> Result<()> {
    let mut modules: BTreeMap<Site, &str> = BTreeMap::new();
    for (_, tensor) in tensors(files) {
        let mixture = |name: &str| [".experts.", ".shared_expert."].iter().find_map(|of| Some(name.split_once(of)?.0.to_owned()));
        let module = |name: &str| mixture(name).or_else(|| name.rsplit_once('.').map(|(module, _)| module.to_owned()));
        // Added neurons widen every layer.
        for site in tensor.sites().filter(|site| intervention.sites().contains_key(site) || !intervention.patches().is_empty()) {
            let first = *modules.entry(*site).or_insert(&tensor.name);
            if module(first) != module(&tensor.name) {
                return Err(Error::Ambiguous { site: site.to_string(), first: first.to_owned(), second: tensor.name.clone() });
            }
        }
    }
    Ok(())
}

/// The edit of a tensor; none if the intervention does not change it.
fn edit<'a>(
    file: &SiteTensors,
    tensor: &SiteTensor,
    intervention: &Intervention,
    widening: Option<&Widening<'a>>,
) -> Result<Option<TensorEdit<'a>>> {
    let width = usize::try_from(tensor.width).unwrap_or(usize::MAX);
    let mut sites = Vec::new();
    for site in tensor.sites() {
        let Some(wanted) = intervention.sites().get(site) else { continue };
        if wanted.scale.len() != width {
            // The weight has the right width, so this is a bias.
            let expected = "one value for each neuron of the weight";
            return Err(Error::Shape { path: file.path.clone(), tensor: tensor.name.clone(), shape: vec![tensor.rows], expected });
        }
        if changes_anything(wanted) && !sites.contains(site) {
            sites.push(*site);
        }
    }
    let mut changes = Vec::new();
    // Allocated only if the width equals that of the intervention.
    for group in tensor.groups.iter().filter(|_| !sites.is_empty()) {
        let start = changes.len();
        changes.resize(start + width, Change::NONE);
        for wanted in group.iter().filter_map(|site| intervention.sites().get(site)) {
            for (neuron, (change, scale)) in changes.iter_mut().skip(start).zip(&wanted.scale).enumerate() {
                let shift = wanted.shift.as_ref().and_then(|shift| shift.get(neuron)).copied();
                let shift = shift.filter(|_| tensor.part == Part::Bias).unwrap_or(0.0);
                *change = Change { scale: change.scale * scale, shift: change.shift * scale + shift };
            }
        }
    }
    if changes.iter().all(|change| *change == Change::NONE) {
        changes.clear();
    }
    let insertion = widening.and_then(|widening| widening.insertion(tensor));
    if changes.is_empty() && insertion.is_none() {
        return Ok(None);
    }
    if insertion.is_some() {
        sites = tensor.sites().copied().collect();
    }
    let (format, start, rows, columns) = (tensor.format, tensor.start, tensor.rows, tensor.columns);
    let blocks_per_row = tensor.inputs / format.values;
    Ok(Some(TensorEdit { tensor: tensor.name.clone(), sites, format, start, rows, blocks_per_row, changes, columns, insertion }))
}

fn changes_anything(site: &SiteIntervention) -> bool {
    site.scale.iter().any(|scale| *scale != 1.0) || shifts(site)
}

pub(crate) fn shifts(site: &SiteIntervention) -> bool {
    site.shift.iter().flatten().any(|shift| *shift != 0.0)
}
